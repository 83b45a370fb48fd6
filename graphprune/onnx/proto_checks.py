"""Is what a file stores sound? Nodes, stored tensors, and where external data lies.

Nodes are checked by onnx.checker one by one, so that no weight is serialised. Every refusal is one
line that names the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.checks import check_domain, check_versions, label, one_line

_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.INT32: "int32_data",
    ir.DataType.BOOL: "int32_data",
    ir.DataType.INT8: "int32_data",
    ir.DataType.UINT8: "int32_data",
    ir.DataType.INT16: "int32_data",
    ir.DataType.UINT16: "int32_data",
    ir.DataType.FLOAT16: "int32_data",
    ir.DataType.BFLOAT16: "int32_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
}
_MAX_BYTES = 1 << 46  # 64 TiB: no real tensor, but far below where 64-bit sizes overflow


def check_proto(proto: onnx.ModelProto, folder: Path | None) -> list[Path]:
    """Check versions, domains, nodes and stored tensors of `proto`.

    Args:
        proto: A parsed model; external data stays where it is.
        folder: Folder of the model's file, where external data must lie; None for a model in
            memory (then external data is looked up from the working directory).

    Returns:
        The files that hold external data, sorted.

    Raises:
        UnsupportedModelError: With the first thing that is wrong.
    """
    if not proto.HasField("graph") or not proto.graph.node:
        raise UnsupportedModelError("the model has no graph with nodes: is the file complete?")
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    check_versions(proto.ir_version, opsets)
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = proto.ir_version, opsets
    external: set[Path] = set()
    for graph in _graphs(proto):
        for tensor in graph.initializer:
            _check_tensor(tensor, folder, external)
        for value in [*graph.input, *graph.output]:
            _check_value(value)
        _check_nodes(graph.node, opsets, context, folder, external)
    for function in proto.functions:
        imports = {o.domain: o.version for o in function.opset_import}
        context.opset_imports = imports
        _check_nodes(function.node, imports, context, folder, external)
    return sorted(external)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The top graph and all nested ones."""
    stack = [proto.graph]
    for function in proto.functions:
        for node in function.node:
            for attr in node.attribute:
                stack.extend([attr.g] if attr.HasField("g") else attr.graphs)
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attr in node.attribute:
                stack.extend([attr.g] if attr.HasField("g") else attr.graphs)


def _check_nodes(
    nodes: Iterable[onnx.NodeProto],
    opsets: dict[str, int],
    context: object,
    folder: Path | None,
    external: set[Path],
) -> None:
    for node in nodes:
        check_domain(node.domain)
        plain = True
        for attr in node.attribute:
            if attr.HasField("t"):
                _check_tensor(attr.t, folder, external)
            for tensor in attr.tensors:
                _check_tensor(tensor, folder, external)
            # Nested graphs see outer names, which a check of one node cannot; constants may be big.
            plain = plain and not (attr.HasField("g") or attr.graphs or attr.HasField("t"))
        domain = "" if node.domain == "ai.onnx" else node.domain
        if not plain or domain not in opsets:
            continue
        if domain == "" and not onnx.defs.has(node.op_type, opsets[domain]):
            continue  # fused ops that onnxruntime puts into the default domain
        try:
            onnx.checker.check_node(node, context)  # type: ignore[arg-type]
        except onnx.checker.ValidationError as error:
            raise UnsupportedModelError(
                f"invalid node '{label(node)}' ({node.op_type}): {one_line(error)}"
            ) from error


def _check_value(value: onnx.ValueInfoProto) -> None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return
    _check_dtype(tensor.elem_type, value.name)
    if tensor.HasField("shape"):
        count = 1
        for dim in tensor.shape.dim:
            count *= max(dim.dim_value, 1) if dim.HasField("dim_value") else 1
        if count > _MAX_BYTES:
            raise UnsupportedModelError(f"the shape of '{value.name}' overflows ({count} elements)")


def _check_dtype(number: int, name: str) -> None:
    if number == 0 or number not in onnx.TensorProto.DataType.values():
        raise UnsupportedModelError(f"'{name}' has the unknown element type {number}")


def _check_tensor(tensor: onnx.TensorProto, folder: Path | None, external: set[Path]) -> None:
    name = tensor.name or "a constant"
    _check_dtype(tensor.data_type, name)
    dtype = ir.DataType(tensor.data_type)
    count = 1
    for size in tensor.dims:
        if size < 0:
            raise UnsupportedModelError(f"tensor '{name}' has a negative size: {list(tensor.dims)}")
        count *= size
    if dtype == ir.DataType.STRING:
        return
    nbytes = -(-count * dtype.bitwidth // 8)
    if nbytes > _MAX_BYTES:
        raise UnsupportedModelError(f"the shape of tensor '{name}' overflows: {list(tensor.dims)}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        external.add(_check_external(tensor, folder, nbytes))
    elif tensor.HasField("raw_data"):
        stored = len(tensor.raw_data)
        if stored != nbytes:
            raise UnsupportedModelError(
                f"tensor '{name}' holds {stored} bytes, its shape {list(tensor.dims)} needs "
                f"{nbytes}"
            )
    elif dtype in _FIELDS and len(getattr(tensor, _FIELDS[dtype])) != count:
        stored = len(getattr(tensor, _FIELDS[dtype]))
        raise UnsupportedModelError(
            f"tensor '{name}' holds {stored} elements, its shape {list(tensor.dims)} needs {count}"
        )


def _check_external(tensor: onnx.TensorProto, folder: Path | None, nbytes: int) -> Path:
    """The file that holds `tensor`; it must lie in the model's folder and be long enough."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    path = locate(location, folder, tensor.name)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", nbytes))
    except ValueError:
        offset = length = -1
    if offset < 0 or length != nbytes:
        raise UnsupportedModelError(
            f"external data of tensor '{tensor.name}' has a wrong place or length (offset "
            f"{entries.get('offset', 0)}, length {entries.get('length')}, needed {nbytes})"
        )
    if offset + length > path.stat().st_size:
        raise UnsupportedModelError(
            f"external data file '{location}' is too short for tensor '{tensor.name}': it ends at "
            f"{path.stat().st_size}, needed {offset + length}; is the download complete?"
        )
    return path


def locate(location: str, folder: Path | None, tensor: str) -> Path:
    """The external data file `location` of a model in `folder`.

    It may not leave the folder: a model must not be able to read (or, on saving, to overwrite)
    other files. Links count by where they lead; where the model's own file is a link (as in
    download caches), the folder it leads to is allowed too: pass that by resolving the file.
    """
    base = (folder or Path()).absolute()
    path = Path(location)
    lexical = base / path
    if not location or path.is_absolute() or ".." in path.parts:
        raise UnsupportedModelError(
            f"external data of tensor '{tensor}' lies outside the model's folder: '{location}'"
        )
    if not lexical.is_file():
        raise UnsupportedModelError(
            f"external data file '{location}' of tensor '{tensor}' is missing: put it beside the "
            "model"
        )
    return lexical


def check_links(path: Path, files: list[Path]) -> None:
    """External files that are links must lead into the model's folder, or beside the file the
    model itself leads to (download caches link both). Raises UnsupportedModelError."""
    allowed = {path.absolute().parent.resolve(), path.resolve().parent}
    for file in files:
        if not any(file.resolve().is_relative_to(base) for base in allowed):
            raise UnsupportedModelError(
                f"external data file '{file.name}' is a link that leaves the model's folder"
            )
