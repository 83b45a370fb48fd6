"""Which linear layers read a group, and how large the weights are that each unit meets there.

What a unit is worth shows where it is read: the channels of an activation that carry it, and the
weights by which a layer multiplies these channels. Attention is read by its output projection, a
flattened feature map by the layer behind it, a residual width by every layer that branches off, the
state of a recurrent layer by what is behind it and by the layer itself, a step later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from scipy.linalg import block_diag

from graphprune.analysis.groups import Group
from graphprune.onnx.operands import attribute
from graphprune.onnx.states import AXES, RECURRENT, STATE, State
from graphprune.rules.context import is_weight
from graphprune.scoring.statistics import Axes
from graphprune.selection.criteria import power_sums, units_at

Array = np.ndarray[Any, Any]

_Sums = tuple[Callable[[float], Array], Callable[[], Array]]
"""Makes sums of powers of the weights of each channel, and products of them between channels."""

_PIECE = 1 << 22
"""Elements of a weight that are turned to float64 at a time."""

_CONVS = ("Conv", "FusedConv", "ConvTranspose")


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear layer that reads a group.

    Attributes:
        value: The activation it reads.
        axis: The axis of channels there, or axes that count them together.
        units: Unit of the group that each channel carries, -1 for none: `(channels,)`.
        energy: Sum of the squared weights that each channel is multiplied by: `(channels,)`.
        absolute: The same with absolute weights.
        gram: Makes the products of these weights between channels, `(channels, channels)`, whose
            diagonal is `energy`.
    """

    value: str
    axis: Axes
    units: Array
    energy: Array
    absolute: Array
    gram: Callable[[], Array]


@dataclass(frozen=True, eq=False)
class _Use:
    """An activation of a group as one layer reads it."""

    group: Group
    node: ir.Node
    axis: int
    units: Array
    channels: Mapping[str, Array]
    """Units along the channel axis of each activation of the group, by name (convolutions: axis 1)."""


def is_recurrent(group: Group) -> bool:
    """Whether the group is the hidden width of a recurrent layer, whose loop amplifies errors."""
    return any(m.site.op in RECURRENT and m.site.input == STATE for m in group.members)


def readers_of(
    group: Group,
    uses: Mapping[str, list[tuple[ir.Node, int]]],
    states: Mapping[str, State],
) -> list[Reader]:
    """The layers that read `group`; empty where none is linear.

    A channel that a grouped or depthwise convolution only hands on, to outputs that leave with it,
    is not read there: what comes behind reads it. Empty too for units of a recurrent layer that has
    no `State`: the loop amplifies what leaves, and nothing gives that back.

    Args:
        group: Of the analysis of the model.
        uses: Activation -> nodes that read it, and as which input (see `uses_of`).
        states: Of recurrent layers (`graphprune.onnx.states`).
    """
    channels = {
        m.site.name: units_at(group, m)
        for m in group.members
        if not m.site.is_weight and m.resolved.axes == (1,)
    }
    found = []
    for member in group.members:
        axes = member.resolved.axes
        if member.site.op in RECURRENT and member.site.input == STATE and member.axis == 2:
            if member.site.node not in states:
                return []
            found.append(_loop(states[member.site.node], units_at(group, member)))
        if member.site.is_weight or len(axes) != 1:
            continue
        units = units_at(group, member)
        for node, position in uses.get(member.site.name, ()):
            reader = _reader(
                _Use(group, node, axes[0], units, channels), position, len(member.site.shape)
            )
            if reader is not None and (reader.energy[units >= 0] > 0).any():
                found.append(reader)
    return found


def _loop(state: State, units: Array) -> Reader:
    """A recurrent layer as what reads its own state, all directions together."""
    weights = state.weights
    directions, _, width = weights.shape
    both = np.tile(units, directions) if units.size == width else units
    energy, absolute = (power_sums(weights, (0, 2), p).reshape(-1) for p in (2, 1))
    return Reader(state.value, AXES, both, energy, absolute, lambda: _loop_gram(weights))


def _loop_gram(weights: Array) -> Array:
    """Directions do not meet."""
    return np.asarray(block_diag(*(_product(w, 1) for w in weights)))


def uses_of(model: ir.Model) -> dict[str, list[tuple[ir.Node, int]]]:
    """Activation of the top graph -> the nodes that read it, each with the number of the input."""
    found: dict[str, list[tuple[ir.Node, int]]] = {}
    for node in model.graph:
        for position, value in enumerate(node.inputs):
            if value is not None and value.producer() is not None and not is_weight(value):
                found.setdefault(value.name or "", []).append((node, position))
    return found


