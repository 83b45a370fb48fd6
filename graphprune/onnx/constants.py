"""Weights of a node, read as numbers and replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.names import FreshNames
from graphprune.rules.context import is_weight

Array = np.ndarray[Any, Any]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def constant(node: ir.Node, i: int) -> Array | None:
    """The floating-point weight that is input `i`, float64; None where there is none."""
    return numbers_of(node.inputs[i]) if i < len(node.inputs) else None


def is_constant(node: ir.Node, i: int) -> bool:
    """Whether input `i` is a floating-point weight."""
    return i < len(node.inputs) and _held(node.inputs[i]) is not None


def numbers_of(value: ir.Value | None) -> Array | None:
    """A floating-point weight in float64; None where a value is none."""
    held = _held(value)
    return None if held is None else np.asarray(held.numpy(), np.float64)


def _held(value: ir.Value | None) -> ir.TensorProtocol | None:
    if value is None or not is_weight(value) or value.const_value is None:
        return None
    return value.const_value if value.const_value.dtype in _FLOATS else None


def set_constant(
    node: ir.Node,
    index: int,
    array: Array,
    names: FreshNames,
    like: ir.Value | None = None,
) -> None:
    """Make `array` an input of a node, as an initializer that no other node then reads.

    Args:
        node: The node.
        index: Which input; it may be missing as yet.
        array: What it shall be.
        names: Of the graph.
        like: The initializer whose type it gets where there is none as yet.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    model = old if old is not None else like
    assert model is not None
    assert model.const_value is not None
    dtype = model.const_value.dtype
    data = np.ascontiguousarray(array, dtype=dtype.numpy())
    if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
        old.const_value = ir.Tensor(data, dtype=dtype, name=old.name)
        return
    base = old.name if old is not None else f"{model.name}_bias"
    name = names.near(f"{base}_refit" if old is not None else str(base))
    value = ir.Value(
        name=name,
        shape=ir.Shape(data.shape),
        type=ir.TensorType(dtype),
        const_value=ir.Tensor(data, dtype=dtype, name=name),
    )
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
