"""Elementwise ops of any arity: labels meet after broadcasting, nothing else happens."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.labels import Factor, Labels, Met
from graphprune.rules.context import OpContext
from graphprune.rules.registry import op_rule

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu"),
    *("Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round"),
    *("Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu", "Cast"),
)
NARY = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "CastLike", "Clip"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
CONTRIB_UNARY = ("QuickGelu", "Gelu")
RESIDUAL = {"Add", "Sum", "Sub", "Mean"}


def aligned(t: Labels, rank: int) -> Labels:
    """`t` with leading axes of size 1, as numpy broadcasts."""
    lead = rank - t.rank
    factors = tuple(f.renamed({a: a + lead for a in f.axes}) for f in t.factors)
    return Labels((1,) * lead + t.shape, factors, t.weight)


def broadcast_meet(ctx: OpContext, inputs: Sequence[int]) -> Met:
    """Let the given inputs meet after broadcasting; weights among them adopt."""
    operands = [ctx.labels(i) for i in inputs]
    rank = max(t.rank for t in operands)
    met = ctx.alg.meet([aligned(t, rank) for t in operands])
    for i, operand, factors in zip(inputs, operands, met.operands, strict=True):
        if operand.weight:
            lead = rank - operand.rank
            ctx.adopt(i, [f.renamed({a: a - lead for a in f.axes}) for f in factors])
    return met


def pointwise(ctx: OpContext, inputs: Sequence[int] | None = None) -> tuple[Factor, ...]:
    """All (or the given) inputs meet after broadcasting; the first output takes the result."""
    if inputs is None:
        inputs = [i for i in range(len(ctx.node.inputs)) if ctx.has(i)]
    met = broadcast_meet(ctx, inputs)
    activations = [i for i in inputs if not ctx.labels(i).weight and ctx.labels(i).factors]
    if met.merged and ctx.node.op_type in RESIDUAL and len(activations) > 1:
        ctx.found.residuals.append(ctx.node)
    ctx.set(met.factors)
    return met.factors


@op_rule("", *UNARY, *NARY)
@op_rule("com.microsoft", *CONTRIB_UNARY)
def elementwise(ctx: OpContext) -> None:
    pointwise(ctx)


@op_rule("", "Mod")
def modulo(ctx: OpContext) -> None:
    """Of integers it fails on the zeros that stand for removed channels of the divisor."""
    divisor = ctx.labels(1)
    varies = divisor.factors or (divisor.weight and max(divisor.shape, default=1) > 1)
    if varies and not ctx.attr("fmod", 0):
        ctx.boundary("an integer modulo by removed zeros is not defined")
        return
    pointwise(ctx)


@op_rule("", "Dropout")
def dropout(ctx: OpContext) -> None:
    """Identity at inference; the mask, where asked for, has the same channels."""
    factors = pointwise(ctx, [0])
    ctx.set(factors, 1)


@op_rule("com.microsoft", "BiasGelu", "FastGelu")
def bias_gelu(ctx: OpContext) -> None:
    pointwise(ctx)
