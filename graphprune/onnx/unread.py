"""What of a model, its bodies included, is read, and dropping what was and is no more."""

from __future__ import annotations

import onnx_ir as ir


def read_values(model: ir.Model) -> set[ir.Value]:
    """Everything that some node reads."""
    return {v for node in model.graph.all_nodes() for v in node.inputs if v is not None}


def drop_unread(model: ir.Model, read_before: set[ir.Value]) -> None:
    """Nodes and initializers that were read before and are not any more."""
    bodies = [model.graph, *model.graph.subgraphs()]
    for graph in bodies:
        outputs = set(graph.outputs)
        for node in reversed(list(graph)):
            gone = [v for v in node.outputs if v in read_before]
            if gone and not any(v.uses() or v in outputs for v in node.outputs):
                graph.remove(node, safe=True)
    for graph in bodies:
        outputs = set(graph.outputs)
        for name, value in list(graph.initializers.items()):
            shown = value in outputs or value.is_graph_input()
            if value in read_before and not value.uses() and not shown:
                del graph.initializers[name]
