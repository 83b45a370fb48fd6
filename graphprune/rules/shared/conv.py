"""Convolutions, transposed ones too: 1 to 3 spatial dimensions, any groups and multiplier."""

from __future__ import annotations

from graphprune.labels import Factor, Labels
from graphprune.rules.base import RuleContext
from graphprune.rules.shared.matmul import place, taken

_WINDOW = "a convolution's window runs over it"
_MIN_BLOCKS = 4


def whole_groups(groups: int, inner: int, grid: int) -> bool:
    """Whether a grouped convolution gives up whole groups rather than channels inside them.

    Runtimes pad the channels of a group to their vector width (`grid`), so groups of few channels
    are pruned whole; with a handful of groups that would be too coarse.
    """
    return groups >= _MIN_BLOCKS and inner < 2 * grid


def conv_like(
    ctx: RuleContext, x: int, w: int, bias: int | None, *, groups: int, transposed: bool
) -> Labels:
    """Labels of the result of a (transposed) convolution of input x with weights w."""
    alg = ctx.alg
    data, weight = ctx.labels(x), ctx.labels(w)
    spatial = data.rank - 2
    window = range(2, 2 + spatial)
    if data.weight:
        data = ctx.moved(x)
    data = alg.tie_across(data, [*window], _WINDOW)
    weight = alg.tie_across(weight, [*window], _WINDOW)
    # Iteration space: group, output channel of a group, input channel of a group.
    out_axis = 1 if transposed else 0
    inputs = data.shape[1] // groups
    outputs = weight.shape[out_axis] // (1 if transposed else groups)
    split = (groups, weight.shape[0] // groups)
    blocks = alg.blocks and whole_groups(groups, inputs, alg.grid)

    flat = Labels(data.shape[:2], data.factors)
    kernel = Labels(weight.shape[:2], weight.factors, weight.weight)
    if groups == 1:
        return _dense(ctx, flat, kernel, w, bias, (3, 2) if transposed else (2, 3))
    x_view = alg.reshape(flat, (data.shape[0], groups, 1, inputs))
    w_view = alg.reshape(kernel, (*split, weight.shape[1]))
    if transposed:  # [g, i, o] -> [g, o, i]
        w_view = alg.transpose(w_view, (0, 2, 1))
    w_view = Labels((1, *w_view.shape), _shift(w_view.factors, 1), weight.weight)
    tracked = any(f.axes == (1,) or (blocks and 1 in f.axes) for f in x_view.factors)
    create = [] if tracked else [(1, 2)]
    met = alg.meet([x_view, w_view], contracted=[3], create=create, blocks=blocks)
    for factor in met.factors:
        if 1 in factor.index:
            # A group leaves with its inputs and its outputs, or it stays: here it stays.
            alg.balance(factor, rows_stay=True)
    if weight.weight:
        factors = Labels(w_view.shape[1:], _shift(met.operands[1], -1))
        if transposed:
            factors = alg.transpose(factors, (0, 2, 1))
        adopted = alg.reshape(factors, weight.shape[:2])
        ctx.adopt(w, adopted.factors)
    reduced = alg.reduce(met.factors, [3], blocks=blocks)
    result = alg.reshape(
        Labels((data.shape[0], groups, outputs, 1), reduced), (data.shape[0], groups * outputs)
    )
    return _biased(ctx, Labels(result.shape, result.factors), bias)


def _dense(
    ctx: RuleContext, x: Labels, w: Labels, at: int, bias: int | None, axes: tuple[int, int]
) -> Labels:
    """One group: a meet over (image, -, output, input), summed over the inputs."""
    met = ctx.alg.meet([place(x, (0, 3), 4), place(w, axes, 4)], contracted=[3], create=[(2,)])
    if w.weight:
        ctx.adopt(at, taken(met.operands[1], axes))
    factors = ctx.alg.reduce(met.factors, [3])
    shape = (x.shape[0], met.shape[2])
    return _biased(ctx, ctx.alg.rename(Labels(met.shape, factors), {0: 0, 2: 1}, shape), bias)


def _biased(ctx: RuleContext, t: Labels, bias: int | None) -> Labels:
    return channel_operand(ctx, t, bias, axis=1) if bias is not None and ctx.has(bias) else t


def channel_operand(ctx: RuleContext, t: Labels, i: int, axis: int) -> Labels:
    """Input i, a vector, meets `t` along `axis` (a bias, a scale, a running mean)."""
    vector = ctx.labels(i)
    if vector.rank != 1 or vector.shape[0] == 1:
        return t
    factors = tuple(f.renamed({0: axis}) for f in vector.factors)
    shape = tuple(vector.shape[0] if a == axis else 1 for a in range(t.rank))
    met = ctx.alg.meet([t, Labels(shape, factors, vector.weight)])
    if vector.weight:
        ctx.adopt(i, [f.renamed({axis: 0}) for f in met.operands[1]])
    return Labels(t.shape, met.factors)


def _shift(factors: tuple[Factor, ...], by: int) -> tuple[Factor, ...]:
    return tuple(f.renamed({a: a + by for a in f.axes}) for f in factors)
