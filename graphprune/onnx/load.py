"""Loading: whatever holds an ONNX graph becomes a checked `onnx_ir.Model`.

The graph stays the user's own: nodes, names, order and metadata are kept. Only model-local
functions are inlined and sparse initializers made dense, because later stages know neither.
(`graphprune.onnx.canonical` makes the folded copy that is analysed.)
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes.common import InlinePass

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.checks import check_graph, check_versions, one_line, quiet
from graphprune.onnx.proto_checks import check_links, check_proto
from graphprune.onnx.sparse import densify

_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model as it was given, checked.

    Attributes:
        model: The graph; a copy that shares tensors when the source was an `ir.Model`.
        path: Its file, None for a model in memory.
        sha256: Of the file's bytes followed by those of its external data files (in order of their
            names); of the serialised model when it was in memory.
        original_size_bytes: Size of the file and its external data; serialised size in memory.
        external_data: The source kept tensors in separate files.
    """

    model: ir.Model
    path: Path | None
    sha256: str
    original_size_bytes: int
    external_data: bool = False


def load(source: Any) -> Loaded:
    """Load and check a model.

    External data is mapped, never read whole. The source is never changed.

    Args:
        source: A path, an `onnx.ModelProto`, an `onnx_ir.Model`, or an object whose `model` is one
            (torch's `ONNXProgram`).

    Raises:
        UsageError: The file does not exist or cannot be read, or `source` is none of these.
        UnsupportedModelError: It is no sound ONNX model, or one that was lowered for one runtime.
    """
    if isinstance(source, str | Path):
        return _load_file(Path(source))
    if isinstance(source, onnx.ModelProto):
        data = source.SerializeToString(deterministic=True)
        files = check_proto(source, None)
        digest = hashlib.sha256(data)
        return Loaded(
            _to_ir(source, Path()), None, digest.hexdigest(), len(data), external_data=bool(files)
        )
    model = source if isinstance(source, ir.Model) else getattr(source, "model", None)
    if isinstance(model, ir.Model):
        check_versions(model.ir_version, model.opset_imports)
        sha256, size = _hash_model(model)
        external = any(isinstance(t, ir.ExternalTensor) for t in stored_tensors(model))
        return Loaded(_finish(model.clone()), None, sha256, size, external_data=external)
    raise UsageError(
        f"cannot load a {type(source).__name__}: give a path, an onnx.ModelProto, an onnx_ir.Model "
        "or a torch ONNXProgram"
    )


def _load_file(path: Path) -> Loaded:
    proto = _parse(path)
    files = check_proto(proto, path.parent)
    check_links(path, files)
    digest = hashlib.sha256()
    size = 0
    for file in [path, *files]:
        size += _update(digest, file)
    model = _to_ir(proto, path.absolute().parent)
    return Loaded(model, path, digest.hexdigest(), size, external_data=bool(files))


def _parse(path: Path) -> onnx.ModelProto:
    """Parse a file. The bytes are mapped, so that only the parsed copy takes memory."""
    try:
        if path.is_dir():
            raise UnsupportedModelError(f"{path} is a folder: give the .onnx file in it")
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise UnsupportedModelError(f"{path} is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                head = bytes(data[:512])
                _refuse_other_formats(path, head)
                proto = onnx.ModelProto()
                with memoryview(data) as view:
                    proto.ParseFromString(view)
                return proto
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        text = head.isascii() and all(b >= 32 or b in b"\t\n\r" for b in head)
        what = "text" if text else "truncated, damaged"
        raise UnsupportedModelError(f"{path} is {what} or not an ONNX model") from error


def _refuse_other_formats(path: Path, head: bytes) -> None:
    known = {
        b"version https://git-lfs": "is a git-lfs pointer, not the model: run 'git lfs pull'",
        b"PK\x03\x04": "is a zip archive (a torch checkpoint?): export it to ONNX first",
        b"\x80\x02": "is a pickle (a torch checkpoint?): export it to ONNX first",
        b"\x89HDF": "is an HDF5 file (a Keras model?): convert it to ONNX first",
    }
    for start, message in known.items():
        if head.startswith(start):
            raise UnsupportedModelError(f"{path} {message}")
    if head[4:8] == b"ORTM":
        raise UnsupportedModelError(f"{path} is in onnxruntime's own format: give the .onnx file")
    if head[4:8] == b"TFL3":
        raise UnsupportedModelError(f"{path} is a TensorFlow Lite file: convert it to ONNX first")


def _to_ir(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    """Convert a checked proto; external tensors are found from `folder`."""
    proto = densify(proto)
    try:
        with quiet():
            model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, KeyError) as error:
        raise UnsupportedModelError(f"invalid graph: {one_line(error)}") from error
    for graph in [model.graph, *(f.graph for f in model.functions.values())]:
        ir.external_data.set_base_dir(graph, folder)
    _follow_links(model)
    return _finish(model)


def _follow_links(model: ir.Model) -> None:
    """Point tensors at the files that links lead to: onnx_ir and onnxruntime follow none."""
    for graph in [model.graph, *model.graph.subgraphs()]:
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor) or not Path(tensor.path).is_symlink():
                continue
            file = Path(tensor.path).resolve()
            value.const_value = ir.ExternalTensor(
                file.name,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=tensor.name or "",
                base_dir=file.parent,
            )


def _finish(model: ir.Model) -> ir.Model:
    if model.functions:
        try:
            InlinePass()(model)
        except Exception as error:
            raise UnsupportedModelError(
                f"the model's functions cannot be inlined: {one_line(error)}"
            ) from error
    check_graph(model)
    return model


def stored_tensors(model: ir.Model) -> list[ir.TensorProtocol]:
    """Every initializer's tensor, nested graphs included."""
    graphs = [model.graph, *model.graph.subgraphs()]
    values = [v for graph in graphs for v in graph.initializers.values()]
    return [v.const_value for v in values if v.const_value is not None]


def _update(digest: Any, path: Path) -> int:
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size


def _hash_model(model: ir.Model) -> tuple[str, int]:
    """Hash and serialised size of a model in memory, one tensor at a time."""
    skeleton = model.clone()
    digest = hashlib.sha256()
    size = 0
    tensors: list[tuple[str, ir.TensorProtocol]] = []
    for graph in [skeleton.graph, *skeleton.graph.subgraphs()]:
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            tensors.append((name, tensor))
            # A reference without contents stands in for the tensor in the serialised graph.
            value.const_value = ir.ExternalTensor(
                "tensor",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
            )
    graph_bytes = ir.to_proto(skeleton).SerializeToString(deterministic=True)
    digest.update(graph_bytes)
    size += len(graph_bytes)
    for _, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(tensor.tobytes())
        size += tensor.nbytes
    return digest.hexdigest(), size
