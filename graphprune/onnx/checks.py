"""Is this a sound graph? Every refusal is one line that names the place.

Checked here: versions, domains and the graph's structure (`proto_checks` looks at what a file
stores). Whether the model *runs* is for onnxruntime to say (`runtime.check_runs`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import onnx_ir as ir

from graphprune.errors import UnsupportedModelError

_LOWERED = {"com.microsoft.nchwc", "com.ms.internal.nhwc"}


def check_versions(ir_version: int, opsets: Mapping[str, int]) -> None:
    """Refuse versions of the format or of the operators that the installed onnx does not know."""
    if ir_version > onnx.IR_VERSION:
        raise UnsupportedModelError(
            f"the model has IR version {ir_version}, the installed onnx {onnx.__version__} knows "
            f"up to {onnx.IR_VERSION}: update onnx or export with an older IR version"
        )
    newest = onnx.defs.onnx_opset_version()
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if version > newest:
        raise UnsupportedModelError(
            f"the model uses opset {version}, the installed onnx {onnx.__version__} knows up to "
            f"{newest}: update onnx or export with an older opset"
        )
    if not opsets or any(v < 1 for v in opsets.values()):
        raise UnsupportedModelError("the model does not say which opset it uses (opset_import)")


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
