"""Elementwise ops: labels meet after broadcasting, nothing else happens."""

from __future__ import annotations

from graphprune.rules.aten.registry import aten_boundary, aten_rule
from graphprune.rules.shared.elementwise import pointwise
from graphprune.torch.context import AtenContext

UNARY = (
    *("abs", "absolute", "acos", "acosh", "alias", "angle", "asin", "asinh", "atan", "atanh"),
    *("bitwise_not", "ceil", "celu", "clone", "contiguous", "cos", "cosh", "deg2rad", "detach"),
    *("digamma", "elu", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fill", "fix", "floor"),
    *("frac", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "isfinite", "isinf"),
    *("isnan", "leaky_relu", "lgamma", "lift_fresh_copy", "log", "log10", "log1p", "log2"),
    *("log_sigmoid", "logical_not", "logit", "mish", "nan_to_num", "neg", "negative", "positive"),
    *("rad2deg", "reciprocal", "relu", "relu6", "round", "rrelu", "rsqrt", "selu", "sgn"),
    *("sigmoid", "sign", "silu", "sin", "sinc", "sinh", "softplus", "softshrink", "sqrt"),
    *("square", "tan", "tanh", "threshold", "_to_copy", "trunc"),
    *("zero", "lift", "conj", "resolve_conj", "resolve_neg"),
    "detach_copy",
)
NARY = (
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__"),
    *("add", "addcdiv", "addcmul", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "clamp"),
    *("clamp_max", "clamp_min", "clip", "copysign", "div", "divide", "eq", "floor_divide", "fmax"),
    *("fmin", "fmod", "ge", "gt", "hypot", "le", "lerp", "logaddexp", "logical_and"),
    *("logical_or", "logical_xor", "lt", "masked_fill", "maximum", "minimum", "mul", "multiply"),
    *("ne", "not_equal", "pow", "remainder", "rsub", "sub", "subtract", "true_divide", "where"),
    *("xlogy", "greater", "greater_equal", "less", "less_equal", "ldexp", "heaviside"),
)
SUMS = {"add", "sub", "subtract", "rsub"}


@aten_rule(*UNARY, *NARY)
def elementwise(ctx: AtenContext) -> None:
    """Every operand, broadcast; in-place ops give back their first."""
    if ctx.operands() == 0:
        return
    pointwise(ctx, sums=ctx.op in SUMS)


@aten_rule("to", "type_as")
def converted(ctx: AtenContext) -> None:
    """Of another tensor only the type counts, whatever its shape."""
    pointwise(ctx, [0])


@aten_rule("copy")
def copy(ctx: AtenContext) -> None:
    """`self.copy_(src)`: what is written and what is written over agree."""
    pointwise(ctx)


@aten_rule("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
def dropout(ctx: AtenContext) -> None:
    """Each element alone; a removed channel stays zero."""
    factors = pointwise(ctx, [0])
    ctx.set(factors, 1)


@aten_rule("prelu")
def prelu(ctx: AtenContext) -> None:
    """The weight has one slope, or one for each channel (axis 1)."""
    from graphprune.rules.shared.conv import channel_operand

    x = ctx.moved(0)
    ctx.set(channel_operand(ctx, x, 1, axis=1 if x.rank > 1 else 0).factors)


@aten_rule("glu", resize=lambda r: None)
def glu(ctx: AtenContext) -> None:
    """Two halves of an axis, multiplied: channel i leaves with i + half."""
    from graphprune.rules.base import positive

    x = ctx.moved(0)
    axis = positive(int(ctx.arg("dim", -1)), x.rank)
    half = x.shape[axis] // 2
    left = ctx.alg.slice(x, axis, 0, half, 1)
    right = ctx.alg.slice(x, axis, half, 2 * half, 1)
    ctx.set(ctx.alg.meet([left, right]).factors)


@aten_rule(
    "bernoulli", "rand_like", "randn_like", "empty_like", "zeros_like", "ones_like", "full_like"
)
def like(ctx: AtenContext) -> None:
    """Reads a shape and makes something of the same: sizes follow by themselves."""
    ctx.set(ctx.moved(0).factors)


aten_boundary(
    *(
        "sort",
        "argsort",
        "_unique2",
        "nonzero",
        "masked_select",
        "multinomial",
        "histc",
        "bincount",
    ),
    reason="its result depends on all channels at once",
)
