"""Elementwise ops of any arity: labels meet after broadcasting, nothing else happens."""

from __future__ import annotations

from graphprune.rules.context import OpContext
from graphprune.rules.registry import op_rule
from graphprune.rules.shared.elementwise import pointwise

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Ceil", "Celu"),
    *("Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity"),
    *("IsInf", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round"),
    *("Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish"),
    *("Tan", "Tanh", "ThresholdedRelu", "Cast"),
)
NARY = (
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min"),
    *("Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
)
CONTRIB_UNARY = ("QuickGelu", "Gelu")
RESIDUAL = {"Add", "Sum", "Sub", "Mean"}


@op_rule("", *UNARY, *NARY)
@op_rule("com.microsoft", *CONTRIB_UNARY)
def elementwise(ctx: OpContext) -> None:
    pointwise(ctx, sums=ctx.node.op_type in RESIDUAL)


@op_rule("", "CastLike")
def cast_like(ctx: OpContext) -> None:
    """Of input 1 only the type counts, whatever its shape."""
    pointwise(ctx, [0])


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
