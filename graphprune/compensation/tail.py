"""What follows a layer channel by channel, with constants: batch norms, scales, biases.

Together they are one `scale * x + shift` per channel, so that a layer can be fitted to what comes
out behind them, where the original's channels are on the scale at which the next layers read them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.constants import numbers_of
from graphprune.onnx.operands import attribute

Array = np.ndarray[Any, Any]


def affine_tail(value: ir.Value, channels: int, trailing: int) -> tuple[ir.Value, Array, Array]:
    """The value behind the last such op, and scale and shift from `value` to it, `(channels,)`.

    Args:
        value: What a layer gives.
        channels: How many channels it has.
        trailing: How many axes stand behind that of the channels.
    """
    scale, shift = np.ones(channels), np.zeros(channels)
    while True:
        uses = list(value.uses())
        if len(uses) != 1 or value.is_graph_output() or uses[0].idx > 1:
            return value, scale, shift
        node, position = uses[0].node, uses[0].idx
        if node.graph is not value.graph or node.domain not in ("", "ai.onnx"):
            return value, scale, shift
        if node.op_type == "BatchNormalization":
            step = _batch_norm(node, channels) if position == 0 else None
        else:
            step = _arithmetic(node, position, channels, trailing)
        if step is None:
            return value, scale, shift
        scale, shift = scale * step[0], shift * step[0] + step[1]
        value = node.outputs[0]


def _batch_norm(node: ir.Node, channels: int) -> tuple[Array, Array] | None:
    if attribute(node, "training_mode", 0) or len(node.inputs) != 5 or len(node.outputs) != 1:
        return None
    arrays = [numbers_of(v) for v in node.inputs[1:]]
    if any(a is None or a.shape != (channels,) for a in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(a) for a in arrays)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _arithmetic(
    node: ir.Node, position: int, channels: int, trailing: int
) -> tuple[Array, Array] | None:
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
        return None
    constant = numbers_of(node.inputs[1 - position])
    operand = None if constant is None else _per_channel(constant, channels, trailing)
    if operand is None or (position == 1 and node.op_type in ("Sub", "Div")):
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op_type == "Add":
        return one, operand
    if node.op_type == "Sub":
        return one, -operand
    if node.op_type == "Mul":
        return operand, zero
    return (1 / operand, zero) if operand.all() else None


def _per_channel(array: Array, channels: int, trailing: int) -> Array | None:
    """`(channels,)` of a constant that broadcasts over every axis but that of the channels."""
    if array.size == 1:
        return np.full(channels, float(array.reshape(-1)[0]))
    axis = array.ndim - 1 - trailing
    if axis < 0 or array.shape[axis] != channels or array.size != channels:
        return None
    return array.reshape(-1)