def _reader(use: _Use, position: int, rank: int) -> Reader | None:
    node = use.node
    found: _Sums | None = None
    if node.op_type in _CONVS and position == 0 and use.axis == 1:
        found = _convolution(use)
    elif node.op_type in ("Gemm", "FusedGemm") and position == 0 and use.axis == 1:
        if not attribute(node, "transA"):
            found = _matrix(node, 1, 1 if attribute(node, "transB") else 0)
    elif node.op_type in ("MatMul", "FusedMatMul"):
        if attribute(node, "transA") or attribute(node, "transBatchA"):
            return None
        if position == 0 and use.axis == rank - 1:
            found = _matrix(node, 1, 1 if attribute(node, "transB") else 0)
        elif position == 1 and use.axis == rank - 2 and not attribute(node, "transB"):
            found = _matrix(node, 0, 1)
    elif node.op_type in RECURRENT and position == 0 and use.axis == rank - 1:
        found = _matrix(node, 1, 2)
    if found is None:
        return None
    sums, gram = found
    energy, absolute = sums(2), sums(1)
    if energy.shape != use.units.shape:
        return None
    value = node.inputs[position]
    assert value is not None
    return Reader(value.name or "", use.axis, use.units, energy, absolute, gram)


def _convolution(use: _Use) -> _Sums | None:
    weight = _weight(use.node, 1)
    if weight is None:
        return None
    return lambda p: _conv_sums(use, weight, p), lambda: _conv_gram(use, weight)


def _matrix(node: ir.Node, index: int, axis: int) -> _Sums | None:
    weight = _weight(node, index)
    if weight is None or weight.ndim != (3 if node.op_type in RECURRENT else 2):
        return None
    return lambda p: power_sums(weight, (axis,), p), lambda: _product(weight, axis)


def _product(weight: Array, axis: int) -> Array:
    """Products of the weights between places along an axis, summed over all others."""
    count = weight.shape[axis]
    rows = np.moveaxis(weight, axis, 0).reshape(count, -1)
    total = np.zeros((count, count))
    step = max(1, _PIECE // max(count, 1))
    for start in range(0, rows.shape[1], step):
        piece = rows[:, start : start + step].astype(np.float64)
        total += piece @ piece.T
    return total


def _conv_sums(use: _Use, weight: Array, p: float) -> Array:
    """Powers of the weights of each input channel; those to outputs that leave with it are 0."""
    if attribute(use.node, "group", 1) == 1:
        return power_sums(weight, (0 if use.node.op_type == "ConvTranspose" else 1,), p)
    return np.asarray((np.abs(_by_group(use, weight)) ** p).sum((2, 3)).reshape(-1))


def _conv_gram(use: _Use, weight: Array) -> Array:
    """Their products between input channels; those of different groups do not meet."""
    if attribute(use.node, "group", 1) == 1:
        return _product(weight, 0 if use.node.op_type == "ConvTranspose" else 1)
    return np.asarray(block_diag(*(_product(w, 0) for w in _by_group(use, weight))))


def _by_group(use: _Use, weight: Array) -> Array:
    """`(groups, inputs, outputs, taps)`, those to outputs that leave with the input are 0."""
    groups = int(attribute(use.node, "group", 1))
    if use.node.op_type == "ConvTranspose":  # in, out of its group; Conv the other way
        found = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
    else:
        shape = (groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
        found = weight.reshape(shape).transpose(0, 2, 1, 3)
    found = found.astype(np.float64)
    _, inputs, outputs, _ = found.shape
    made = use.channels.get(use.node.outputs[0].name or "")
    if made is not None and made.size == groups * outputs and use.units.size == groups * inputs:
        mine = use.units.reshape(groups, inputs, 1, 1)
        found = np.where(made.reshape(groups, 1, outputs, 1) == mine, 0, found)
    return found


def _weight(node: ir.Node, index: int) -> Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not is_weight(value) or value.const_value is None:
        return None
    array = value.const_value.numpy()
    return array if array.dtype.kind == "f" or array.dtype.itemsize == 2 else None


def values_read(found: Mapping[str, list[Reader]]) -> Iterator[tuple[str, Axes]]:
    """Every activation that some reader reads, once, with its channel axis."""
    seen: dict[str, Axes] = {}
    for readers in found.values():
        for reader in readers:
            seen.setdefault(reader.value, reader.axis)
    yield from seen.items()
