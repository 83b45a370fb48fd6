"""Ops that read or write at indices."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.distill.ops.registry import Call, together, torch_op


@torch_op("Gather", fixed=(0,))
def gather(call: Call) -> Tensor:
    """Tables that are looked up are not trained: of a step only the rows of its batch are seen."""
    x, index = call.x(0), call.x(1)
    axis = call.attr("axis", 0) % max(x.ndim, 1)
    if index.ndim == 0:
        return x.select(axis, int(index.item()))
    index = index.to(x.device, torch.int64)
    flat = torch.where(index < 0, index + x.shape[axis], index).reshape(-1)
    found = x.index_select(axis, flat)
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _whole(index: Tensor, length: int) -> Tensor:
    return torch.where(index < 0, index + length, index).to(torch.int64)


@torch_op("GatherElements", fixed=(0,))
def gather_elements(call: Call) -> Tensor:
    x, index = together(call.x(0), call.x(1))
    axis = call.attr("axis", 0)
    return torch.gather(x, axis, _whole(index, x.shape[axis]))


@torch_op("GatherND", fixed=(0,))
def gather_nd(call: Call) -> Tensor:
    x, index = together(call.x(0), call.x(1))
    batch = call.attr("batch_dims", 0)
    if batch == 0:
        return x[tuple(index.to(torch.int64).unbind(-1))]
    lead = x.shape[:batch]
    x = x.reshape(-1, *x.shape[batch:])
    index = index.to(torch.int64).reshape(-1, *index.shape[batch:])
    rows = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (index.ndim - 2))
    found = x[(rows, *index.unbind(-1))]
    return found.reshape(*lead, *found.shape[1:])


@torch_op("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Tensor:
    x, index, updates = together(call.x(0), call.x(1), call.x(2))
    axis, how = call.attr("axis", 0), call.attr("reduction", "none")
    index = _whole(index, x.shape[axis])
    if how == "none":
        return x.scatter(axis, index, updates)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter_reduce(axis, index, updates, names[how], include_self=True)


@torch_op("ScatterND")
def scatter_nd(call: Call) -> Tensor:
    x, index, updates = together(call.x(0), call.x(1), call.x(2))
    how = call.attr("reduction", "none")
    if how not in ("none", "add"):
        raise call.refusal(f"reduction '{how}'")
    places = tuple(_whole(part, x.shape[axis]) for axis, part in enumerate(index.unbind(-1)))
    return torch.index_put(x, places, updates, accumulate=how == "add")


@torch_op("OneHot", fixed=(1, 2))
def one_hot(call: Call) -> Tensor:
    index, depth, values = call.x(0), (call.ints(1) or [0])[0], call.x(2)
    axis = call.attr("axis", -1)
    hot = _whole(index, depth)[..., None] == torch.arange(depth, device=index.device)
    off, on = values.to(index.device).unbind(0)
    found = torch.where(hot, on, off)
    return found.movedim(-1, axis) if axis not in (-1, index.ndim) else found


@torch_op("NonZero")
def non_zero(call: Call) -> Tensor:
    return torch.nonzero(call.x(0)).T


@torch_op("Compress")
def compress(call: Call) -> Tensor:
    x, keep = together(call.x(0), call.x(1))
    axis = call.attr("axis")
    if axis is None:
        return x.reshape(-1)[: len(keep)][keep[: x.numel()]]
    return x.index_select(axis, torch.nonzero(keep[: x.shape[axis]]).reshape(-1))
