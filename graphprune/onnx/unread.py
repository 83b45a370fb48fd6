"""What of a model, its bodies included, is read, and dropping what was and is no more."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The top graph and all bodies."""
    yield model.graph
    for node in all_nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield attribute.as_graph()


def all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Of the top graph and all bodies."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def read_values(model: ir.Model) -> set[ir.Value]:
    """Everything that some node reads."""
    return {v for node in all_nodes(model) for v in node.inputs if v is not None}


def drop_unread(model: ir.Model, read_before: set[ir.Value]) -> None:
    """Nodes and initializers that were read before and are not any more."""
    bodies = list(graphs(model))
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
