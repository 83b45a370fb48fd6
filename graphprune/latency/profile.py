"""What each node of the graph that onnxruntime really runs takes, told by nodes of the original.

onnxruntime fuses and rewrites a graph before it runs it. Its profiler names the nodes of the result.
Each is given back to a node of the model: by its name, which onnxruntime builds from those of the
nodes it replaces, or by the tensor that it makes or reads. What cannot be given back is kept under
no name.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.costs import mac_rule
from graphprune.onnx.runtime import runtime_message
from graphprune.rules.context import is_weight, node_name
from graphprune.rules.onnx._macs import MACS
from graphprune.rules.registry import no_macs

Array = np.ndarray[Any, Any]

UNNAMED = ""
"""Time of nodes that belong to no node of the model."""

_MARK = re.compile(r"gp(\d+)x")
_CONTRACTIONS = frozenset(op for _, op in MACS)
_SECONDS = 0.6
_RUNS = (8, 200)


def profile(
    model: ir.Model,
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    seconds: float = _SECONDS,
) -> dict[str, float]:
    """Milliseconds of each node of `model` in one run, by node name; medians over runs.

    Args:
        model: A graph in memory, canonical or pruned.
        feeds: Inputs.
        threads: Of onnxruntime.
        provider: Its execution provider.
        seconds: Of running, at least eight runs.

    Raises:
        UnsupportedModelError: onnxruntime does not load or run it.
    """
    copy = model.clone()
    marked = _Marked(copy)
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        events, graph = _run(copy, feeds, Path(folder), threads, provider, seconds)
    owners = {n.name: marked.owner(n) for n in graph.node}
    found: dict[str, float] = {}
    for name, times in events.items():
        owner = owners.get(name, UNNAMED)
        found[owner] = found.get(owner, 0.0) + median(times) / 1e3
    return found


class _Marked:
    """A model whose nodes and tensors are renamed, so that names onnxruntime makes tell of them.

    Args:
        model: Renamed in place.
    """

    def __init__(self, model: ir.Model) -> None:
        self._names: list[str] = []
        self._nodes = list(model.graph)
        self._heavy: set[int] = set()
        kept = {v.name for v in (*model.graph.outputs, *model.graph.inputs)}
        self._kept: dict[str, int] = {}
        for i, node in enumerate(self._nodes):
            self._names.append(node_name(node))
            node.name = f"gp{i}x"
            if mac_rule(model, node) not in (None, no_macs):
                self._heavy.add(i)
                for k, value in enumerate(node.inputs):
                    if value is None or not is_weight(value) or value.name in kept:
                        continue
                    if not _MARK.search(value.name or ""):
                        value.name = f"gp{i}x_weight{k}"
            for k, value in enumerate(node.outputs):
                if value.name in kept:
                    self._kept[value.name or ""] = i
                else:
                    value.name = f"gp{i}x_{k}"
        self._numbers = {node: i for i, node in enumerate(self._nodes)}

    def owner(self, node: onnx.NodeProto) -> str:
        """The model's node that one of the optimised graph stands for; empty where none is found.

        A contraction's weights tell best: its output may be that of what was fused behind it.
        """
        weights = [t for t in node.input if "_weight" in t]
        for text in (*weights, node.name, *node.output, *node.input):
            mark = _MARK.search(text)
            number = int(mark[1]) if mark else self._kept.get(text.removesuffix("_nchwc"))
            if number is not None:
                heavy = node.op_type in _CONTRACTIONS
                return self._names[self._contraction(number) if heavy else number]
        return UNNAMED

    def _contraction(self, number: int) -> int:
        """The contraction in front of what was fused behind it; the node itself without one."""
        present, seen = [number], {number}
        while present:
            for i in present:
                if i in self._heavy:
                    return i
            sources = [
                v.producer() for i in present for v in self._nodes[i].inputs if v is not None
            ]
            present = [self._numbers[n] for n in sources if n is not None and n in self._numbers]
            present = [i for i in dict.fromkeys(present) if i not in seen]
            seen.update(present)
        return number


def _run(
    model: ir.Model,
    feeds: Mapping[str, Array],
    folder: Path,
    threads: int,
    provider: str,
    seconds: float,
) -> tuple[dict[str, list[float]], onnx.GraphProto]:
    """Microseconds of every node's kernel, run by run, and the graph that ran."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", "optimised.data"
    )
    ir.save(model, folder / "model.onnx", external_data="model.data")
    try:
        session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=[provider])
        start, runs = perf_counter(), 0
        least, most = _RUNS
        while runs < least or (perf_counter() < start + seconds and runs < most):
            session.run(None, dict(feeds))
            runs += 1
    except Exception as error:
        raise UnsupportedModelError(
            f"onnxruntime cannot profile the model: {runtime_message(error)}"
        ) from error
    events: dict[str, list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            events.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"])
    graph = onnx.load(folder / "optimised.onnx", load_external_data=False).graph
    return {n: times[2:] or times for n, times in events.items()}, graph
