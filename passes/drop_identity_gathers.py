"""Drop Gathers that read a tensor back as it was.

Exporters write some views (torch's `as_strided` after a pool) as a flattening Reshape followed by a
Gather with computed indices 0, 1, 2, ... The pair is the identity, but it mixes the batch with the
channels, and nothing could be pruned in front of it:

1. `Gather(Reshape(x, [-1]), indices)` whose indices count through x, and whose result has the shape
   of x, is replaced by x.

Not handled: indices that are not known before the model runs, or that depend on the binding in
another way than the shape of x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphprune.onnx.shapes import Shapes, default_bindings, infer_shapes

__all__ = ["DropIdentityGathersPass"]


class DropIdentityGathersPass(ir.passes.InPlacePass):
    """See the module's text for the case it handles."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewire the readers of every such Gather to its source."""
        candidates = [
            node
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if node.op_type == "Gather" and _flattened(node) is not None
        ]
        if not candidates:
            return ir.passes.PassResult(model, modified=False)
        shapes = [infer_shapes(model, binding) for binding in default_bindings(model, {})]
        modified = False
        for node in candidates:
            source = _flattened(node)
            output = node.outputs[0]
            if source is None or output.is_graph_output() or not _identity(node, source, shapes):
                continue
            output.replace_all_uses_with(source)
            _remove(node)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _flattened(node: ir.Node) -> ir.Value | None:
    """x of `Gather(Reshape(x, [-1]), indices, axis=0)`."""
    data = node.inputs[0]
    reshape = data.producer() if data is not None else None
    axis = node.attributes.get("axis")
    if reshape is None or reshape.op_type != "Reshape" or (axis is not None and axis.as_int()):
        return None
    return reshape.inputs[0]


def _identity(node: ir.Node, source: ir.Value, shapes: Sequence[Shapes]) -> bool:
    indices, output = node.inputs[1], node.outputs[0]
    flat = node.inputs[0]
    assert indices is not None
    assert flat is not None
    for found in shapes:
        contents = found.values.get(indices)
        shape = found.dims.get(source)
        if contents is None or shape is None or found.dims.get(output) != shape:
            return False
        if len(found.dims.get(flat, ())) != 1 or contents.shape != shape:
            return False
        if not np.array_equal(contents.reshape(-1), np.arange(contents.size)):
            return False
    return True


def _remove(node: ir.Node) -> None:
    """Remove a node nobody reads any more, and what only it read."""
    inputs = [v for v in node.inputs if v is not None]
    graph = node.graph
    assert graph is not None
    graph.remove(node, safe=True)
    for value in inputs:
        producer = value.producer()
        if (
            producer is not None
            and producer.graph is graph
            and not any(v.uses() or v.is_graph_output() for v in producer.outputs)
        ):
            _remove(producer)
