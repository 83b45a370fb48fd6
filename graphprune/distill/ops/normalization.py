"""Norms and softmax. Batch norms run in inference form: their statistics are fixed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.registry import Call, Result, torch_op


@torch_op("BatchNormalization", fixed=(3, 4), weights=(1, 2))
def batch_norm(call: Call) -> Tensor:
    if call.attr("training_mode", 0) or call.attr("is_test", 1) == 0:
        raise call.refusal("it takes its statistics from the batch (training_mode)")
    x = call.x(0)
    scale, bias, mean, var = (_channels(call.x(i), x) for i in range(1, 5))
    factor = scale * torch.rsqrt(var + call.attr("epsilon", 1e-5))
    return x * factor + (bias - mean * factor)


def _channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


def layer_norm(
    x: Tensor, axis: int, scale: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised tensor, its mean and the inverse of its deviation, over `axis` and behind."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + epsilon)
    found = (x - mean) * inverse
    found = found if scale is None else found * scale
    return (found if bias is None else found + bias), mean, inverse


@torch_op("LayerNormalization", weights=(1, 2))
def layer_normalization(call: Call) -> Result:
    x, axis, epsilon = call.x(0), call.attr("axis", -1), call.attr("epsilon", 1e-5)
    scale, bias = call.x(1), call.at(2)
    shape = x.shape[axis % x.ndim :]
    plain = scale.shape == shape and (bias is None or bias.shape == shape)
    if call.outputs == 1 and plain:
        return F.layer_norm(x, shape, scale, bias, epsilon)
    return layer_norm(x, axis, scale, bias, epsilon)[: call.outputs]


def rms_norm(x: Tensor, axis: int, scale: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The tensor over its root mean square, and the inverse of that."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    inverse = torch.rsqrt(x.square().mean(axes, keepdim=True) + epsilon)
    return x * inverse * scale, inverse


@torch_op("RMSNormalization", "SimplifiedLayerNormalization", weights=(1,))
def rms_normalization(call: Call) -> Result:
    found = rms_norm(call.x(0), call.attr("axis", -1), call.x(1), call.attr("epsilon", 1e-5))
    return found[: call.outputs]


@torch_op("InstanceNormalization", weights=(1, 2))
def instance_norm(call: Call) -> Tensor:
    x = call.x(0)
    found, _, _ = layer_norm(x, 2, None, None, call.attr("epsilon", 1e-5))
    return found * _channels(call.x(1), x) + _channels(call.x(2), x)


@torch_op("GroupNormalization", weights=(1, 2))
def group_norm(call: Call) -> Tensor:
    x, scale, bias = call.x(0), call.x(1), call.x(2)
    groups = call.attr("num_groups")
    if call.version < 21 and scale.numel() == groups:  # one number a group
        each = x.shape[1] // groups
        scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
    return F.group_norm(x, groups, scale, bias, call.attr("epsilon", 1e-5))


@torch_op("LpNormalization")
def lp_norm(call: Call) -> Tensor:
    x, axis, p = call.x(0), call.attr("axis", -1), call.attr("p", 2)
    if p == 1:
        norm = x.abs().sum(axis, keepdim=True)
    else:
        norm = x.square().sum(axis, keepdim=True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, 1.0, norm))


@torch_op("MeanVarianceNormalization")
def mean_variance(call: Call) -> Tensor:
    x = call.x(0)
    axes = tuple(call.attr("axes") or (0, 2, 3))
    mean = x.mean(axes, keepdim=True)
    deviation = (x.square().mean(axes, keepdim=True) - mean.square()).sqrt()
    return (x - mean) / (deviation + 1e-9)


@torch_op("LRN")
def lrn(call: Call) -> Tensor:
    x, size = call.x(0), call.attr("size")
    squares = F.pad(
        x.square().movedim(1, -1).reshape(-1, 1, x.shape[1]), ((size - 1) // 2, size // 2)
    )
    sums = F.avg_pool1d(squares, size, 1) * size
    moved = x.movedim(1, -1)
    sums = sums.reshape(moved.shape).movedim(-1, 1)
    base = call.attr("bias", 1.0) + call.attr("alpha", 1e-4) / size * sums
    return torch.div(x, base ** call.attr("beta", 0.75))


@torch_op("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> Tensor:
    """Over one axis; before opset 13 over that axis and all behind it."""
    x = call.x(0)
    old = call.version < 13
    axis = call.attr("axis", 1 if old else -1) % max(x.ndim, 1)
    flat = x.flatten(axis) if old and x.ndim else x
    if call.node.op_type == "Softmax":
        found = torch.softmax(flat, axis)
    elif call.node.op_type == "LogSoftmax":
        found = torch.log_softmax(flat, axis)
    else:
        best = flat.argmax(axis, keepdim=True)
        found = torch.zeros_like(flat).scatter(axis, best, 1.0)
    return found.reshape(x.shape)
