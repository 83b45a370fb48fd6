"""Which layers are refitted, in which order, and what the original says they should give.

A layer's target is its output in the *original*, restricted to the channels that stay. Where the
output is only added to a skip, the target is the original's sum less what the skip holds in the
*pruned* model: so the layer also makes good what the skip got wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.linear import Linear, linear_of
from graphprune.compensation.tail import affine_tail
from graphprune.cut import Cut, pruned_shape, take
from graphprune.onnx.operands import op_names
from graphprune.onnx.peaks import global_maximum
from graphprune.plan import Plan
from graphprune.rules.context import is_weight, node_name
from graphprune.scoring.statistics import LEAST_ROWS, ROWS, rows_of

Array = np.ndarray[Any, Any]
Dims = Mapping[str, tuple[int, ...]]

ROWS_PER_INPUT = 10
"""Rows of a layer that are looked at for each of its inputs, `LEAST_ROWS` to `ROWS` in all."""

ROWS_PER_SAMPLE = 64
"""As many of each sample, where that is more and `rows_of` allows so many of such a width."""

_LINEAR = op_names(
    "Conv ConvTranspose ConvInteger QLinearConv FusedConv Gemm FusedGemm MatMul FusedMatMul "
    "MatMulInteger QLinearMatMul DynamicQuantizeMatMul MatMulNBits Einsum Attention QAttention LSTM "
    "GRU RNN DynamicQuantizeLSTM"
)


@dataclass(frozen=True, eq=False)
class Target:
    """A layer to refit.

    The value that is compared is `scale * output + shift + skip`, channel by channel. Where what a
    layer makes is no value of the graph, it is `value @ through + constant`, of what the original
    of the layer reads.

    Attributes:
        layer: In the pruned graph, with the weights it has before.
        value: What is compared, a value of both graphs: the layer's output, what a batch norm
            makes of it, or a sum with that.
        skip: The other operand of that sum, None without one.
        cuts: Of `value`.
        scale: `(channels,)`.
        shift: `(channels,)`.
        through: `(inputs of the original, channels)` or None.
        constant: `(channels,)`.
        peaks: Whether only the largest of each channel counts, over all places of a sample.
    """

    layer: Linear
    value: str
    skip: str | None
    cuts: tuple[Cut, ...]
    scale: Array
    shift: Array
    through: Array | None = None
    constant: Array | None = None
    peaks: bool = False

    @property
    def source(self) -> str:
        """What the layer reads."""
        value = self.layer.node.inputs[0]
        assert value is not None
        return value.name or ""

    @property
    def live(self) -> Array:
        """Channels of which anything comes through, `(channels,)` bool."""
        size = np.abs(self.scale)
        return np.asarray(size > 1e-6 * size.max(initial=0.0))


def find_targets(
    model: ir.Model, plan: Plan, dims: Dims, original: ir.Model
) -> tuple[list[Target], list[str]]:
    """Layers behind a cut, in order, and the names of linear layers behind one that are left.

    Args:
        model: The pruned graph.
        plan: What was cut.
        dims: Shapes of the original's values, at any binding.
        original: What the plan was applied to.
    """
    before = {node_name(node): node for node in original.graph}
    order = {node: i for i, node in enumerate(model.graph)}
    changed: set[ir.Value] = set()  # cut, or other than in the original
    targets: list[Target] = []
    left: list[str] = []
    for node in model.graph:
        touched = _rewired(node, before) or any(
            v is not None and not is_weight(v) and (v in changed or (v.name or "") in plan.tensors)
            for v in node.inputs
        )
        if not touched:
            continue
        changed.update(node.outputs)
        layer = linear_of(node)
        target = None
        if layer is not None and layer.gated:
            target = _gated(layer, plan, before.get(node_name(node)))
        elif layer is not None:
            target = _target(layer, plan, dims, order)
        if target is not None:
            targets.append(target)
        elif node.op_type in _LINEAR and any(map(_is_matrix, node.inputs[1:])):
            left.append(node.name or node.outputs[0].name or node.op_type)
    return targets, left


def _rewired(node: ir.Node, before: Mapping[str, ir.Node]) -> bool:
    """Whether a node reads another activation than in the original: a layer in front of it left."""
    old = before.get(node_name(node))
    if old is None:
        return True
    pairs = zip(node.inputs, old.inputs, strict=False)
    return any(
        a is not None
        and b is not None
        and not is_weight(a)
        and not is_weight(b)
        and a.name != b.name
        for a, b in pairs
    )


def _is_matrix(value: ir.Value | None) -> bool:
    if value is None or not is_weight(value) or value.const_value is None:
        return False
    return len(value.const_value.shape) >= 2


def _target(layer: Linear, plan: Plan, dims: Dims, order: Mapping[ir.Node, int]) -> Target | None:
    output = layer.output
    name = output.name or ""
    cuts = plan.tensors.get(name, ())
    if name not in dims or any(c.dynamic for c in cuts):
        return None
    rank = len(dims[name])
    axes = {a % rank for a in layer.axes}
    left = pruned_shape(dims[name], cuts)
    if any(c.axis not in axes for c in cuts) or math.prod(left[a] for a in axes) != layer.bias.size:
        return None
    plain = Target(layer, name, None, cuts, np.ones(layer.bias.size), np.zeros(layer.bias.size))
    if len(axes) > 1:
        return plain

    def comparable(value: ir.Value) -> bool:
        same = dims.get(value.name or "") == dims[name]
        return same and _same_cuts(plan.tensors.get(value.name or "", ()), cuts)

    end, scale, shift = affine_tail(output, layer.bias.size, -layer.axes[0] - 1)
    uses = list(end.uses())
    if len(uses) == 1 and not end.is_graph_output() and uses[0].node.op_type == "Add":
        add = uses[0].node
        other, total = add.inputs[1 - uses[0].idx], add.outputs[0]
        alike = other is not None and dims.get(other.name or "") == dims[name]
        if other is not None and alike and _is_skip(other, layer.node, order) and comparable(total):
            return Target(layer, total.name or "", other.name, cuts, scale, shift)
    if comparable(end):
        peaks = global_maximum(end, dims, tuple(axes)) is not None
        return Target(layer, end.name or "", None, cuts, scale, shift, peaks=peaks)
    return plain


def mixed_target(target: Target, through: Array | None) -> Target:
    """The target of a layer whose dims inside heads were mixed: the same mixture of the original's.

    Args:
        target: Of the layer.
        through: `(channels of the original, channels)`; None where nothing was mixed.
    """
    if through is None:
        return target
    one, zero = np.ones(through.shape[1]), np.zeros(through.shape[1])
    return Target(target.layer, target.layer.output.name or "", None, (), one, zero, through, zero)


def _gated(layer: Linear, plan: Plan, before: ir.Node | None) -> Target | None:
    """Of a layer whose first product is inside of an op: from what its original reads."""
    if before is None or before.inputs[0] is None or not before.inputs[0].name:
        return None
    recurrent = layer.node.op_type != "Attention"
    weight = _kept(before, 1, plan, 2 if recurrent else 0)
    if weight is None:
        return None
    through = weight.reshape(-1, weight.shape[-1]).T if recurrent else weight
    constant = np.zeros(layer.bias.size)
    index = 3 if recurrent else 2
    if index < len(before.inputs) and before.inputs[index] is not None:
        bias = _kept(before, index, plan, None)
        if bias is None:
            return None
        constant = (bias.reshape(len(weight), 2, -1)[:, 0] if recurrent else bias).reshape(-1)
    if through.shape[1] != layer.bias.size or constant.size != layer.bias.size:
        return None
    one = np.ones(layer.bias.size)
    return Target(layer, before.inputs[0].name, None, (), one, 0 * one, through, constant)


def _kept(node: ir.Node, index: int, plan: Plan, whole: int | None) -> Array | None:
    """A weight of the original as it was cut, except along the axis `whole`."""
    value = node.inputs[index]
    if value is None or not is_weight(value) or value.const_value is None:
        return None
    name = node_name(node)
    uses = [u for u in plan.initializers if u.node == name and u.input == index]
    cuts = [c for use in uses for c in use.cuts if c.axis != whole]
    if any(whole in c.blocks for c in cuts):
        return None
    return take(np.asarray(value.const_value.numpy(), np.float64), cuts)


def _is_skip(value: ir.Value, node: ir.Node, order: Mapping[ir.Node, int]) -> bool:
    """An activation that is finished before `node` runs, so that no later refit changes it."""
    maker = value.producer()
    return not is_weight(value) and (maker is None or order.get(maker, len(order)) < order[node])


def _same_cuts(one: Sequence[Cut], other: Sequence[Cut]) -> bool:
    return len(one) == len(other) and all(
        a.axis == b.axis and not a.blocks and not b.blocks and np.array_equal(a.kept, b.kept)
        for a, b in zip(one, other, strict=True)
    )


def rows_per_sample(target: Target, samples: int) -> int:
    """How many rows of each sample are looked at: more where there are more weights to fit, or samples."""
    inputs = int(target.layer.weights.shape[1])
    cheap = min(ROWS_PER_SAMPLE * samples, rows_of(max(inputs, target.scale.size)))
    rows = min(ROWS, max(LEAST_ROWS, ROWS_PER_INPUT * inputs, cheap))
    return max(1, -(-rows // max(samples, 1)))
