"""MatMul, Gemm and their fused forms: a meet over (batch ..., M, N, K), summed over K."""

from __future__ import annotations

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext, from_weights
from graphprune.rules.onnx._macs import gemm_macs, matmul_macs
from graphprune.rules.registry import op_rule


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
    ctx: OpContext,
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
    if not any(from_weights(ctx.node.inputs[i]) for i in (a, b)):
        hint_heads(ctx, met.factors, lead)
    factors = ctx.alg.reduce(met.factors, [k])
    out = [*lead, *([m] if left.rank > 1 else []), *([n] if right.rank > 1 else [])]
    shape = tuple(met.shape[x] for x in out)
    return ctx.alg.rename(Labels(met.shape, factors), {x: i for i, x in enumerate(out)}, shape)


def hint_heads(ctx: OpContext, factors: tuple[Factor, ...], batch: tuple[int, ...]) -> None:
    """Two activations meet: what leaves from a batch axis is a head, from another a head's dim."""
    for factor in factors:
        kind = "head" if factor.removal in batch else "head-dim"
        ctx.alg.hints.append((factor.labels, kind))


@op_rule("", "MatMul", macs=matmul_macs)
def matmul(ctx: OpContext) -> None:
    ctx.set(product(ctx, 0, 1).factors)


@op_rule("com.microsoft", "FusedMatMul", macs=matmul_macs)
def fused_matmul(ctx: OpContext) -> None:
    if ctx.attr("transBatchA", 0) or ctx.attr("transBatchB", 0):
        ctx.boundary("transposed batches are not supported")
        return
    labels = product(
        ctx,
        0,
        1,
        a_transposed=bool(ctx.attr("transA", 0)),
        b_transposed=bool(ctx.attr("transB", 0)),
    )
    ctx.set(labels.factors)


@op_rule("", "Gemm", macs=gemm_macs)
@op_rule("com.microsoft", "FusedGemm", macs=gemm_macs)
def gemm(ctx: OpContext) -> None:
    labels = product(
        ctx,
        0,
        1,
        a_transposed=bool(ctx.attr("transA", 0)),
        b_transposed=bool(ctx.attr("transB", 0)),
    )
    factors = labels.factors
    if ctx.has(2):
        bias = ctx.labels(2)
        lead = 2 - bias.rank
        names = {i: i + lead for i in range(bias.rank)}
        view = Labels(
            (1,) * lead + bias.shape, tuple(f.renamed(names) for f in bias.factors), bias.weight
        )
        met = ctx.alg.meet([labels, view])
        if bias.weight:
            back = {i + lead: i for i in range(bias.rank)}
            ctx.adopt(2, [f.renamed(back) for f in met.operands[1]])
        factors = met.factors
    ctx.set(factors)
