"""onnxruntime sessions, and the proof that the unpruned model runs at all.

`Session` hides how a model reaches onnxruntime (file, bytes, bytes plus a folder of external data,
or a temporary file where protobuf's 2 GB do not suffice) and turns its errors into one line.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.bindings import RUNGS, default_bindings
from graphprune.onnx.checks import one_line
from graphprune.onnx.feeds import ATTEMPTS, has_free_scalars, random_feeds
from graphprune.onnx.handover import handed_over
from graphprune.onnx.load import stored_tensors

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

PROTOBUF_LIMIT = 1_900_000_000
"""Bytes of tensors up to which a model is handed over in memory; protobuf ends at 2 GiB."""


class Session:
    """An onnxruntime session of a model.

    Args:
        model: A graph, or the path of a file.
        threads: Threads within an operator; operators run one after another.
        provider: An execution provider of the installed onnxruntime. UsageError for an unknown one.
        optimize: Let onnxruntime fuse and rearrange the graph. False to compare tensors by name.
        outputs: Further values of the top graph to return, by name (a graph in memory only).
        lean: Keep memory low: no fusions, no rearranged copies of weights, so that external data
            stays mapped. Slower.
        arena: Keep memory of activations for the next run, as onnxruntime does by default: for
            timing, and where a session runs for many batches and is closed then. Else it is given
            back, of which there is much where sessions are many.

    Raises:
        UnsupportedModelError: onnxruntime does not load the model; the message names the node.

    A temporary file lives until `close` (or the end of a `with` block, or garbage collection).
    """

    def __init__(
        self,
        model: ir.Model | str | Path,
        *,
        threads: int = 1,
        provider: str = "CPUExecutionProvider",
        optimize: bool = True,
        outputs: Sequence[str] = (),
        lean: bool = False,
        arena: bool = False,
    ) -> None:
        import onnxruntime as ort

        if provider not in ort.get_available_providers():
            raise UsageError(
                f"onnxruntime has no provider '{provider}' here; it has "
                f"{', '.join(ort.get_available_providers())}"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if optimize and not lean else level.ORT_DISABLE_ALL
        )
        if lean or not (optimize and arena):  # without fusions, room of all values would be kept
            options.enable_cpu_mem_arena = False
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_mem_pattern = False
            # The default order first computes all that depends on weights alone.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._weights: Mapping[str, Any] = {}
        if isinstance(model, ir.Model):
            with _extended(model, outputs):
                source: bytes | str = self._source(model, options)
        elif outputs:
            raise ValueError("extra outputs need a graph in memory, not a file")
        else:
            source = str(model)
        try:
            self._session = ort.InferenceSession(source, options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions share no base class
            self.close()
            raise UnsupportedModelError(
                f"onnxruntime cannot load the model: {runtime_message(error)}"
            ) from error
        self.input_names: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises UnsupportedModelError naming the node that failed."""
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:
            raise UnsupportedModelError(
                f"onnxruntime cannot run the model: {runtime_message(error)}"
            ) from error
        return dict(zip(self.output_names, results, strict=True))

    @property
    def native(self) -> Any:
        """The `onnxruntime.InferenceSession` itself, until `close`."""
        return self._session

    def close(self) -> None:
        """Let go of onnxruntime's memory and of a temporary file."""
        self._session = None
        self._weights = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _source(self, model: ir.Model, options: Any) -> bytes | str:
        """Bytes or a path for onnxruntime."""
        tensors = list(stored_tensors(model))
        folders = {str(t.base_dir) for t in tensors if isinstance(t, ir.ExternalTensor)}
        embedded = sum(t.nbytes for t in tensors if not isinstance(t, ir.ExternalTensor))
        if embedded < PROTOBUF_LIMIT and len(folders) <= 1:  # else written one by one, and mapped
            if folders:  # external data stays in its files, onnxruntime maps it
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", folders.pop()
                )
            with handed_over(model) as weights:
                options.add_external_initializers(list(weights), list(weights.values()))
                self._weights = weights
                data: bytes = ir.to_proto(model).SerializeToString()
                return data
        self._folder = tempfile.TemporaryDirectory(prefix="graphprune-")
        path = Path(self._folder.name, "model.onnx")
        try:
            ir.save(model, path, external_data="model.onnx.data")
        except OSError as error:
            self.close()
            raise UsageError(
                f"no room for a temporary copy of the model in {tempfile.gettempdir()}: "
                f"{error.strerror}"
            ) from error
        return str(path)


