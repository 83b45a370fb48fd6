"""Reductions over axes, running sums, and positions of extremes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphprune.distill.ops.registry import Call, torch_op

Reducer = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(x.sum(axes, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


_REDUCERS: dict[str, Reducer] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).to(x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).to(x.dtype),
}


@torch_op(*_REDUCERS)
def reduce(call: Call) -> Tensor:
    x = call.x(0)
    axes = call.ints(1, "axes")
    if not axes and call.attr("noop_with_empty_axes", 0):  # not reduced, but |x| or x^2 it is
        x, axes = x[..., None], [x.ndim]
        return _REDUCERS[call.node.op_type](x, axes, False)
    axes = axes or list(range(x.ndim))
    if not axes:  # a scalar: it has no axis to reduce
        return _REDUCERS[call.node.op_type](x.reshape(1), [0], False)
    axes = [a % x.ndim for a in axes]
    return _REDUCERS[call.node.op_type](x, axes, bool(call.attr("keepdims", 1)))


@torch_op("ArgMax", "ArgMin")
def extreme(call: Call) -> Tensor:
    x, axis = call.x(0), call.attr("axis", 0)
    find = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin
    keep = bool(call.attr("keepdims", 1))
    if not call.attr("select_last_index", 0):
        return find(x, axis, keepdim=keep)
    from_end = find(x.flip(axis), axis, keepdim=keep)
    return torch.sub(x.shape[axis] - 1, from_end)


@torch_op("CumSum", fixed=(1,))
def running_sum(call: Call) -> Tensor:
    x, axis = call.x(0), int(call.x(1).item())
    x = x.flip(axis) if call.attr("reverse", 0) else x
    found = x.cumsum(axis).to(x.dtype)
    found = found - x if call.attr("exclusive", 0) else found
    return found.flip(axis) if call.attr("reverse", 0) else found


@torch_op("CumProd", fixed=(1,))
def running_product(call: Call) -> Tensor:
    x, axis = call.x(0), int(call.x(1).item())
    x = x.flip(axis) if call.attr("reverse", 0) else x
    found = x.cumprod(axis).to(x.dtype)
    if call.attr("exclusive", 0):
        one = torch.ones_like(found.narrow(axis, 0, 1))
        found = torch.cat([one, found.narrow(axis, 0, found.shape[axis] - 1)], axis)
    return found.flip(axis) if call.attr("reverse", 0) else found


@torch_op("TopK", fixed=(1,))
def top_k(call: Call) -> tuple[Tensor, ...]:
    given = call.ints(1) or [call.attr("k")]
    largest, ordered = bool(call.attr("largest", 1)), bool(call.attr("sorted", 1))
    found = torch.topk(call.x(0), given[0], call.attr("axis", -1), largest, ordered)
    return found.values, found.indices
