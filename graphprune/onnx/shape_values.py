"""What small tensors contain: numpy semantics of the ops that exporters do shape arithmetic with.

`evaluate` runs one node on known inputs. It knows the ops of computed shapes (Shape, Gather,
Concat, Div, ...), not layers, and refuses results of more than `limit` elements: it serves the
shape sweep (`graphprune.onnx.shapes`), which must never execute the model. Semantics: ONNX operator
reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.operands import Array, Arrays, TooLarge, at, attribute, axes_of, fits, need
from graphprune.onnx.value_moves import MOVES, Result

LIMIT = 4096
"""Most elements a computed tensor may have to count as small."""


def evaluate(
    node: ir.Node,
    inputs: Arrays,
    shapes: Sequence[tuple[int, ...] | None] = (),
    limit: int = LIMIT,
) -> tuple[Array, ...] | None:
    """Contents of the node's outputs, or None where they cannot be told (unknown op, unknown input,
    result too large, arithmetic that fails).

    Args:
        node: Any node; only its op type and attributes are read.
        inputs: Contents of each input, None where unknown or omitted.
        shapes: Dims of each input; all that Shape and Size need.
        limit: Most elements of a result.
    """
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in _FROM_DIMS:
        if not shapes or shapes[0] is None:
            return None
        return (_FROM_DIMS[node.op_type](node, shapes[0]),)
    function = _TABLE.get(node.op_type)
    if function is None:
        return None
    for value, array in zip(node.inputs, inputs, strict=True):
        if value is not None and array is None:
            return None
    try:
        with np.errstate(all="ignore"):
            result = function(node, inputs, limit)
    except (TooLarge, ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
        return None
    outputs = result if isinstance(result, tuple) else (result,)
    arrays = tuple(np.asarray(a) for a in outputs)
    return arrays if all(a.size <= limit for a in arrays) else None


# --- Shape and Size -------------------------------------------------------------------------------


def _shape(node: ir.Node, dims: tuple[int, ...]) -> Array:
    start = attribute(node, "start", 0)
    end = attribute(node, "end")
    rank = len(dims)
    begin = min(max(start + rank if start < 0 else start, 0), rank)
    stop = rank if end is None else min(max(end + rank if end < 0 else end, 0), rank)
    return np.array(dims[begin:stop], dtype=np.int64)


def _size(node: ir.Node, dims: tuple[int, ...]) -> Array:
    count = 1
    for size in dims:
        count *= size
    return np.array(count, dtype=np.int64)


_FROM_DIMS: dict[str, Callable[[ir.Node, tuple[int, ...]], Array]] = {
    "Shape": _shape,
    "Size": _size,
}


# --- elementwise ----------------------------------------------------------------------------------


def _unary(function: Callable[[Any], Any]) -> Any:
    def run(node: ir.Node, x: Arrays, limit: int) -> Array:
        data = need(x, 0)
        return np.asarray(function(data)).astype(data.dtype, copy=False)

    return run


def _binary(function: Callable[[Any, Any], Any]) -> Any:
    def run(node: ir.Node, x: Arrays, limit: int) -> Array:
        a, b = need(x, 0), need(x, 1)
        fits(np.broadcast_shapes(a.shape, b.shape), limit)
        return np.asarray(function(a, b))

    return run


def _variadic(function: Callable[[Any, Any], Any]) -> Any:
    def run(node: ir.Node, x: Arrays, limit: int) -> Array:
        arrays = [need(x, i) for i in range(len(x))]
        fits(np.broadcast_shapes(*(a.shape for a in arrays)), limit)
        return np.asarray(functools.reduce(function, arrays))

    return run


def _divide(a: Array, b: Array) -> Array:
    """ONNX divides integers towards zero, numpy towards minus infinity."""
    if not np.issubdtype(a.dtype, np.integer):
        return np.asarray(a / b)
    if np.any(b == 0):
        raise ZeroDivisionError
    quotient = np.floor_divide(np.abs(a), np.abs(b))
    return np.asarray(quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _mod(node: ir.Node, x: Arrays, limit: int) -> Array:
    a, b = need(x, 0), need(x, 1)
    fits(np.broadcast_shapes(a.shape, b.shape), limit)
    if np.issubdtype(b.dtype, np.integer) and np.any(b == 0):
        raise ZeroDivisionError
    return np.asarray(np.fmod(a, b) if attribute(node, "fmod", 0) else np.mod(a, b))


def _pow(node: ir.Node, x: Arrays, limit: int) -> Array:
    base, exponent = need(x, 0), need(x, 1)
    fits(np.broadcast_shapes(base.shape, exponent.shape), limit)
    return np.asarray(np.power(base.astype(np.float64), exponent)).astype(base.dtype)


def _clip(node: ir.Node, x: Arrays, limit: int) -> Array:
    data = need(x, 0)
    low, high = at(x, 1), at(x, 2)
    low = attribute(node, "min") if low is None else low
    high = attribute(node, "max") if high is None else high
    data = data if low is None else np.maximum(data, np.asarray(low, dtype=data.dtype))
    return data if high is None else np.minimum(data, np.asarray(high, dtype=data.dtype))


def _cast(node: ir.Node, x: Arrays, limit: int) -> Array:
    target = ir.DataType(attribute(node, "to"))
    if target == ir.DataType.STRING:
        raise ValueError("strings are no sizes")
    data = need(x, 0)
    if np.issubdtype(data.dtype, np.floating) and target.is_integer():
        data = np.trunc(data)
    return np.asarray(data).astype(target.numpy())


def _cast_like(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, like = need(x, 0), need(x, 1)
    return data.astype(like.dtype)


def _where(node: ir.Node, x: Arrays, limit: int) -> Array:
    c, a, b = need(x, 0), need(x, 1), need(x, 2)
    fits(np.broadcast_shapes(c.shape, a.shape, b.shape), limit)
    return np.where(c, a, b).astype(a.dtype, copy=False)


def _mean(node: ir.Node, x: Arrays, limit: int) -> Array:
    arrays = [need(x, i) for i in range(len(x))]
    fits(np.broadcast_shapes(*(a.shape for a in arrays)), limit)
    return np.asarray(functools.reduce(np.add, arrays) / len(arrays)).astype(arrays[0].dtype)


# --- reductions and the rest ----------------------------------------------------------------------


def _reduce(function: Callable[..., Any]) -> Any:
    def run(node: ir.Node, x: Arrays, limit: int) -> Array:
        data = need(x, 0)
        axes = axes_of(node, x, 1)
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return data
        keep = bool(attribute(node, "keepdims", 1))
        result = function(data, axis=tuple(axes) if axes else None, keepdims=keep)
        return np.asarray(result).astype(data.dtype)

    return run


def _arg(function: Callable[..., Any]) -> Any:
    def run(node: ir.Node, x: Arrays, limit: int) -> Array:
        if attribute(node, "select_last_index", 0):
            raise ValueError("select_last_index")
        axis, keep = attribute(node, "axis", 0), bool(attribute(node, "keepdims", 1))
        return np.asarray(function(need(x, 0), axis=axis, keepdims=keep)).astype(np.int64)

    return run


def _cumsum(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, axis = need(x, 0), int(need(x, 1).reshape(()))
    if attribute(node, "reverse", 0):
        data = np.flip(data, axis)
    result = np.cumsum(data, axis=axis, dtype=data.dtype)
    if attribute(node, "exclusive", 0):
        result = result - data
    return np.flip(result, axis) if attribute(node, "reverse", 0) else result


def _non_zero(node: ir.Node, x: Arrays, limit: int) -> Array:
    return np.array(np.nonzero(need(x, 0)), dtype=np.int64)


def _identity(node: ir.Node, x: Arrays, limit: int) -> Array:
    return need(x, 0)


def _trilu(node: ir.Node, x: Arrays, limit: int) -> Array:
    offset = at(x, 1)
    k = 0 if offset is None else int(offset.reshape(()))
    return np.asarray((np.triu if attribute(node, "upper", 1) else np.tril)(need(x, 0), k))


_TABLE: dict[str, Callable[[ir.Node, Arrays, int], Result]] = {
    **MOVES,
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(np.ceil),
    "Clip": _clip,
    "Cos": _unary(np.cos),
    "CumSum": _cumsum,
    "Div": _binary(_divide),
    "Equal": _binary(np.equal),
    "Exp": _unary(np.exp),
    "Floor": _unary(np.floor),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Identity": _identity,
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Log": _unary(np.log),
    "Max": _variadic(np.maximum),
    "Mean": _mean,
    "Min": _variadic(np.minimum),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "NonZero": _non_zero,
    "Not": _unary(np.logical_not),
    "Or": _binary(np.logical_or),
    "Pow": _pow,
    "Reciprocal": _unary(np.reciprocal),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Round": _unary(np.round),
    "Sign": _unary(np.sign),
    "Sin": _unary(np.sin),
    "Sqrt": _unary(np.sqrt),
    "Sub": _binary(np.subtract),
    "Sum": _variadic(np.add),
    "Trilu": _trilu,
    "Where": _where,
    "Xor": _binary(np.logical_xor),
}
