"""Quantised models: QuantizeLinear / DequantizeLinear around layers, and layers on integers.

A scale and a zero point of one number are of no concern; vectors of them run along an axis and
leave with its channels. Removed entries of a quantised tensor are masked with 0, which is not the
number zero where there is a zero point: a contraction over them is exact only if one side has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext, positive
from graphprune.rules.onnx._macs import conv_macs, gemm_macs, matmul_macs, matmul_n_bits_macs
from graphprune.rules.registry import boundary_rule, op_rule
from graphprune.rules.resize import Resize
from graphprune.rules.shared.conv import channel_operand, conv_like
from graphprune.rules.shared.elementwise import broadcast_meet, pointwise
from graphprune.rules.shared.matmul import product

_ZERO_POINTS = "a removed channel would not be zero: both sides have a zero point"
_MS = "com.microsoft"


# -- between numbers and integers ------------------------------------------------------------------


@op_rule("", "QuantizeLinear", "DequantizeLinear")
@op_rule(_MS, "QuantizeLinear", "DequantizeLinear")
def quantize(ctx: OpContext) -> None:
    """Each element alone; scale and zero point for the tensor, an axis, or blocks of an axis."""
    x = ctx.moved(0)
    if ctx.labels(1).rank == 0 or max(ctx.shape(1), default=1) == 1:
        ctx.set(x.factors)
        return
    axis = positive(int(ctx.attr("axis", 1)), x.rank)
    block = int(ctx.attr("block_size", 0) or 0)
    if block:
        ctx.set(_blocked(ctx, x, axis, block).factors)
        return
    for i in (1, 2):
        if ctx.has(i):
            x = channel_operand(ctx, x, i, axis)
    ctx.set(x.factors)


def _blocked(ctx: OpContext, x: Labels, axis: int, block: int) -> Labels:
    """Scales of shape [..., blocks, ...]: whole blocks of the axis leave, none if one is broken.

    In the space [..., blocks, block, ...] the labels are tied within a block, and the scales have a
    size of 1 there.
    """
    count = ctx.shape(1)[axis]
    whole = count * block == x.shape[axis]
    names = {a: a if a <= axis else a + 1 for a in range(x.rank)}
    if whole:
        shape = (*x.shape[:axis], count, block, *x.shape[axis + 1 :])
        split = ctx.alg.reshape(x, shape)
        split = ctx.alg.tie_across(split, [axis + 1], "blocks of it share a scale")
    else:
        ctx.alg.pin([f for f in x.factors if axis in f.axes], "its last block is not whole")
        shape = (*x.shape[:axis], 1, 1, *x.shape[axis + 1 :])
        rest = tuple(f.renamed(names) for f in x.factors if axis not in f.axes)
        split = Labels(shape, rest)
    for i in (1, 2):
        if not ctx.has(i):
            continue
        scale = ctx.labels(i)
        kept = [f for f in scale.factors if whole or axis not in f.axes]
        view = Labels(
            tuple(1 if a == axis + 1 else n for a, n in enumerate(shape)),
            tuple(f.renamed(names) for f in kept),
            scale.weight,
        )
        met = ctx.alg.meet([split, view])
        if scale.weight:
            back = {new: old for old, new in names.items()}
            ctx.adopt(i, [f.renamed(back) for f in met.operands[1]])
        split = Labels(shape, met.factors)
    if whole:
        return ctx.alg.reshape(split, x.shape)
    back = {new: old for old, new in names.items()}
    return Labels(x.shape, tuple(f.renamed(back) for f in split.factors))


@op_rule("", "DynamicQuantizeLinear")
def dynamic_quantize(ctx: OpContext) -> None:
    """Its range always includes zero, so removed zeros do not move it."""
    ctx.set(ctx.moved(0).factors)


# -- layers on integers ----------------------------------------------------------------------------


def zero(ctx: OpContext, i: int) -> bool:
    """Whether zero point i is absent or known to be zero."""
    if not ctx.has(i):
        return True
    known = ctx.const(i)
    return known is not None and not np.asarray(known).astype(np.int64).any()


def single(ctx: OpContext, inputs: Sequence[int]) -> bool:
    """Whether all of these scales and zero points are of one number."""
    return all(not ctx.has(i) or max(ctx.shape(i), default=1) == 1 for i in inputs)


def contracted(ctx: OpContext, i: int, axis: int, points: tuple[int, int]) -> None:
    """Pin the contracted axis of input i unless one of both zero points is none."""
    if not any(zero(ctx, p) for p in points):
        t = ctx.moved(i)
        at = positive(axis, t.rank)
        ctx.alg.pin([f for f in t.factors if at in f.axes], _ZERO_POINTS)


def resize_quantized_conv(w: int) -> Callable[[Resize], None]:
    """`group`, for a kernel at input w."""

    def resize(r: Resize) -> None:
        if r.attr("group", 1) != 1:
            r.set_attr("group", r.new(0)[1] // r.new(w)[1])

    return resize


@op_rule("", "QLinearConv", macs=partial(conv_macs, weight=3), resize=resize_quantized_conv(3))
def qlinear_conv(ctx: OpContext) -> None:
    """x, scale, point, w, scale, point, y scale, point, bias."""
    if not single(ctx, (1, 2, 6, 7)):
        ctx.boundary("scales for each input channel")
        return
    contracted(ctx, 0, 1, (2, 5))
    labels = conv_like(ctx, 0, 3, 8, groups=int(ctx.attr("group", 1)), transposed=False)
    for i in (4, 5):
        labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)


boundary_rule(
    _MS,
    "QLinearConv",
    reason="its layout was made for one runtime: prune the model before it is optimised",
)


@op_rule("", "ConvInteger", macs=conv_macs, resize=resize_quantized_conv(1))
def conv_integer(ctx: OpContext) -> None:
    """x, w, x's zero point, w's zero point."""
    if not single(ctx, (2,)):
        ctx.boundary("a zero point for each input channel")
        return
    contracted(ctx, 0, 1, (2, 3))
    labels = conv_like(ctx, 0, 1, None, groups=int(ctx.attr("group", 1)), transposed=False)
    if ctx.has(3):
        labels = channel_operand(ctx, labels, 3, axis=1)
    ctx.set(labels.factors)


def quantized_product(
    ctx: OpContext, a: int, b: int, points: tuple[int, int], columns: Sequence[int]
) -> Labels | None:
    """A product of integer inputs; `columns` are scales and zero points for each column of b."""
    wide = [i for i in columns if ctx.has(i) and max(ctx.shape(i), default=1) > 1]
    if not single(ctx, points[:1]) or any(len(ctx.shape(i)) != 1 for i in wide):
        ctx.boundary("scales or zero points of a shape that is not supported")
        return None
    contracted(ctx, a, -1, points)
    labels = product(ctx, a, b)
    for i in wide:
        labels = channel_operand(ctx, labels, i, axis=labels.rank - 1)
    return labels


@op_rule("", "MatMulInteger", macs=matmul_macs)
def matmul_integer(ctx: OpContext) -> None:
    """A, B, A's zero point, B's zero point."""
    labels = quantized_product(ctx, 0, 1, (2, 3), (3,))
    if labels is not None:
        ctx.set(labels.factors)


@op_rule("", "QLinearMatMul", macs=matmul_macs)
def qlinear_matmul(ctx: OpContext) -> None:
    """a, scale, point, b, scale, point, y scale, point."""
    if not single(ctx, (1, 6, 7)):
        ctx.boundary("scales for each row")
        return
    labels = quantized_product(ctx, 0, 3, (2, 5), (4, 5))
    if labels is not None:
        ctx.set(labels.factors)


@op_rule(_MS, "MatMulIntegerToFloat", macs=matmul_macs)
def matmul_integer_to_float(ctx: OpContext) -> None:
    """A, B, A's scale, B's scale, A's zero point, B's zero point, bias."""
    if not single(ctx, (2,)):
        ctx.boundary("scales for each row")
        return
    labels = quantized_product(ctx, 0, 1, (4, 5), (3, 5, 6))
    if labels is not None:
        ctx.set(labels.factors)


@op_rule(_MS, "DynamicQuantizeMatMul", macs=matmul_macs)
def dynamic_quantize_matmul(ctx: OpContext) -> None:
    """A (quantised inside, a removed zero exactly), B, B's scale, B's zero point, bias."""
    labels = quantized_product(ctx, 0, 1, (_ABSENT, 3), (2, 3, 4))
    if labels is not None:
        ctx.set(labels.factors)


_ABSENT = 99
"""An input number that no node has."""


@op_rule(_MS, "QGemm", macs=gemm_macs)
def qgemm(ctx: OpContext) -> None:
    """A, scale, point, B, scale, point, C, y scale, y point."""
    transposed = bool(ctx.attr("transA", 0)), bool(ctx.attr("transB", 0))
    if not single(ctx, (1, 2, 7, 8)) or any(len(ctx.shape(i)) > 1 for i in (4, 5, 6) if ctx.has(i)):
        ctx.boundary("scales or a bias of a shape that is not supported")
        return
    contracted(ctx, 0, 0 if transposed[0] else 1, (2, 5))
    labels = product(ctx, 0, 3, a_transposed=transposed[0], b_transposed=transposed[1])
    for i in (4, 5, 6):
        if ctx.has(i):
            labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)


def resize_n_bits(r: Resize) -> None:
    """`N`: the columns that are left."""
    cut = r.out_cut(len(r.old_out()) - 1)
    if cut is not None:
        r.set_attr("N", cut.count)


@op_rule(_MS, "MatMulNBits", macs=matmul_n_bits_macs, resize=resize_n_bits)
def matmul_n_bits(ctx: OpContext) -> None:
    """A weight of 2 to 8 bits packed along its rows: columns leave, rows stay.

    B is [N, blocks, bytes]; scales, zero points and the bias are flat or begin with N.
    """
    ctx.pin(0, "its weight is packed along this axis")
    columns = int(ctx.attr("N"))
    inputs = [i for i in (1, 2, 3, 5) if ctx.has(i)]
    if not all(ctx.labels(i).weight and ctx.shape(i)[0] % columns == 0 for i in inputs) or ctx.has(
        4
    ):
        ctx.boundary("a packed layout that is not supported")
        return
    labels = ctx.alg.space.fresh(columns)
    for i in inputs:
        ctx.adopt(i, [Factor((0,), np.repeat(labels, ctx.shape(i)[0] // columns))])
    last = len(ctx.out_shape()) - 1
    rest = [f for f in ctx.labels(0).factors if last not in f.axes]
    ctx.set((*rest, Factor((last,), labels)))


# -- elementwise ops and pools on integers (onnxruntime) -------------------------------------------


@op_rule(_MS, "QLinearAdd", "QLinearMul")
def qlinear_binary(ctx: OpContext) -> None:
    """a, scale, point, b, scale, point, y scale, y point."""
    met = broadcast_meet(ctx, (0, 3))
    if met.merged and all(ctx.labels(i).factors and not ctx.labels(i).weight for i in (0, 3)):
        ctx.residual()
    ctx.set(met.factors)


@op_rule(_MS, "QLinearLeakyRelu", "QLinearSigmoid")
def qlinear_unary(ctx: OpContext) -> None:
    pointwise(ctx, [0])


@op_rule(_MS, "QLinearSoftmax")
def qlinear_softmax(ctx: OpContext) -> None:
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", -1)), x.rank)
    along = [axis] if int(ctx.attr("opset", 13)) >= 13 else range(axis, x.rank)
    reason = "QLinearSoftmax over it is not neutral to removed channels"
    ctx.set(ctx.alg.tie_across(x, along, reason).factors)


@op_rule(_MS, "QLinearGlobalAveragePool", "QLinearAveragePool")
def qlinear_pool(ctx: OpContext) -> None:
    x = ctx.moved(0)
    last = bool(ctx.attr("channels_last", 0))
    positions = range(1, x.rank - 1) if last else range(2, x.rank)
    ctx.set(ctx.alg.tie_across(x, positions, "a pool's window runs over it").factors)


@op_rule(_MS, "QLinearConcat")
def qlinear_concat(ctx: OpContext) -> None:
    """y scale, y point, then tensor, scale and point of each part."""
    inputs = range(2, len(ctx.node.inputs), 3)
    if not single(ctx, [i + k for i in inputs for k in (1, 2)]):
        ctx.boundary("scales for each channel")
        return
    parts = [ctx.labels(i) for i in inputs]
    result, now = ctx.alg.concat(parts, positive(int(ctx.attr("axis")), parts[0].rank))
    for i, part in zip(inputs, now, strict=True):
        ctx.adopt(i, part.factors)
    ctx.set(result)
