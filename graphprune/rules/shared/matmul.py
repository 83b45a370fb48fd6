"""Matrix products: a meet over (batch ..., M, N, K), summed over K."""

from __future__ import annotations

from graphprune.labels import Factor, Labels
from graphprune.rules.base import RuleContext


def place(t: Labels, axes: tuple[int, ...], rank: int) -> Labels:
    """`t` in an iteration space of `rank` axes, its axis i at `axes[i]`."""
    shape = [1] * rank
    for size, axis in zip(t.shape, axes, strict=True):
        shape[axis] = size
    names = dict(enumerate(axes))
    return Labels(tuple(shape), tuple(f.renamed(names) for f in t.factors), t.weight)


def taken(factors: tuple[Factor, ...], axes: tuple[int, ...]) -> tuple[Factor, ...]:
    """Factors of an operand back from the iteration space."""
    names = {axis: i for i, axis in enumerate(axes)}
    return tuple(f.renamed(names) for f in factors)


def product(
    ctx: RuleContext,
    a: int,
    b: int,
    *,
    a_transposed: bool = False,
    b_transposed: bool = False,
) -> Labels:
    """Labels of the matrix product of inputs a and b (numpy.matmul, 1-D operands included)."""
    left, right = ctx.labels(a), ctx.labels(b)
    batch = max(left.rank, right.rank, 2) - 2
    m, n, k = batch, batch + 1, batch + 2
    rank = batch + 3
    left_axes = (
        (k,)
        if left.rank == 1
        else (*range(batch - (left.rank - 2), batch), *((k, m) if a_transposed else (m, k)))
    )
    right_axes = (
        (k,)
        if right.rank == 1
        else (*range(batch - (right.rank - 2), batch), *((n, k) if b_transposed else (k, n)))
    )
    lead = tuple(range(batch))
    met = ctx.alg.meet(
        [place(left, left_axes, rank), place(right, right_axes, rank)],
        contracted=[k],
        create=[(*lead, n), (*lead, m)],
    )
    for i, operand, axes, factors in (
        (a, left, left_axes, met.operands[0]),
        (b, right, right_axes, met.operands[1]),
    ):
        if operand.weight:
            ctx.adopt(i, taken(factors, axes))
    if not any(ctx.from_weights(i) for i in (a, b)):
        hint_heads(ctx, met.factors, lead)
    factors = ctx.alg.reduce(met.factors, [k])
    out = [*lead, *([m] if left.rank > 1 else []), *([n] if right.rank > 1 else [])]
    shape = tuple(met.shape[x] for x in out)
    return ctx.alg.rename(Labels(met.shape, factors), {x: i for i, x in enumerate(out)}, shape)


def hint_heads(ctx: RuleContext, factors: tuple[Factor, ...], batch: tuple[int, ...]) -> None:
    """Two activations meet: what leaves from a batch axis is a head, from another a head's dim."""
    for factor in factors:
        kind = "head" if factor.removal in batch else "head-dim"
        ctx.alg.hints.append((factor.labels, kind))
