"""Ops that work element by element, with numpy's broadcasting."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.registry import Call, together, torch_op

TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
}
"""Element types that both sides have."""

Unary = Callable[[Tensor], Tensor]
Binary = Callable[[Tensor, Tensor], Tensor]


def sqrt(x: Tensor) -> Tensor:
    """The square root, with gradient 0 instead of infinity at 0 (spectra of silence are 0)."""
    if not x.requires_grad:
        return torch.sqrt(x)
    usable = x > 0
    return torch.where(usable, torch.sqrt(torch.where(usable, x, 1.0)), torch.sqrt(x.detach()))


_UNARY: dict[str, Unary] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """ONNX divides integers towards zero."""
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


_BINARY: dict[str, Binary] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
    "Div": _divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}


def _register() -> None:
    for name, unary in _UNARY.items():
        torch_op(name)(functools.partial(_apply_unary, unary))
    for name, binary in _BINARY.items():
        torch_op(name)(functools.partial(_apply_binary, binary))


def _apply_unary(function: Unary, call: Call) -> Tensor:
    return function(call.x(0))


def _apply_binary(function: Binary, call: Call) -> Tensor:
    a, b = together(call.x(0), call.x(1))
    if call.version < 7 and call.attr("broadcast", 0):
        axis = call.attr("axis")
        start = a.ndim - b.ndim if axis is None else axis % a.ndim
        b = b.reshape(*b.shape, *[1] * (a.ndim - start - b.ndim))
    return function(a, b)


_register()


@torch_op("Pow", fixed=(1,))
def power(call: Call) -> Tensor:
    base, exponent = together(call.x(0), call.x(1))
    if exponent.numel() == 1 and exponent.ndim <= base.ndim:
        value = exponent.item()
        if value == 0.5:
            return sqrt(base)
        return torch.pow(base, value).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


@torch_op("Mod", fixed=(1,))
def modulo(call: Call) -> Tensor:
    a, b = together(call.x(0), call.x(1))
    return torch.fmod(a, b) if call.attr("fmod", 0) else torch.remainder(a, b)


@torch_op("BitShift")
def bit_shift(call: Call) -> Tensor:
    a, b = together(call.x(0), call.x(1))
    left = call.attr("direction") == "LEFT"
    return torch.bitwise_left_shift(a, b) if left else torch.bitwise_right_shift(a, b)


@torch_op("IsInf")
def is_inf(call: Call) -> Tensor:
    x = call.x(0)
    found = torch.zeros_like(x, dtype=torch.bool)
    if call.attr("detect_negative", 1):
        found = found | torch.isneginf(x)
    return found | torch.isposinf(x) if call.attr("detect_positive", 1) else found


@torch_op("Max", "Min", "Sum", "Mean")
def variadic(call: Call) -> Tensor:
    tensors = together(*(call.x(i) for i in range(len(call.inputs))))
    functions: dict[str, Binary] = {"Max": torch.maximum, "Min": torch.minimum}
    found = functools.reduce(functions.get(call.node.op_type, torch.add), tensors)
    return found / len(tensors) if call.node.op_type == "Mean" else found


@torch_op("Where")
def where(call: Call) -> Tensor:
    condition, a, b = together(call.x(0), call.x(1), call.x(2))
    return torch.where(condition, a, b)


@torch_op("Clip", fixed=(1, 2))
def clip(call: Call) -> Tensor:
    x = call.x(0)
    low, high = (_limit(call, i, n) for i, n in ((1, "min"), (2, "max")))
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)


def _limit(call: Call, i: int, name: str) -> Any:
    given = call.at(i)
    return call.attr(name) if given is None else given.item()


@torch_op("Cast")
def cast(call: Call) -> Tensor:
    target = ir.DataType(call.attr("to"))
    if target not in TYPES:
        raise call.refusal(f"torch has no type {target.name}")
    return convert(call.x(0), TYPES[target])


def convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in another type; everything but 0 is True."""
    return x != 0 if dtype == torch.bool and x.dtype != torch.bool else x.to(dtype)


@torch_op("CastLike")
def cast_like(call: Call) -> Tensor:
    return convert(call.x(0), call.x(1).dtype)


@torch_op("Dropout", fixed=(1, 2))
def dropout(call: Call) -> tuple[Tensor, ...]:
    x = call.x(0)
    mode = call.at(2)
    if mode is not None and bool(mode.item()):
        raise call.refusal("it drops at random (training_mode)")
    return (x, torch.ones_like(x, dtype=torch.bool))[: call.outputs]


# -- activations with parameters -------------------------------------------------------------------


@torch_op("Celu")
def celu(call: Call) -> Tensor:
    return F.celu(call.x(0), call.attr("alpha", 1.0))


@torch_op("Elu")
def elu(call: Call) -> Tensor:
    return F.elu(call.x(0), call.attr("alpha", 1.0))


@torch_op("Gelu")
def gelu(call: Call) -> Tensor:
    return F.gelu(call.x(0), approximate=call.attr("approximate", "none"))


@torch_op("HardSigmoid")
def hard_sigmoid(call: Call) -> Tensor:
    return torch.clamp(call.x(0) * call.attr("alpha", 0.2) + call.attr("beta", 0.5), 0, 1)


@torch_op("LeakyRelu")
def leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.x(0), call.attr("alpha", 0.01))


@torch_op("PRelu", weights=(1,))
def prelu(call: Call) -> Tensor:
    x, slope = together(call.x(0), call.x(1))
    return torch.where(x < 0, x * slope, x)


@torch_op("Selu")
def selu(call: Call) -> Tensor:
    x = call.x(0)
    alpha: float = call.attr("alpha", 1.67326319217681884765625)
    gamma: float = call.attr("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.minimum(x, torch.zeros_like(x))))


@torch_op("Shrink")
def shrink(call: Call) -> Tensor:
    x, bias, limit = call.x(0), call.attr("bias", 0.0), call.attr("lambd", 0.5)
    zero = torch.zeros_like(x)
    return torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))


@torch_op("Swish")
def swish(call: Call) -> Tensor:
    x = call.x(0)
    return x * torch.sigmoid(call.attr("alpha", 1.0) * x)


@torch_op("ThresholdedRelu")
def thresholded_relu(call: Call) -> Tensor:
    x = call.x(0)
    return torch.where(x > call.attr("alpha", 1.0), x, torch.zeros_like(x))


def tanh_gelu(x: Tensor) -> Tensor:
    """Gelu by tanh, as FastGelu spells it."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
