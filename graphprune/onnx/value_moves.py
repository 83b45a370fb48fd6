"""Contents of small tensors: ops that move elements (semantics: ONNX operator reference)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphprune.onnx.operands import (
    Array,
    Arrays,
    TooLarge,
    at,
    attribute,
    axes_of,
    constant_of,
    fits,
    need,
    reshape_dims,
    slices_of,
    split_sizes,
)

Result = Array | tuple[Array, ...]


def _constant(node: ir.Node, x: Arrays, limit: int) -> Array:
    array = constant_of(node, limit)
    if array is None:
        raise TooLarge
    return array


def _constant_of_shape(node: ir.Node, x: Arrays, limit: int) -> Array:
    shape = fits([int(s) for s in need(x, 0).reshape(-1)], limit)
    fill = attribute(node, "value")
    array = np.zeros(1, dtype=np.float32) if fill is None else np.asarray(fill.numpy())
    return np.full(shape, array.reshape(-1)[0], dtype=array.dtype)


def _gather(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, indices = need(x, 0), need(x, 1)
    axis = attribute(node, "axis", 0) % max(data.ndim, 1)
    fits((*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]), limit)
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
    shape = fits(np.broadcast_shapes(data.shape, tuple(target)), limit)
    return np.broadcast_to(data, shape).copy()


def _tile(node: ir.Node, x: Arrays, limit: int) -> Array:
    data, repeats = need(x, 0), [int(r) for r in need(x, 1).reshape(-1)]
    fits([s * r for s, r in zip(data.shape, repeats, strict=True)], limit)
    return np.tile(data, repeats)


def _split(node: ir.Node, x: Arrays, limit: int) -> tuple[Array, ...]:
    data, axis = need(x, 0), attribute(node, "axis", 0)
    sizes = split_sizes(node, x, data.shape[axis], len(node.outputs))
    if sum(sizes) != data.shape[axis]:
        raise ValueError("split sizes do not add up")
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis=axis))


def _range(node: ir.Node, x: Arrays, limit: int) -> Array:
    start, stop, step = (need(x, i).reshape(()).item() for i in range(3))
    count = max(0, int(np.ceil((stop - start) / step)))
    fits([count], limit)
    return np.asarray(start + np.arange(count) * step).astype(need(x, 0).dtype)


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
    fill = at(x, 2)
    value = attribute(node, "value", 0.0) if fill is None else fill.reshape(-1)[0]
    fits([s + a + b for s, (a, b) in zip(data.shape, widths, strict=True)], limit)
    return np.pad(data, widths, constant_values=value)


MOVES: dict[str, Callable[[ir.Node, Arrays, int], Result]] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Op type -> its evaluation: (node, inputs, limit) -> output(s)."""
