"""How much memory the activations of one run need at least, from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir


def peak_activation_bytes(
    model: ir.Model,
    dims: Mapping[ir.Value, tuple[int, ...]],
    dtypes: Mapping[ir.Value, ir.DataType] | None = None,
) -> int:
    """Largest sum of activations alive at once when the nodes run in the order of the file.

    A value lives from its producer to its last reader, graph outputs to the end; nothing is
    computed in place and no scratch space is counted, so this is an estimate that compares two
    models, not onnxruntime's own figure. Values of unknown shape count 0; subgraph bodies are not
    entered.
    """
    nodes = list(model.graph)
    last: dict[ir.Value, int] = {}
    for position, node in enumerate(nodes):
        for value in _reads(node):
            last[value] = position
    for value in model.graph.outputs:
        last[value] = len(nodes)

    def size(value: ir.Value) -> int:
        if value.is_initializer() or value not in dims:
            return 0
        dtype = (dtypes or {}).get(value) or value.dtype or ir.DataType.FLOAT
        if dtype == ir.DataType.STRING:
            return 0
        return (prod(dims[value]) * dtype.bitwidth + 7) // 8

    leaving: dict[int, list[ir.Value]] = {}
    for value, position in last.items():
        leaving.setdefault(position, []).append(value)
    alive = peak = sum(size(value) for value in model.graph.inputs)
    for position, node in enumerate(nodes):
        used = [output for output in node.outputs if output in last]
        alive += sum(size(output) for output in used)
        peak = max(peak, alive)
        alive -= sum(size(value) for value in leaving.get(position, ()))
    return peak


def _reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads, its subgraphs' captured values included."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            for inner in body.all_nodes():
                found += [v for v in inner.inputs if v is not None and v.graph is not body]
            found += [v for v in body.outputs if v.graph is not body]
    return found
