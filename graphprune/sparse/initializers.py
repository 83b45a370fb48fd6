"""Weights of many zeros as ONNX `sparse_initializer`: a file that onnxruntime loads as it is.

The standard stores the values and one int64 index for each: k (b + 8) bytes for k values of b
bytes, smaller than dense below a density of b / (b + 8): 1/3 of fp32, 1/5 of fp16, 1/9 of int8.
onnxruntime makes the weights dense when it loads them, so nothing runs faster.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from graphprune.errors import NothingGainedError, UnsupportedModelError, UsageError
from graphprune.files import write_atomically
from graphprune.onnx.load import load
from graphprune.onnx.runtime import PROTOBUF_LIMIT, Session, find_trials

if TYPE_CHECKING:
    from graphprune.measure.latency import Latency

INDEX_BYTES = 8


@dataclass(frozen=True)
class SparseInitializers:
    """What became sparse.

    Attributes:
        tensors: Their names.
        original: Bytes of the model, external data included.
        written: Bytes of the file.
        latency: Both models timed; None where that was not asked for.
    """

    tensors: tuple[str, ...]
    original: int
    written: int
    latency: Latency | None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "original_bytes": self.original,
            "written_bytes": self.written,
            "ratio": self.written / self.original,
            "sparse_initializers": list(self.tensors),
            "latency": None if self.latency is None else self.latency.to_json(),
        }


def write_sparse(
    model: str | Path,
    target: str | Path,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    seed: int = 0,
    seconds: float | None = None,
) -> SparseInitializers:
    """Write a model with sparse initializers where they are smaller; checked in onnxruntime.

    Args:
        model: An ONNX file.
        target: The file to write.
        dims: Sizes of dynamic dimensions for the check.
        threads: Of onnxruntime.
        seed: Of the random inputs.
        seconds: Time for comparing latency; None: not compared.

    Raises:
        NothingGainedError: No tensor is sparse enough.
        UnsupportedModelError: The model does not load, or its outputs would not be equal bit by bit.
        UsageError: A file cannot be read or written, or the result would pass protobuf's 2 GB.
    """
    loaded = load(Path(model))
    if loaded.original_size_bytes > PROTOBUF_LIMIT:
        raise UsageError(
            f"{model} is too large for one file with sparse initializers (protobuf ends at 2 GB): "
            "pack it without --as onnx-sparse"
        )
    proto = onnx.load(str(model))
    names = sparsify_initializers(proto)
    if not names:
        raise NothingGainedError(
            f"no initializer of {model} is sparse enough to be smaller as sparse_initializer "
            "(fp32: less than a third of its elements not zero)"
        )
    try:
        data = proto.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise UsageError(f"cannot write {target}: the model is larger than 2 GB") from error
    with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
        trial = Path(folder, "model.onnx")
        write_atomically(trial, lambda file: file.write(data))
        latency = _check(loaded.model, trial, dims, threads, seed, seconds)
    write_atomically(Path(target), lambda file: file.write(data))
    return SparseInitializers(tuple(names), loaded.original_size_bytes, len(data), latency)


def sparsify_initializers(proto: onnx.ModelProto) -> list[str]:
    """Make initializers of the top graph sparse, in place, where that is smaller; their names."""
    graph = proto.graph
    inputs = {v.name for v in graph.input}  # may be overridden: those stay dense
    dense, names = [], []
    for tensor in graph.initializer:
        sparse = None if tensor.name in inputs else _sparse(tensor)
        if sparse is None:
            dense.append(tensor)
        else:
            graph.sparse_initializer.append(sparse)
            names.append(tensor.name)
    if names:
        kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in dense]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return names


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto | None:
    dtype = ir.DataType(tensor.data_type)
    if dtype == ir.DataType.STRING or dtype.bitwidth not in (8, 16, 32, 64) or not tensor.dims:
        return None
    size = dtype.bitwidth // 8
    bits = np.frombuffer(ir.serde.TensorProtoTensor(tensor).tobytes(), f"<u{size}")
    places = np.flatnonzero(bits)
    # An empty list of values is not loaded by every version: one zero is written instead.
    places = places if places.size else np.zeros(1, np.int64)
    if places.size * (size + INDEX_BYTES) >= bits.nbytes:
        return None
    values = onnx.TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=[places.size],
        raw_data=bits[places].tobytes(),
    )
    indices = onnx.TensorProto(
        name=f"{tensor.name}_indices",
        data_type=onnx.TensorProto.INT64,
        dims=[places.size],
        raw_data=places.astype("<i8").tobytes(),
    )
    return onnx.SparseTensorProto(values=values, indices=indices, dims=tensor.dims)


def _check(
    model: ir.Model,
    path: Path,
    dims: Mapping[str, int] | None,
    threads: int,
    seed: int,
    seconds: float | None,
) -> Latency | None:
    """Outputs equal bit by bit, on two sets of inputs; and which is faster."""
    from graphprune.measure.latency import interleave, judge

    with Session(model, threads=threads) as before, Session(path, threads=threads) as after:
        trials = find_trials(model, dims, seed, before)
        for trial in trials:
            outputs = after.run(trial.feeds)
            for name, array in trial.outputs.items():
                if outputs[name].tobytes() != array.tobytes():
                    raise UnsupportedModelError(
                        f"output '{name}' is another with sparse initializers in this onnxruntime: "
                        "pack without --as onnx-sparse"
                    )
        if seconds is None:
            return None
        feeds = trials[0].feeds
        samples = interleave(lambda: before.run(feeds), lambda: after.run(feeds), seconds)
        return judge(samples, threads)
