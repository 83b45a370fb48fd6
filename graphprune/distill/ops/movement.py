"""Ops that move or repeat elements, and arithmetic of sizes. Sizes stay on the CPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.elementwise import TYPES
from graphprune.distill.ops.registry import Call, Result, sizes, together, torch_op
from graphprune.onnx.operands import constant_of, reshape_dims


@torch_op("Reshape")
def reshape(call: Call) -> Tensor:
    x, target = call.x(0), call.ints(1, "shape") or []
    return x.reshape(reshape_dims(x.shape, target, bool(call.attr("allowzero", 0))))


@torch_op("Flatten")
def flatten(call: Call) -> Tensor:
    x, axis = call.x(0), call.attr("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    columns = int(np.prod(x.shape[axis:], dtype=np.int64))
    return x.reshape(rows, columns)


@torch_op("Transpose")
def transpose(call: Call) -> Tensor:
    x = call.x(0)
    return x.permute(call.attr("perm") or tuple(reversed(range(x.ndim))))


@torch_op("Squeeze")
def squeeze(call: Call) -> Tensor:
    x, axes = call.x(0), call.ints(1, "axes")
    if axes is None:
        return x.reshape([s for s in x.shape if s != 1])
    return torch.squeeze(x, tuple(axes))


@torch_op("Unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    x, axes = call.x(0), call.ints(1, "axes") or []
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


@torch_op("Concat")
def concat(call: Call) -> Tensor:
    tensors = together(*(call.x(i) for i in range(len(call.inputs))))
    return torch.cat(tensors, call.attr("axis", 1))


@torch_op("Split")
def split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call.x(0), call.attr("axis", 0)
    given = call.ints(1, "split")
    length, pieces = x.shape[axis], call.outputs
    if given is None:
        step = -(-length // pieces)
        given = [max(0, min(step, length - step * i)) for i in range(pieces)]
    return torch.split(x, given, axis)


@torch_op("Slice")
def slice_(call: Call) -> Tensor:
    x = call.x(0)
    starts, ends = call.ints(1, "starts") or [], call.ints(2, "ends") or []
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        begin, stop, step = slice(
            start, end if step > 0 or end >= -x.shape[axis] else None, step
        ).indices(x.shape[axis])
        if step > 0:
            x = x.narrow(axis, begin, max(0, stop - begin))
            if step > 1:
                x = x[(slice(None),) * (axis % x.ndim) + (slice(None, None, step),)]
        else:
            index = torch.arange(begin, stop, step, device=x.device)
            x = x.index_select(axis, index)
    return x


@torch_op("Expand")
def expand(call: Call) -> Tensor:
    x = call.x(0)
    return x.expand(np.broadcast_shapes(x.shape, tuple(call.ints(1) or [])))


@torch_op("Tile")
def tile(call: Call) -> Tensor:
    return call.x(0).repeat(call.ints(1) or [])


_PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@torch_op("Pad", fixed=(2,))
def pad(call: Call) -> Tensor:
    x = call.x(0)
    amounts = call.ints(1, "pads") or []
    axes = call.ints(3) or list(range(x.ndim))
    before, behind = amounts[: len(axes)], amounts[len(axes) :]
    mode = call.attr("mode", "constant")
    if mode == "constant":
        fill = call.at(2)
        value = call.attr("value", 0.0) if fill is None else fill.item()
        pairs = [(0, 0)] * x.ndim
        for axis, b, e in zip(axes, before, behind, strict=True):
            pairs[axis] = (b, e)
        return F.pad(x, [n for pair in reversed(pairs) for n in pair], value=value)
    for axis, b, e in zip(axes, before, behind, strict=True):
        if b or e:
            index = _mirrored(x.shape[axis], b, e, mode)
            x = x.index_select(axis, torch.from_numpy(index).to(x.device))
    return x


def _mirrored(size: int, before: int, behind: int, mode: str) -> np.ndarray:
    """Which element stands at each place of a padded axis."""
    index = np.pad(np.arange(size), (max(before, 0), max(behind, 0)), mode=mode)  # type: ignore[call-overload]
    return np.asarray(index[max(-before, 0) : len(index) - max(-behind, 0)], np.int64)


@torch_op("DepthToSpace")
def depth_to_space(call: Call) -> Tensor:
    x, block = call.x(0), call.attr("blocksize")
    n, c, h, w = x.shape
    if call.attr("mode", "DCR") == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


@torch_op("SpaceToDepth")
def space_to_depth(call: Call) -> Tensor:
    x, block = call.x(0), call.attr("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block**2, h // block, w // block)


@torch_op("Trilu")
def trilu(call: Call) -> Tensor:
    offset = call.ints(1) or [0]
    cut = torch.triu if call.attr("upper", 1) else torch.tril
    return cut(call.x(0), offset[0])


# -- sizes -----------------------------------------------------------------------------------------


@torch_op("Shape")
def shape(call: Call) -> Tensor:
    dims = call.x(0).shape
    return sizes(dims[call.attr("start", 0) : call.attr("end", len(dims))])


@torch_op("Size")
def size(call: Call) -> Tensor:
    return torch.tensor(call.x(0).numel())


@torch_op("Constant")
def constant(call: Call) -> Result:
    array = constant_of(call.node)
    if array is None:
        raise call.refusal("it holds strings or a sparse tensor")
    return torch.from_numpy(np.array(array))


@torch_op("ConstantOfShape")
def constant_of_shape(call: Call) -> Tensor:
    fill = call.attr("value")
    array = np.zeros(1, np.float32) if fill is None else np.array(fill.numpy()).reshape(-1)
    value = torch.from_numpy(array)
    return value.expand(1).reshape([1] * len(call.ints(0) or [])).expand(call.ints(0) or []).clone()


@torch_op("Range", fixed=(0, 1, 2))
def range_(call: Call) -> Tensor:
    start, limit, step = (call.x(i).item() for i in range(3))
    count = max(0, int(np.ceil((limit - start) / step)))
    return (start + step * torch.arange(count)).to(call.x(0).dtype)


@torch_op("EyeLike")
def eye_like(call: Call) -> Tensor:
    x = call.x(0)
    offset: int = call.attr("k", 0)
    wanted = call.attr("dtype")
    dtype = x.dtype if wanted is None else TYPES[wanted]
    rows = torch.arange(x.shape[0])[:, None]
    return (torch.arange(x.shape[1])[None] - rows == offset).to(dtype)
