"""What small tensors contain: numpy semantics of the ops that exporters do shape arithmetic with.

`evaluate` runs one node on known inputs. It knows the ops of computed shapes (Shape, Gather, Concat,
Div, ...), not layers, and refuses results of more than `limit` elements: it serves the shape sweep
(`graphprune.onnx.shapes`), which must never execute the model. Semantics: ONNX operator reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

LIMIT = 4096
"""Most elements a computed tensor may have to count as small."""

Array = np.ndarray[Any, Any]
Arrays = Sequence[Array | None]
Result = Array | tuple[Array, ...]


class _TooLarge(Exception):
    """The result would exceed the limit."""


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
    except (_TooLarge, ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
        return None
    outputs = result if isinstance(result, tuple) else (result,)
    arrays = tuple(np.asarray(a) for a in outputs)
    return arrays if all(a.size <= limit for a in arrays) else None


# --- attributes -----------------------------------------------------------------------------------


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Python value of an attribute (tuples for lists), `default` where it is not given."""
    attr = node.attributes.get(name)
    if attr is None or attr.ref_attr_name is not None:
        return default
    return attr.value


def _get(inputs: Arrays, index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def need(inputs: Arrays, index: int) -> Array:
    """Input `index`, which the op requires. Raises ValueError where it is missing."""
    array = _get(inputs, index)
    if array is None:
        raise ValueError("a required input is missing")
    return array


def axes_of(node: ir.Node, inputs: Arrays, index: int) -> list[int] | None:
    """`axes`, an input in newer opsets and an attribute in older ones; None where not given."""
    array = _get(inputs, index)
    if array is not None:
        return [int(a) for a in array.reshape(-1)]
    axes = attribute(node, "axes")
    return None if axes is None else [int(a) for a in axes]


def _check(shape: Sequence[int], limit: int) -> tuple[int, ...]:
    count = 1
    for size in shape:
        count *= int(size)
    if count > limit:
        raise _TooLarge
    return tuple(int(s) for s in shape)


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
        _check(np.broadcast_shapes(a.shape, b.shape), limit)
        return np.asarray(function(a, b))

    return run


def _variadic(function: Callable[[Any, Any], Any]) -> Any:
    def run(node: ir.Node, x: Arrays, limit: int) -> Array:
        arrays = [need(x, i) for i in range(len(x))]
        _check(np.broadcast_shapes(*(a.shape for a in arrays)), limit)
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
    _check(np.broadcast_shapes(a.shape, b.shape), limit)
    if np.issubdtype(b.dtype, np.integer) and np.any(b == 0):
        raise ZeroDivisionError
    return np.asarray(np.fmod(a, b) if attribute(node, "fmod", 0) else np.mod(a, b))


def _pow(node: ir.Node, x: Arrays, limit: int) -> Array:
    base, exponent = need(x, 0), need(x, 1)
    _check(np.broadcast_shapes(base.shape, exponent.shape), limit)
    return np.asarray(np.power(base.astype(np.float64), exponent)).astype(base.dtype)


def _clip(node: ir.Node, x: Arrays, limit: int) -> Array:
    data = need(x, 0)
    low, high = _get(x, 1), _get(x, 2)
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
    _check(np.broadcast_shapes(c.shape, a.shape, b.shape), limit)
    return np.where(c, a, b).astype(a.dtype, copy=False)


def _mean(node: ir.Node, x: Arrays, limit: int) -> Array:
    arrays = [need(x, i) for i in range(len(x))]
    _check(np.broadcast_shapes(*(a.shape for a in arrays)), limit)
    return np.asarray(functools.reduce(np.add, arrays) / len(arrays)).astype(arrays[0].dtype)


# --- movement -------------------------------------------------------------------------------------


def _constant(node: ir.Node, x: Arrays, limit: int) -> Array:
    array = constant_of(node, limit)
    if array is None:
        raise _TooLarge
    return array


def constant_of(node: ir.Node, limit: int | None = None) -> Array | None:
    """What a Constant node holds; None for strings and for more than `limit` elements."""
    attrs = node.attributes
    if "value" in attrs:
        tensor = attrs["value"].value
        if tensor.dtype == ir.DataType.STRING or (limit is not None and tensor.size > limit):
            return None
        return np.asarray(tensor.numpy())
    for name, dtype in (
        ("value_int", np.int64),
        ("value_ints", np.int64),
        ("value_float", np.float32),
        ("value_floats", np.float32),
    ):
        if name in attrs:
            return np.array(attrs[name].value, dtype=dtype)
    return None


def _constant_of_shape(node: ir.Node, x: Arrays, limit: int) -> Array:
    shape = _check([int(s) for s in need(x, 0).reshape(-1)], limit)
    fill = attribute(node, "value")
    array = np.zeros(1, dtype=np.float32) if fill is None else np.asarray(fill.numpy())
    return np.full(shape, array.reshape(-1)[0], dtype=array.dtype)


def _gather(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, indices = need(x, 0), need(x, 1)
    axis = attribute(node, "axis", 0) % max(data.ndim, 1)
    _check((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), limit)
    return np.asarray(np.take(data, indices.astype(np.int64), axis=axis))


def _gather_elements(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, indices = need(x, 0), need(x, 1)
    axis = attribute(node, "axis", 0)
    indices = np.where(indices < 0, indices + data.shape[axis], indices)
    return np.asarray(np.take_along_axis(data, indices, axis=axis))


def _gather_nd(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, indices = need(x, 0), need(x, 1)
    if attribute(node, "batch_dims", 0):
        raise ValueError("batch_dims")
    return np.asarray(data[tuple(np.moveaxis(indices, -1, 0))])


def _scatter_elements(node: ir.Node, x: Arrays, limit: int) -> Array:
    if attribute(node, "reduction", "none") != "none":
        raise ValueError("reduction")
    data = need(x, 0).copy()
    np.put_along_axis(data, need(x, 1), need(x, 2), axis=attribute(node, "axis", 0))
    return data


def _scatter_nd(node: ir.Node, x: Arrays, limit: int) -> Array:
    if attribute(node, "reduction", "none") != "none":
        raise ValueError("reduction")
    data, indices = need(x, 0).copy(), need(x, 1)
    data[tuple(np.moveaxis(indices, -1, 0))] = need(x, 2)
    return data


def _concat(node: ir.Node, x: Arrays, limit: int) -> Array:
    arrays = [need(x, i) for i in range(len(x))]
    return np.concatenate(arrays, axis=attribute(node, "axis", 0))


def slices_of(node: ir.Node, inputs: Arrays, rank: int) -> tuple[slice, ...]:
    """The Python slices of a Slice node (inputs since opset 10, attributes before)."""
    if len(inputs) > 1:
        starts = [int(i) for i in need(inputs, 1).reshape(-1)]
        ends = [int(i) for i in need(inputs, 2).reshape(-1)]
        axes = axes_of(node, inputs, 3)
        step_array = _get(inputs, 4)
    else:
        starts, ends = list(attribute(node, "starts")), list(attribute(node, "ends"))
        axes, step_array = axes_of(node, inputs, 99), None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if step_array is None else [int(i) for i in step_array.reshape(-1)]
    result = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # With a negative step an end before the first element means "down to it", which Python
        # spells None; ONNX spells it as any sufficiently negative number.
        result[axis] = slice(start, end, step)
    return tuple(result)


def _slice(node: ir.Node, x: Arrays, limit: int) -> Array:
    data = need(x, 0)
    result = []
    for size, part in zip(data.shape, slices_of(node, x, data.ndim), strict=True):
        if part.step is not None and part.step < 0 and part.stop < -size:
            part = slice(part.start, None, part.step)
        result.append(part)
    return np.asarray(data[tuple(result)])


def _squeeze(node: ir.Node, x: Arrays, limit: int) -> Array:
    axes = axes_of(node, x, 1)
    return np.squeeze(need(x, 0), axis=None if axes is None else tuple(axes))


def _unsqueeze(node: ir.Node, x: Arrays, limit: int) -> Array:
    axes = axes_of(node, x, 1)
    if axes is None:
        raise ValueError("axes")
    return np.expand_dims(need(x, 0), tuple(axes))


def reshape_dims(
    dims: Sequence[int], target: Sequence[int], allowzero: bool = False
) -> tuple[int, ...]:
    """What Reshape makes of `dims`. Raises ValueError where the sizes do not fit."""
    result = [
        dims[i] if size == 0 and not allowzero and i < len(dims) else int(size)
        for i, size in enumerate(target)
    ]
    total = 1
    for size in dims:
        total *= size
    known = 1
    for size in result:
        known *= 1 if size == -1 else size
    if result.count(-1) == 1:
        if known == 0 or total % known:
            raise ValueError(f"cannot reshape {tuple(dims)} to {tuple(target)}")
        result[result.index(-1)] = total // known
    elif known != total or any(size < 0 for size in result):
        raise ValueError(f"cannot reshape {tuple(dims)} to {tuple(target)}")
    return tuple(int(s) for s in result)


def _reshape(node: ir.Node, x: Arrays, limit: int) -> Array:
    data = need(x, 0)
    target = need(x, 1) if len(x) > 1 else np.array(attribute(node, "shape"))
    allowzero = bool(attribute(node, "allowzero", 0))
    return data.reshape(reshape_dims(data.shape, [int(t) for t in target.reshape(-1)], allowzero))


def _flatten(node: ir.Node, x: Arrays, limit: int) -> Array:
    data = need(x, 0)
    axis = attribute(node, "axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return data.reshape(int(np.prod(data.shape[:axis], dtype=np.int64)), -1)


def _transpose(node: ir.Node, x: Arrays, limit: int) -> Array:
    return np.transpose(need(x, 0), attribute(node, "perm"))


def _expand(node: ir.Node, x: Arrays, limit: int) -> Array:
    data = need(x, 0)
    target = [int(s) for s in need(x, 1).reshape(-1)]
    shape = _check(np.broadcast_shapes(data.shape, tuple(target)), limit)
    return np.broadcast_to(data, shape).copy()


def _tile(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, repeats = need(x, 0), [int(r) for r in need(x, 1).reshape(-1)]
    _check([s * r for s, r in zip(data.shape, repeats, strict=True)], limit)
    return np.tile(data, repeats)


def split_sizes(
    node: ir.Node, inputs: Arrays, length: int, outputs: int
) -> list[int]:
    """Lengths of a Split's pieces: given, or as equal as possible with a shorter last piece."""
    sizes = _get(inputs, 1)
    given = attribute(node, "split") if sizes is None else sizes.reshape(-1)
    if given is not None:
        return [int(s) for s in given]
    piece = -(-length // outputs)
    return [max(0, min(piece, length - piece * i)) for i in range(outputs)]


def _split(node: ir.Node, x: Arrays, limit: int) -> tuple[Array, ...]:
    data, axis = need(x, 0), attribute(node, "axis", 0)
    sizes = split_sizes(node, x, data.shape[axis], len(node.outputs))
    if sum(sizes) != data.shape[axis]:
        raise ValueError("split sizes do not add up")
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis=axis))


def _range(node: ir.Node, x: Arrays, limit: int) -> Array:
    start, stop, step = (need(x, i).reshape(()).item() for i in range(3))
    count = max(0, int(np.ceil((stop - start) / step)))
    _check([count], limit)
    return (start + np.arange(count) * step).astype(need(x, 0).dtype)


def _pad(node: ir.Node, x: Arrays, limit: int) -> Array:
    if attribute(node, "mode", "constant") != "constant":
        raise ValueError("mode")
    data = need(x, 0)
    pads = need(x, 1) if len(x) > 1 else np.array(attribute(node, "pads"))
    axes = axes_of(node, x, 3)
    axes = list(range(data.ndim)) if axes is None else axes
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (int(pads[i]), int(pads[i + len(axes)]))
    fill = _get(x, 2)
    value = attribute(node, "value", 0.0) if fill is None else fill.reshape(-1)[0]
    _check([s + a + b for s, (a, b) in zip(data.shape, widths, strict=True)], limit)
    return np.pad(data, widths, constant_values=value)


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
    offset = _get(x, 1)
    k = 0 if offset is None else int(offset.reshape(()))
    return (np.triu if attribute(node, "upper", 1) else np.tril)(need(x, 0), k)


_TABLE: dict[str, Callable[[ir.Node, Arrays, int], Result]] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "ArgMax": _arg(np.argmax),
    "ArgMin": _arg(np.argmin),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(np.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _unary(np.cos),
    "CumSum": _cumsum,
    "Div": _binary(_divide),
    "Equal": _binary(np.equal),
    "Exp": _unary(np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
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
    "Pad": _pad,
    "Pow": _pow,
    "Range": _range,
    "Reciprocal": _unary(np.reciprocal),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Round": _unary(np.round),
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Sign": _unary(np.sign),
    "Sin": _unary(np.sin),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Sum": _variadic(np.add),
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _binary(np.logical_xor),
}
