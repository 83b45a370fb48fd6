"""Drop initial states of recurrent layers that are computed zeros, which they start from anyway.

Exporters make one tensor of zeros for all layers and cut it into their states. Read by several
layers it would couple their units, and by a bidirectional one those of its directions:

1. an `initial_h` or `initial_c` that is certainly zero, made by ConstantOfShape, or by Expand,
   Slice and other ops that only move or repeat values, is no longer given.

States that are initializers stay: every use of an initializer is cut for itself.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphprune.rules.context import is_weight

__all__ = ["DropZeroStatesPass"]

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_KEEPS_ZERO = {
    *("Identity", "Cast", "Expand", "Tile", "Slice", "Split", "Gather", "Reshape", "Flatten"),
    *("Squeeze", "Unsqueeze", "Transpose"),
}
_DEPTH = 32


class DropZeroStatesPass(ir.passes.InPlacePass):
    """See the module's text for the case it handles."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Take zero states away, and what only made them."""
        modified = False
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            for i in _STATES.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ():
                value = node.inputs[i] if i < len(node.inputs) else None
                if value is None or is_weight(value) or not is_zero(value):
                    continue
                node.replace_input_with(i, None)
                _remove_unread(value.producer())
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def is_zero(value: ir.Value | None, depth: int = _DEPTH) -> bool:
    """Whether a tensor is certainly all zeros, whatever the model is fed."""
    if value is None or depth == 0:
        return False
    if is_weight(value):
        tensor = value.const_value
        return (
            tensor is not None and tensor.dtype.is_floating_point() and not np.any(tensor.numpy())
        )
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "ConstantOfShape":
        filler = node.attributes.get("value")
        return filler is None or not np.any(filler.as_tensor().numpy())
    if node.op_type == "Concat":
        return all(is_zero(v, depth - 1) for v in node.inputs)
    return node.op_type in _KEEPS_ZERO and is_zero(node.inputs[0], depth - 1)


def _remove_unread(node: ir.Node | None) -> None:
    """Remove a node nobody reads any more, and what only it read."""
    if node is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
        return
    inputs = [v for v in node.inputs if v is not None]
    graph = node.graph
    assert graph is not None
    graph.remove(node, safe=True)
    for value in inputs:
        if is_weight(value) and not value.uses() and not value.is_graph_output():
            owner = value.graph
            assert isinstance(owner, ir.Graph)
            owner.initializers.pop(value.name or "", None)
        producer = value.producer()
        if producer is not None and producer.graph is graph:
            _remove_unread(producer)