@contextmanager
def _extended(model: ir.Model, names: Sequence[str]) -> Iterator[None]:
    """Further graph outputs for as long as the model is written: a copy of it would cost more."""
    graph = model.graph
    present = {v.name for v in graph.outputs}
    extra = [n for n in dict.fromkeys(names) if n not in present]
    values: dict[str | None, ir.Value] = {}
    if extra:
        values = {o.name: o for node in graph for o in node.outputs}
        values.update({v.name: v for v in graph.inputs})
        values.update(graph.initializers.items())
    for name in extra:
        if name not in values:
            raise ValueError(f"the graph has no value '{name}'")
    shapes = {name: values[name].shape for name in extra}
    count = len(graph.outputs)
    try:
        for name in extra:
            value = values[name]
            if value.producer() is not None:
                value.shape = None  # what stands in the file may be stale; onnxruntime infers it
            graph.outputs.append(value)
        yield
    finally:
        while len(graph.outputs) > count:
            graph.outputs.pop()  # del leaves the value marked as an output
        for name, shape in shapes.items():
            values[name].shape = shape


_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def runtime_message(error: BaseException) -> str:
    """onnxruntime's message on one line, without its prefix and without source positions."""
    text = _STATUS.sub("", one_line(error))
    named = re.search(r"running (\w+) node\. Name:'([^']*)' Status Message: (.*)", text)
    if named:
        text = f"node '{named[2]}' ({named[1]}): {named[3]}"
    text = re.sub(r"/\S+\.(?:cc|h):\d+ ", "", text)
    return text


@dataclass(frozen=True, eq=False)
class Trial:
    """A run of the unpruned model that worked.

    Attributes:
        binding: The sizes of its dynamic dimensions.
        feeds: What was fed.
        outputs: What came out.
    """

    binding: Mapping[str, int]
    feeds: Feeds
    outputs: Mapping[str, Array]


def check_runs(model: ir.Model, binding: Mapping[str, int], seed: int = 0) -> Feeds:
    """Run the unpruned model once at `binding`; returns inputs that work.

    Raises UnsupportedModelError when onnxruntime does not load or run it: a model that never worked
    is not to be blamed on pruning.
    """
    with Session(model, lean=_is_large(model)) as session:
        return try_run(session, model, binding, seed).feeds


def find_trials(
    model: ir.Model,
    overrides: Mapping[str, int] | None = None,
    seed: int = 0,
    session: Session | None = None,
) -> tuple[Trial, Trial]:
    """Two bindings at which the unpruned model runs, with inputs and outputs.

    Tries the sizes of `bindings.RUNGS` in order, small first. Where no second size works (a model
    that takes one window length only), the second trial differs in the batch, or else only in its
    random inputs.

    Args:
        model: The unpruned model.
        overrides: Sizes given by the user.
        seed: Of the random inputs.
        session: A session of `model`, where there is one already.

    Raises:
        UnsupportedModelError: It runs at none of the sizes.
        UsageError: An override names no dynamic dimension of the model.
    """
    if session is None:
        with Session(model, lean=_is_large(model)) as own:
            return find_trials(model, overrides, seed, own)
    failure: UnsupportedModelError | None = None
    tried: list[dict[str, int]] = []
    for rung in range(len(RUNGS)):
        first, second = default_bindings(model, overrides, rung)
        if first in tried:
            continue
        tried.append(first)
        try:
            trial = try_run(session, model, first, seed)
        except UnsupportedModelError as error:
            failure = failure or error
            continue
        batch_only = {n: second[n] if second[n] <= 3 else first[n] for n in first}
        for binding in (second, batch_only, first):
            try:
                return trial, try_run(session, model, binding, seed + 1)
            except UnsupportedModelError as error:
                failure = error
    assert failure is not None
    if len(tried) == 1:
        raise failure
    sizes = "; ".join(", ".join(f"{n}={s}" for n, s in b.items()) for b in tried)
    raise UnsupportedModelError(
        f"{failure} (tried {sizes}: if the model needs other sizes, give them with --dim NAME=SIZE)"
    ) from failure


def _is_large(model: ir.Model) -> bool:
    return sum(t.nbytes for t in stored_tensors(model)) > PROTOBUF_LIMIT


def try_run(session: Session, model: ir.Model, binding: Mapping[str, int], seed: int) -> Trial:
    """Run at `binding` on random inputs. Raises UnsupportedModelError where that does not work."""
    attempts = ATTEMPTS if has_free_scalars(model) else 1
    failure: UnsupportedModelError | None = None
    for attempt in range(attempts):
        feeds = random_feeds(model, binding, seed, attempt=attempt)
        try:
            return Trial(dict(binding), feeds, session.run(feeds))
        except UnsupportedModelError as error:
            failure = failure or error
    assert failure is not None
    raise failure


__all__ = ["PROTOBUF_LIMIT", "Session", "Trial", "check_runs", "find_trials", "try_run"]
