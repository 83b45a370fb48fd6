"""Write a channel shuffle as one Gather.

A shuffle is exported as Reshape, Transpose, Reshape. It permutes channels, but a graph that keeps
the three ops can only drop the same channels of every group; a Gather with constant indices is
free:

1. Reshape -> Transpose -> Reshape whose result has the shape of its source, and whose elements are
   those of the source permuted along one axis, becomes `Gather(source, permutation, axis)`.

Not handled: intermediate results with other readers, or that are graph outputs; a permutation that
depends on a dynamic dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphprune.onnx.names import FreshNames
from graphprune.onnx.shapes import Shapes, default_bindings, infer_shapes

__all__ = ["GatherChannelShufflesPass"]

_LIMIT = 1 << 24  # elements of the index tensor: a larger one is left alone

Chain = tuple[ir.Node, ir.Node, ir.Node]


class GatherChannelShufflesPass(ir.passes.InPlacePass):
    """See the module's text for the case it handles."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace every shuffle; names of the source and the result stay."""
        chains = [
            chain
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if (chain := _chain(node)) is not None
        ]
        if not chains:
            return ir.passes.PassResult(model, modified=False)
        shapes = [infer_shapes(model, binding) for binding in default_bindings(model, {})]
        names = FreshNames(model)
        modified = False
        for chain in chains:
            found = [_permutation(chain, s) for s in shapes]
            first, second = found[0], found[1]
            if first is None or second is None or first[0] != second[0]:
                continue
            if np.array_equal(first[1], second[1]):
                _replace(chain, *first, names)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _chain(last: ir.Node) -> Chain | None:
    """The three nodes that end in `last`, where nothing else reads what lies between."""
    if last.op_type != "Reshape" or last.domain:
        return None
    middle = _only_producer(last.inputs[0], "Transpose")
    first = _only_producer(middle.inputs[0], "Reshape") if middle is not None else None
    return None if middle is None or first is None else (first, middle, last)


def _only_producer(value: ir.Value | None, op: str) -> ir.Node | None:
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    node = value.producer()
    return node if node is not None and node.op_type == op and not node.domain else None


def _permutation(chain: Chain, shapes: Shapes) -> tuple[int, np.ndarray] | None:
    """The axis that is permuted and the permutation; None where it is something else."""
    first, middle, last = chain
    source = first.inputs[0]
    assert source is not None
    shape = shapes.dims.get(source)
    between = shapes.dims.get(first.outputs[0])
    if shape is None or between is None or shapes.dims.get(last.outputs[0]) != shape:
        return None
    if not shape or np.prod(shape) > _LIMIT:
        return None
    order = middle.attributes.get("perm")
    perm = list(order.as_ints()) if order is not None else list(reversed(range(len(between))))
    index = np.arange(np.prod(shape), dtype=np.int64)
    moved = index.reshape(between).transpose(perm).reshape(shape)
    index = index.reshape(shape)
    changed = [
        axis
        for axis in range(len(shape))
        if ((moved // _stride(shape, axis)) % shape[axis] != _along(shape, axis)).any()
    ]
    if len(changed) != 1:
        return None
    axis = changed[0]
    line = [0] * len(shape)
    picked = moved[tuple(slice(None) if a == axis else i for a, i in enumerate(line))]
    permutation = (picked // _stride(shape, axis)) % shape[axis]
    if not np.array_equal(np.take(index, permutation, axis=axis), moved):
        return None
    return axis, permutation


def _stride(shape: Sequence[int], axis: int) -> int:
    return int(np.prod(shape[axis + 1 :], dtype=np.int64))


def _along(shape: Sequence[int], axis: int) -> np.ndarray:
    return np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])


def _replace(chain: Chain, axis: int, permutation: np.ndarray, names: FreshNames) -> None:
    first, middle, last = chain
    graph = last.graph
    assert isinstance(graph, ir.Graph)
    old = last.outputs[0]
    name = names.near(f"{old.name}_shuffle")
    tensor = ir.Tensor(permutation.astype(np.int64), name=name)
    indices = ir.Value(
        name=name,
        shape=ir.Shape(permutation.shape),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=tensor,
    )
    graph.register_initializer(indices)
    node = ir.node("Gather", [first.inputs[0], indices], {"axis": axis}, name=last.name)
    node.metadata_props.update(last.metadata_props)
    new = node.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_after(last, node)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, old.name = old.name, None
    graph.remove([last, middle, first], safe=True)
