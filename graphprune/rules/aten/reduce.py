"""Reductions and other ops that look along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.labels import Factor, Labels
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.base import positive
from graphprune.rules.shared.normalization import over_statistics, running_sum
from graphprune.torch.context import AtenContext


def axes_of(ctx: AtenContext, rank: int) -> list[int]:
    """Axes named by `dim`; all where none are."""
    given = ctx.arg("dim")
    if given is None or given == []:
        return list(range(rank))
    listed: Sequence[int] = given if isinstance(given, list) else [given]
    return [positive(int(a), rank) for a in listed]


def left_over(
    ctx: AtenContext, t: Labels, factors: Sequence[Factor], axes: list[int], i: int = 0
) -> None:
    """Set the result of a reduction whose factors no longer run over `axes`."""
    if ctx.arg("keepdim", False):
        ctx.set(tuple(factors), i)
        return
    left = [a for a in range(t.rank) if a not in axes]
    ctx.set(tuple(f.renamed({a: k for k, a in enumerate(left)}) for f in factors), i)


@aten_rule("sum", "nansum", "count_nonzero", "any")
def total(ctx: AtenContext) -> None:
    """Neutral to removed zeros."""
    x = ctx.moved(0)
    axes = axes_of(ctx, x.rank)
    left_over(ctx, x, ctx.alg.reduce(x.factors, axes), axes)


@aten_rule("mean", "var", "std", "var_mean", "std_mean")
def mean(ctx: AtenContext) -> None:
    """Statistics over a pruned axis are those of what is kept."""
    x = ctx.moved(0)
    axes = axes_of(ctx, x.rank)
    t = over_statistics(ctx, x, axes)
    factors = ctx.alg.reduce(t.factors, axes)
    left_over(ctx, x, factors, axes)
    if ctx.op.endswith("_mean"):
        left_over(ctx, x, factors, axes, 1)


@aten_rule(
    *("amax", "amin", "max", "min", "prod", "logsumexp", "all", "median", "argmax", "argmin"),
    *("aminmax", "nanmedian", "mode", "kthvalue", "topk"),
)
def other(ctx: AtenContext) -> None:
    """Not neutral to zeros: what is reduced stays; other axes go on."""
    if ctx.operands() > 1 and ctx.op in ("max", "min"):
        from graphprune.rules.shared.elementwise import pointwise

        pointwise(ctx)
        return
    x = ctx.moved(0)
    if ctx.op in ("topk", "kthvalue", "mode") and ctx.arg("dim") is None:
        axes = [x.rank - 1]
    else:
        axes = axes_of(ctx, x.rank)
    reason = f"{ctx.op} over it is not neutral to removed channels"
    t = ctx.alg.tie_across(x, axes, reason)
    if ctx.op == "topk":
        ctx.set(t.factors)
        ctx.set(t.factors, 1)
        return
    for i in range(1 if ctx.result(1) is None else 2):
        left_over(ctx, x, t.factors, axes, i)


@aten_rule(
    "softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax", "cumprod", "cummax"
)
def softmax(ctx: AtenContext) -> None:
    """All of `dim` at once."""
    x = ctx.moved(0)
    axis = positive(int(ctx.arg("dim")), x.rank)
    reason = f"{ctx.op} over it is not neutral to removed channels"
    t = ctx.alg.tie_across(x, [axis], reason)
    ctx.set(t.factors)
    ctx.set(t.factors, 1)


@aten_rule("cumsum")
def cumsum(ctx: AtenContext) -> None:
    """A running sum over what is kept is that over zeros and what is kept."""
    x = ctx.moved(0)
    ctx.set(running_sum(ctx, x, positive(int(ctx.arg("dim")), x.rank)))
