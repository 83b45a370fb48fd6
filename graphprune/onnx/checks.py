"""Is this a sound ONNX model? Every refusal is one line that names the place.

Checked here: versions, domains, element types, sizes of stored tensors, places of external data,
node attributes and arity (by onnx.checker, node by node, so that no weight is serialised), and the
graph's structure. Whether the model *runs* is for onnxruntime to say (`runtime.check_runs`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError

_LOWERED = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}
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
    if proto.ir_version > onnx.IR_VERSION:
        raise UnsupportedModelError(
            f"the model has IR version {proto.ir_version}, the installed onnx {onnx.__version__} "
            f"knows up to {onnx.IR_VERSION}: update onnx or export with an older IR version"
        )
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    newest = onnx.defs.onnx_opset_version()
    if opsets.get("", 0) > newest:
        raise UnsupportedModelError(
            f"the model uses opset {opsets['']}, the installed onnx {onnx.__version__} knows up to "
            f"{newest}: update onnx or export with an older opset"
        )
    if not opsets or any(version < 1 for version in opsets.values()):
        raise UnsupportedModelError("the model does not say which opset it uses (opset_import)")
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


def check_graph(model: ir.Model) -> None:
    """Check the structure of a model: every input produced, no cycle, every output there.

    Nodes are brought into topological order where they are not (the order is kept otherwise).
    Raises UnsupportedModelError.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        check_domain(node.domain)
        for value in node.inputs:
            if value is None or value.producer() is not None or value.is_graph_input():
                continue
            if not value.is_initializer():
                raise UnsupportedModelError(
                    f"invalid graph: node '{label(node)}' reads '{value.name}', which nothing makes"
                )
    for value in model.graph.outputs:
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
            raise UnsupportedModelError(f"invalid graph: nothing makes the output '{value.name}'")
    try:
        if not _is_sorted(model.graph):
            model.graph.sort()
    except ValueError as error:
        raise UnsupportedModelError(f"invalid graph: it contains a cycle ({error})") from error


def check_domain(domain: str) -> None:
    """Refuse graphs lowered for one runtime's memory layout."""
    if domain in _LOWERED:
        raise UnsupportedModelError(
            f"the graph was already lowered for one runtime (operators of '{domain}'): prune the "
            "model first, then optimise it"
        )


def label(node: ir.Node | onnx.NodeProto) -> str:
    """What to call a node: its name or, where it has none, its first output's."""
    if isinstance(node, ir.Node):
        return node.name or next((o.name for o in node.outputs if o.name), "") or node.op_type
    return node.name or next((o for o in node.output if o), "") or node.op_type


def one_line(error: BaseException) -> str:
    """The innermost message of a chain of exceptions, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


@contextmanager
def quiet(name: str = "onnx_ir") -> Iterator[None]:
    """Silence a library's logger: what it warns about is checked and reported by us."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


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
    nodes: object,
    opsets: dict[str, int],
    context: object,
    folder: Path | None,
    external: set[Path],
) -> None:
    for node in nodes:  # type: ignore[attr-defined]
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


def _is_sorted(graph: ir.Graph) -> bool:
    """Every node after the producers of its inputs, nested graphs included."""
    seen: set[ir.Node] = set()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in seen:
                return False
        seen.add(node)
    return True
