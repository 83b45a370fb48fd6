"""Reductions and other ops that look along an axis."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import op_rule
from graphprune.rules.shared.normalization import over_statistics, running_sum


def reduced_axes(ctx: OpContext, rank: int) -> list[int] | None:
    """Axes from the attribute or operand; all where none are given; None where not known."""
    if ctx.has(1) and ctx.const(1) is None:
        return None
    axes = ctx.ints(1, "axes") or []
    if not axes:
        return [] if ctx.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [positive(a, rank) for a in axes]


def drop_axes(ctx: OpContext, t: Labels, axes: list[int]) -> None:
    """Set the output of a reduction whose factors no longer run over `axes`."""
    if ctx.attr("keepdims", 1):
        ctx.set(t.factors)
        return
    left = [a for a in range(t.rank) if a not in axes]
    ctx.set(tuple(f.renamed({a: i for i, a in enumerate(left)}) for f in t.factors))


@op_rule("", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
def reduce_sum(ctx: OpContext) -> None:
    """Neutral to removed zeros."""
    x = ctx.moved(0)
    axes = reduced_axes(ctx, x.rank)
    if axes is None:
        ctx.boundary("its axes are not known before it runs")
        return
    drop_axes(ctx, Labels(x.shape, ctx.alg.reduce(x.factors, axes)), axes)


@op_rule("", "ReduceMean")
def reduce_mean(ctx: OpContext) -> None:
    """The mean over a pruned axis is the mean over what is kept."""
    x = ctx.moved(0)
    axes = reduced_axes(ctx, x.rank)
    if axes is None:
        ctx.boundary("its axes are not known before it runs")
        return
    t = over_statistics(ctx, x, axes)
    drop_axes(ctx, Labels(x.shape, ctx.alg.reduce(t.factors, axes)), axes)


@op_rule("", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")
def reduce_other(ctx: OpContext) -> None:
    """Not neutral to zeros: what is reduced stays; other axes go on."""
    x = ctx.moved(0)
    axes = reduced_axes(ctx, x.rank)
    if axes is None:
        ctx.boundary("its axes are not known before it runs")
        return
    reason = f"{ctx.node.op_type} over it is not neutral to removed channels"
    drop_axes(ctx, ctx.alg.tie_across(x, axes, reason), axes)


@op_rule("", "Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(ctx: OpContext) -> None:
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", -1)), x.rank)
    reason = f"{ctx.node.op_type} over it is not neutral to removed channels"
    ctx.set(ctx.alg.tie_across(x, [axis], reason).factors)


@op_rule("", "Softmax", "LogSoftmax", "Hardmax")
def softmax_flattened(ctx: OpContext) -> None:
    """Before opset 13: over everything from `axis` on."""
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", 1)), x.rank)
    reason = f"{ctx.node.op_type} over it is not neutral to removed channels"
    ctx.set(ctx.alg.tie_across(x, range(axis, x.rank), reason).factors)


@op_rule("", "ArgMax", "ArgMin")
def arg_max(ctx: OpContext) -> None:
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", 0)), x.rank)
    t = ctx.alg.tie_across(x, [axis], f"{ctx.node.op_type} counts its channels")
    drop_axes(ctx, t, [axis])


@op_rule("", "TopK")
def top_k(ctx: OpContext) -> None:
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", -1)), x.rank)
    t = ctx.alg.tie_across(x, [axis], "TopK counts its channels")
    ctx.set(t.factors)
    ctx.set(t.factors, 1)


@op_rule("", "CumSum", "CumProd")
def cum_sum(ctx: OpContext) -> None:
    """A running sum over what is kept is the running sum over zeros and what is kept."""
    x = ctx.moved(0)
    axis = ctx.const(1)
    if axis is None:
        ctx.boundary("its axis is not known before it runs")
        return
    at = positive(int(axis.reshape(-1)[0]), x.rank)
    if ctx.node.op_type == "CumProd":
        ctx.set(ctx.alg.tie_across(x, [at], "a running product is not neutral to zeros").factors)
        return
    ctx.set(running_sum(ctx, x, at))
