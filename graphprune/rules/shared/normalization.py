"""Statistics over axes, and the scales and biases that follow them."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.labels import Factor, Labels
from graphprune.rules.base import RuleContext

_POSITION = "statistics run over these positions"


def over_statistics(ctx: RuleContext, t: Labels, axes: Sequence[int]) -> Labels:
    """`t` after statistics over `axes`: whole blocks leave exactly, single channels change them.

    A block whose inner axis is normalised gives up that axis; a factor that is merely indexed by a
    normalised axis is tied across it.
    """
    factors = []
    for factor in t.factors:
        current: Factor | None = factor
        while (
            current is not None
            and ctx.alg.blocks
            and current.removal in axes
            and set(current.index) - set(axes)
        ):
            current = ctx.alg.tie(current, current.removal, _POSITION)
        for axis in factor.index:
            if current is not None and axis in axes and axis in current.index:
                current = ctx.alg.tie(current, axis, _POSITION)
        if current is not None:
            factors.append(current)
    result = Labels(t.shape, ctx.alg.distinct(factors))
    ctx.statistic(axes, result)
    return result


def trailing_operands(ctx: RuleContext, t: Labels, inputs: Sequence[int]) -> Labels:
    """Inputs that broadcast against `t` from the last axis (scales and biases)."""
    for i in inputs:
        if not ctx.has(i):
            continue
        operand = ctx.labels(i)
        lead = t.rank - operand.rank
        names = {a: a + lead for a in range(operand.rank)}
        view = Labels(
            (1,) * lead + operand.shape,
            tuple(f.renamed(names) for f in operand.factors),
            operand.weight,
        )
        met = ctx.alg.meet([t, view])
        if operand.weight:
            back = {a + lead: a for a in range(operand.rank)}
            ctx.adopt(i, [f.renamed(back) for f in met.operands[1]])
        t = Labels(t.shape, met.factors)
    return t


def running_sum(ctx: RuleContext, t: Labels, axis: int) -> Labels:
    """A running sum over what is kept is that over zeros and what is kept."""
    factors = []
    for factor in t.factors:
        current = factor
        if axis in current.index:
            tied = ctx.alg.tie(current, axis, "")
            assert tied is not None
            current = tied
        factors.append(current)
    return Labels(t.shape, ctx.alg.distinct(factors))
