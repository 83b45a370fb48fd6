"""MatMul, Gemm and their fused forms: a meet over (batch ..., M, N, K), summed over K."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.context import OpContext
from graphprune.rules.onnx._macs import gemm_macs, matmul_macs
from graphprune.rules.registry import op_rule
from graphprune.rules.shared.matmul import product


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
