"""Means and variances over kept entries only, written out with primitive ops.

In the masked original removed entries are zero, but a norm still counts them. Where the plan says
that a node's statistics run over what is kept, the twin computes them so: the mean over everything
times size / kept; the variance of centred values that are masked again. All in float64, so that
the reference is no less exact than the pruned graph. Formulas: ONNX operator reference; for
`com.microsoft`, onnxruntime's docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.emit import Emitter
from graphprune.certify.entries import Entries
from graphprune.cut import Cut
from graphprune.onnx.operands import VIEWS

Array = np.ndarray[Any, Any]

NEUTRAL = frozenset(
    (
        "ReduceSum",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "LpNormalization",
        "BatchNormalization",
    )
)
"""Ops that give the same with removed zeros as without them."""


_SUMS = frozenset(("ReduceSum", "ReduceSumSquare", "ReduceL1"))
_VIEWS = VIEWS | {"Cast"}
"""Ops that may stand between a sum and the factor that makes a mean of it."""


def averaged(node: ir.Node) -> ir.Value | None:
    """What a statistics node takes statistics of: its first input. Of a Mul or Div, which makes a
    mean of a sum, it is the first input of that sum; None where there is none."""
    if node.op_type not in ("Mul", "Div"):
        return node.inputs[0] if node.inputs else None
    for value in node.inputs if node.op_type == "Mul" else node.inputs[:1]:
        while value is not None and (producer := value.producer()) is not None:
            if producer.op_type in _SUMS:
                return producer.inputs[0]
            value = producer.inputs[0] if producer.op_type in _VIEWS else None
    return None


class NoStatisticsError(ValueError):
    """The twin has no formula for a node; the message says which."""


@dataclass(frozen=True, eq=False)
class Norm:
    """One statistics node while it is written out.

    Attributes:
        emit: Where its replacement goes.
        node: The node in the twin.
        axes: What the plan says its statistics run over.
        entries: Its first input; of a mean written by hand that of the sum.
        dtypes: Element types of its outputs.
        contents: What its inputs hold, where that is constant.
    """

    emit: Emitter
    node: ir.Node
    axes: Sequence[int]
    entries: Entries
    dtypes: Sequence[ir.DataType]
    contents: Sequence[Array | None]

    def attr(self, name: str, default: Any) -> Any:
        """An attribute's value."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.value

    def input(self, index: int) -> ir.Value | None:
        """Input `index` as float64, None where it is omitted."""
        value = self.node.inputs[index] if index < len(self.node.inputs) else None
        return None if value is None else self.emit.op("Cast", value, to=ir.DataType.DOUBLE.value)

    def scalar(self, number: float) -> ir.Value:
        """A float64 constant."""
        return self.emit.constant(np.array(number, dtype=np.float64))

    def mean(self, x: ir.Value, axes: Sequence[int], factor: Array) -> ir.Value:
        """Mean over everything times `factor`: the mean over what is kept."""
        return self.emit.op("Mul", self.emit.mean(x, axes), self.emit.constant(factor))

    def moments(
        self, x: ir.Value, axes: Sequence[int], entries: Entries
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Mean, centred values (zero where removed, as far as known) and variance over `axes`."""
        factor = entries.surplus(axes) * entries.unseen(axes)
        mean = self.mean(x, axes, factor)
        centred = self.emit.op("Sub", x, mean)
        mask = entries.mask()
        if mask is not None:
            centred = self.emit.op("Where", self.emit.constant(mask), centred, self.scalar(0.0))
        variance = self.mean(self.emit.op("Mul", centred, centred), axes, factor)
        unseen = entries.unseen(axes)
        if unseen != 1.0:  # each removed zero was counted as a deviation of one mean
            excess = self.emit.op("Mul", self.emit.op("Mul", mean, mean), self.scalar(unseen - 1.0))
            variance = self.emit.op("Sub", variance, excess)
        return mean, centred, variance

    def inverse_deviation(self, variance: ir.Value, epsilon: float) -> ir.Value:
        """1 / sqrt(variance + epsilon)."""
        added = self.emit.op("Add", variance, self.scalar(epsilon))
        return self.emit.op("Reciprocal", self.emit.op("Sqrt", added))

    def affine(self, y: ir.Value, scale: ir.Value | None, bias: ir.Value | None) -> ir.Value:
        """Times scale plus bias, as far as given."""
        if scale is not None:
            y = self.emit.op("Mul", y, scale)
        return y if bias is None else self.emit.op("Add", y, bias)


Outputs = list[ir.Value | None]


def write_out(norm: Norm) -> Outputs | None:
    """New values for the node's outputs, in the order of its outputs; None where it may stay.

    Raises:
        NoStatisticsError: An op without a formula.
    """
    op = norm.node.op_type
    if op in NEUTRAL:
        return None
    if op not in _FORMULAS:
        raise NoStatisticsError(f"no formula for the statistics of {op} over kept entries")
    outputs = _FORMULAS[op](norm)
    return [
        None if value is None else norm.emit.op("Cast", value, to=dtype.value)
        for value, dtype in zip(outputs, norm.dtypes, strict=False)
    ]


def _data(norm: Norm) -> ir.Value:
    x = norm.input(0)
    assert x is not None  # the data input of a norm cannot be omitted
    return x


def _tail(norm: Norm) -> list[int]:
    rank = len(norm.entries.shape)
    axis = int(norm.attr("axis", -1))
    return list(range(axis + rank if axis < 0 else axis, rank))


def _layer(
    norm: Norm, x: ir.Value, scale: int, bias: int, epsilon: float, axes: list[int]
) -> Outputs:
    mean, centred, variance = norm.moments(x, axes, norm.entries)
    inverse = norm.inverse_deviation(variance, norm.attr("epsilon", epsilon))
    y = norm.emit.op("Mul", centred, inverse)
    return [norm.affine(y, norm.input(scale), norm.input(bias)), mean, inverse]


def _rms(norm: Norm, x: ir.Value, scale: int, epsilon: float, axes: list[int]) -> Outputs:
    factor = norm.entries.surplus(axes) * norm.entries.unseen(axes)
    square = norm.mean(norm.emit.op("Mul", x, x), axes, factor)
    inverse = norm.inverse_deviation(square, norm.attr("epsilon", epsilon))
    return [norm.affine(norm.emit.op("Mul", x, inverse), norm.input(scale), None), inverse]


def _layer_norm(norm: Norm) -> Outputs:
    return _layer(norm, _data(norm), 1, 2, 1e-5, _tail(norm))


def _rms_norm(norm: Norm) -> Outputs:
    return _rms(norm, _data(norm), 1, 1e-5, _tail(norm))


def _sum(norm: Norm, bias: int) -> ir.Value:
    """input + skip + bias, without what is removed of the bias."""
    total = _data(norm)
    for other in (norm.input(1), norm.input(bias)):
        total = total if other is None else norm.emit.op("Add", total, other)
    mask = norm.entries.mask()
    if mask is None:
        return total
    return norm.emit.op("Where", norm.emit.constant(mask), total, norm.scalar(0.0))


def _skip_layer_norm(norm: Norm) -> Outputs:
    total = _sum(norm, 4)
    return [*_layer(norm, total, 2, 3, 1e-12, [len(norm.entries.shape) - 1]), total]


def _skip_rms_norm(norm: Norm) -> Outputs:
    total = _sum(norm, 3)
    y, inverse = _rms(norm, total, 2, 1e-12, [len(norm.entries.shape) - 1])
    return [y, None, inverse, total]


def _per_channel(norm: Norm, index: int, dims: list[int]) -> ir.Value | None:
    value = norm.input(index)
    return None if value is None else norm.emit.op("Reshape", value, norm.emit.ints(*dims))


def _instance_norm(norm: Norm) -> Outputs:
    rank = len(norm.entries.shape)
    _, centred, variance = norm.moments(_data(norm), list(range(2, rank)), norm.entries)
    y = norm.emit.op("Mul", centred, norm.inverse_deviation(variance, norm.attr("epsilon", 1e-5)))
    dims = [-1] + [1] * (rank - 2)
    return [norm.affine(y, _per_channel(norm, 1, dims), _per_channel(norm, 2, dims))]


def _group_norm(norm: Norm) -> Outputs:
    """[N, C, ...] seen as [N, G, C/G, positions]; scale and bias per group up to opset 20."""
    groups = int(norm.attr("num_groups", 1))
    inner = norm.entries.shape[1] // groups
    if norm.entries.dropped or any({c.axis, *c.blocks} != {1} for c in norm.entries.held):
        raise NoStatisticsError("GroupNormalization cut along something other than channels")
    channels = _split_channels(norm.entries.held, groups, inner)
    entries = Entries((norm.entries.shape[0], groups, inner, 1), channels, ())
    emit, x = norm.emit, _data(norm)
    split = emit.op("Reshape", x, emit.ints(0, groups, inner, -1))
    _, centred, variance = norm.moments(split, [2, 3], entries)
    y = emit.op("Mul", centred, norm.inverse_deviation(variance, norm.attr("epsilon", 1e-5)))
    dims = [groups, inner, 1] if norm.emit.opset >= 21 else [groups, 1, 1]
    y = norm.affine(y, _per_channel(norm, 1, dims), _per_channel(norm, 2, dims))
    return [emit.op("Reshape", y, emit.op("Shape", x))]


def _split_channels(cuts: Sequence[Cut], groups: int, inner: int) -> tuple[Cut, ...]:
    """Channel cuts as cuts of (group, channel in the group), which may keep different channels."""
    if not cuts:
        return ()
    stays = np.zeros(groups * inner, dtype=np.bool_)
    stays[cuts[0].kept] = True
    table = stays.reshape(groups, inner)
    alive = np.flatnonzero(table.any(axis=1))
    counts = table[alive].sum(axis=1)
    if len(set(counts.tolist())) > 1:
        raise NoStatisticsError("GroupNormalization keeps different numbers of channels per group")
    rows = np.stack([np.flatnonzero(table[g]) for g in alive])
    return (Cut(1, groups, alive), Cut(2, inner, rows, blocks=(1,)))


def _mean_variance(norm: Norm) -> Outputs:
    rank = len(norm.entries.shape)
    axes = [int(a) % rank for a in norm.attr("axes", (0, 2, 3))]
    _, centred, variance = norm.moments(_data(norm), axes, norm.entries)
    deviation = norm.emit.op("Add", norm.emit.op("Sqrt", variance), norm.scalar(1e-9))
    return [norm.emit.op("Div", centred, deviation)]


def _reduce_mean(norm: Norm) -> Outputs:
    rank = len(norm.entries.shape)
    given = norm.attr("axes", None)
    if given is None and len(norm.node.inputs) > 1 and norm.node.inputs[1] is not None:
        if norm.contents[1] is None:
            raise NoStatisticsError("ReduceMean over axes that are not constant")
        given = norm.contents[1].reshape(-1).tolist()
    axes = sorted(int(a) % rank for a in given) if given else list(range(rank))
    mean = norm.mean(_data(norm), axes, norm.entries.surplus(axes) * norm.entries.unseen(axes))
    if norm.attr("keepdims", 1):
        return [mean]
    if norm.emit.opset >= 13:
        return [norm.emit.op("Squeeze", mean, norm.emit.ints(*axes))]
    return [norm.emit.op("Squeeze", mean, axes=axes)]


def _global_average(norm: Norm) -> Outputs:
    axes = list(range(2, len(norm.entries.shape)))
    factor = norm.entries.surplus(axes) * norm.entries.unseen(axes)
    return [norm.mean(_data(norm), axes, factor)]


def _mean_by_hand(norm: Norm) -> Outputs:
    """A sum over everything times 1 / counted, or divided by it."""
    one, other = norm.input(0), norm.input(1)
    assert one is not None
    assert other is not None
    mean = norm.emit.op(norm.node.op_type, one, other)
    return [norm.emit.op("Mul", mean, norm.scalar(norm.entries.ratio(norm.axes)))]


_FORMULAS: dict[str, Callable[[Norm], Outputs]] = {
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "MeanVarianceNormalization": _mean_variance,
    "ReduceMean": _reduce_mean,
    "GlobalAveragePool": _global_average,
    "Mul": _mean_by_hand,
    "Div": _mean_by_hand,
}
