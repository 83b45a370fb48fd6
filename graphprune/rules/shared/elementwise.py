"""Elementwise ops of any arity: labels meet after broadcasting, nothing else happens."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.labels import Factor, Labels, Met
from graphprune.rules.base import RuleContext


def aligned(t: Labels, rank: int) -> Labels:
    """`t` with leading axes of size 1, as numpy broadcasts."""
    lead = rank - t.rank
    factors = tuple(f.renamed({a: a + lead for a in f.axes}) for f in t.factors)
    return Labels((1,) * lead + t.shape, factors, t.weight)


def broadcast_meet(ctx: RuleContext, inputs: Sequence[int]) -> Met:
    """Let the given inputs meet after broadcasting; weights among them adopt."""
    operands = [ctx.labels(i) for i in inputs]
    rank = max(t.rank for t in operands)
    met = ctx.alg.meet([aligned(t, rank) for t in operands])
    for i, operand, factors in zip(inputs, operands, met.operands, strict=True):
        if operand.weight:
            lead = rank - operand.rank
            ctx.adopt(i, [f.renamed({a: a - lead for a in f.axes}) for f in factors])
    return met


def pointwise(
    ctx: RuleContext, inputs: Sequence[int] | None = None, *, sums: bool = False
) -> tuple[Factor, ...]:
    """All (or the given) operands meet after broadcasting; the first result takes what comes of it.

    Args:
        ctx: The node.
        inputs: Numbers of the operands.
        sums: Whether the op adds: a sum of two widths is a residual.
    """
    if inputs is None:
        inputs = [i for i in range(ctx.operands()) if ctx.has(i)]
    met = broadcast_meet(ctx, inputs)
    activations = [i for i in inputs if not ctx.labels(i).weight and ctx.labels(i).factors]
    if met.merged and sums and len(activations) > 1:
        ctx.residual()
    ctx.set(met.factors)
    return met.factors
