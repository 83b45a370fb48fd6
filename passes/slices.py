"""Slices of initializers in place of whole ones; nothing is read until the model is saved."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphprune.cut import Cut, pruned_shape, take
from graphprune.onnx.names import FreshNames
from graphprune.rules.context import is_weight

Uses = dict[tuple[ir.Node, int], tuple[Cut, ...]]
"""Cuts of the initializer that a node reads as its input of that number."""


def slice_initializers(model: ir.Model, uses: Uses, names: FreshNames) -> None:
    """Let every use read a lazy copy that is cut; uses that keep the same share one.

    A copy takes over the name where nothing reads the whole any more.
    """
    copies: dict[tuple[ir.Value, bytes], ir.Value] = {}
    whole = {
        value
        for node in model.graph.all_nodes()
        for i, value in enumerate(node.inputs)
        if value is not None and is_weight(value) and (node, i) not in uses
    }
    whole.update(v for graph in (model.graph, *model.graph.subgraphs()) for v in graph.outputs)
    renamed: list[tuple[ir.Value, str]] = []
    for (node, i), cuts in uses.items():
        original = node.inputs[i]
        assert original is not None
        key = (original, _digest(cuts))
        if key not in copies:
            first = original not in whole and not any(o is original for o, _ in copies)
            copy = _sliced(original, cuts)
            graph = original.graph
            assert isinstance(graph, ir.Graph)
            copy.name = names.near(f"{original.name}_kept")
            graph.register_initializer(copy)
            copies[key] = copy
            if first:
                renamed.append((copy, original.name or ""))
        node.replace_input_with(i, copies[key])
    for copy, name in renamed:
        graph = copy.graph
        assert isinstance(graph, ir.Graph)
        old = graph.initializers.pop(name)
        old.const_value = None  # the tensor is the caller's: it must not be renamed with it
        old.name = None
        graph.initializers.pop(copy.name or "")
        copy.name = name
        graph.register_initializer(copy)


def _sliced(original: ir.Value, cuts: tuple[Cut, ...]) -> ir.Value:
    tensor = original.const_value
    assert tensor is not None
    shape = pruned_shape(tensor.shape.numpy(), cuts)

    def load() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(take(tensor.numpy(), cuts)), dtype=tensor.dtype)

    lazy = ir.LazyTensor(load, dtype=tensor.dtype, shape=ir.Shape(shape), name=original.name)
    copy = ir.Value(name=original.name, shape=ir.Shape(shape), type=original.type, const_value=lazy)
    copy.metadata_props.update(original.metadata_props)
    return copy


def _digest(cuts: tuple[Cut, ...]) -> bytes:
    parts = [repr((c.axis, c.blocks)).encode() + c.kept.tobytes() for c in cuts]
    return b"|".join(parts)
