"""Fused ops of onnxruntime (com.microsoft). Source: onnxruntime docs/ContribOperators.md."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.attention import (
    attend,
    causal_mask,
    merge_heads,
    rotate,
    split_heads,
)
from graphprune.distill.ops.conv import convolve
from graphprune.distill.ops.elementwise import tanh_gelu
from graphprune.distill.ops.matmul import gemm
from graphprune.distill.ops.normalization import layer_norm, rms_norm
from graphprune.distill.ops.registry import CONTRIB, Call, Result, torch_op

_HIDDEN = -10000.0
"""What onnxruntime adds to the score of a padded key (attribute `mask_filter_value`)."""


@torch_op("Gelu", domain=CONTRIB)
def gelu(call: Call) -> Tensor:
    return F.gelu(call.x(0))


@torch_op("FastGelu", domain=CONTRIB, weights=(1,))
def fast_gelu(call: Call) -> Tensor:
    bias = call.at(1)
    return tanh_gelu(call.x(0) if bias is None else call.x(0) + bias)


@torch_op("BiasGelu", domain=CONTRIB, weights=(1,))
def bias_gelu(call: Call) -> Tensor:
    return F.gelu(call.x(0) + call.x(1))


@torch_op("QuickGelu", domain=CONTRIB)
def quick_gelu(call: Call) -> Tensor:
    x = call.x(0)
    return x * torch.sigmoid(call.attr("alpha", 1.702) * x)


@torch_op("BiasAdd", domain=CONTRIB, weights=(1,))
def bias_add(call: Call) -> Tensor:
    return call.x(0) + call.x(1) + call.x(2)


@torch_op("BiasSplitGelu", domain=CONTRIB, weights=(1,))
def bias_split_gelu(call: Call) -> Tensor:
    left, right = (call.x(0) + call.x(1)).chunk(2, -1)
    return left * F.gelu(right)


@torch_op("SkipLayerNormalization", domain=CONTRIB, weights=(2, 3, 4))
def skip_layer_norm(call: Call) -> Result:
    total = _skipped(call, 4)
    epsilon = call.attr("epsilon", 1e-12)
    y, mean, inverse = layer_norm(total, -1, call.x(2), call.at(3), epsilon)
    return (y, mean, inverse, total)[: call.outputs]


@torch_op("SkipSimplifiedLayerNormalization", domain=CONTRIB, weights=(2, 3))
def skip_rms_norm(call: Call) -> Result:
    total = _skipped(call, 3)
    y, inverse = rms_norm(total, -1, call.x(2), call.attr("epsilon", 1e-12))
    return (y, None, inverse, total)[: call.outputs]


def _skipped(call: Call, bias: int) -> Tensor:
    total = call.x(0) + call.x(1)
    added = call.at(bias)
    return total if added is None else total + added


@torch_op("EmbedLayerNormalization", domain=CONTRIB, fixed=(2, 3, 4), weights=(5, 6))
def embed_layer_norm(call: Call) -> Result:
    ids = call.x(0).to(torch.int64)
    places = call.at(8)
    if places is None:
        places = torch.arange(ids.shape[1], device=ids.device)[None].expand_as(ids)
    total = F.embedding(ids, call.x(2)) + F.embedding(places.to(torch.int64), call.x(3))
    segments = call.at(1)
    if segments is not None and call.at(4) is not None:
        total = total + F.embedding(segments.to(torch.int64), call.x(4))
    y, _, _ = layer_norm(total, -1, call.x(5), call.x(6), call.attr("epsilon", 1e-12))
    mask = call.at(7)
    counts = ids.new_zeros(len(ids)) if mask is None else mask.sum(1)
    return (y, counts.to(torch.int32), total)[: call.outputs]


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}


def _activated(call: Call, x: Tensor) -> Tensor:
    name = call.attr("activation", "")
    alpha, beta = call.attr("activation_alpha"), call.attr("activation_beta")
    params = call.attr("activation_params") or (alpha, beta)
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name](x)
    if name == "LeakyRelu":
        return F.leaky_relu(x, 0.01 if params[0] is None else params[0])
    if name == "Clip" and len(params) == 2 and None not in params:
        return torch.clamp(x, *params)
    if name == "HardSigmoid" and len(params) == 2 and None not in params:
        return torch.clamp(x * params[0] + params[1], 0, 1)
    if name:
        raise call.refusal(f"activation {name}")
    return x


@torch_op("FusedConv", domain=CONTRIB, weights=(1, 2))
def fused_conv(call: Call) -> Tensor:
    found = convolve(call, call.x(0), call.x(1), call.at(2))
    added = call.at(3)
    return _activated(call, found if added is None else found + added)


@torch_op("FusedGemm", domain=CONTRIB, weights=(1, 2))
def fused_gemm(call: Call) -> Tensor:
    return _activated(call, gemm(call))


@torch_op("GroupNorm", "SkipGroupNorm", domain=CONTRIB, weights=(1, 2))
def group_norm(call: Call) -> Result:
    x = call.x(0)
    last = bool(call.attr("channels_last", 1))
    if call.node.op_type == "SkipGroupNorm":
        skip = call.x(3)
        skip = skip.reshape(len(skip), *[1] * (x.ndim - 2), -1) if skip.ndim == 2 else skip
        x = x + skip if call.at(4) is None else x + skip + call.x(4)
    moved = x.movedim(-1, 1) if last else x
    y = F.group_norm(moved, call.attr("groups"), call.x(1), call.x(2), call.attr("epsilon", 1e-5))
    y = F.silu(y) if call.attr("activation", 0) else y
    return (y.movedim(1, -1) if last else y, x)[: call.outputs]


# -- attention -------------------------------------------------------------------------------------


def _key_mask(call: Call, i: int, q: Tensor, k: Tensor) -> list[Tensor]:
    """What is added to the scores for a mask of keys: `(batch, keys)` or `(batch, query, keys)`."""
    mask = call.at(i)
    if mask is None:
        return []
    if mask.ndim not in (2, 3) or mask.shape[-1] != k.shape[-2] or len(mask) != len(q):
        raise call.refusal(f"a mask of shape {list(mask.shape)}")
    hidden = call.attr("mask_filter_value", _HIDDEN)
    mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    return [torch.where(mask != 0, 0.0, hidden).to(q.device, q.dtype)]


@torch_op("Attention", domain=CONTRIB, weights=(1, 2))
def packed_attention(call: Call) -> Result:
    if call.attr("do_rotary", 0) or call.attr("past_present_share_buffer", 0):
        raise call.refusal("rotary tables inside the op, or a shared buffer")
    bias = call.at(2)
    packed = torch.matmul(call.x(0), call.x(1))
    packed = packed if bias is None else packed + bias
    heads = call.attr("num_heads")
    widths = list(call.attr("qkv_hidden_sizes") or [packed.shape[-1] // 3] * 3)
    q, k, v = (split_heads(t, heads) for t in torch.split(packed, widths, -1))
    offset, past = 0, call.at(4)
    if past is not None:
        offset = past.shape[-2]
        k, v = torch.cat([past[0], k], -2), torch.cat([past[1], v], -2)
    added = _key_mask(call, 3, q, k)
    if call.attr("unidirectional", 0):
        added.append(causal_mask(q, k, offset, torch.finfo(q.dtype).min))
    if call.at(5) is not None:
        added.append(call.x(5))
    y = merge_heads(attend(q, k, v, call.attr("scale") or None, added))
    return (y, torch.stack([k, v]) if call.wants(1) else None)[: call.outputs]


@torch_op("MultiHeadAttention", domain=CONTRIB, weights=(3,))
def multi_head_attention(call: Call) -> Result:
    if any(call.at(i) is not None for i in (8, 9)) or call.outputs > 3:
        raise call.refusal("lengths of the past, cache indirection or scores")
    heads = call.attr("num_heads")
    q, k, v = call.x(0), call.at(1), call.at(2)
    if q.ndim != 3 or k is None or v is None or k.ndim == 5:
        raise call.refusal("packed queries, keys or values")
    bias = call.at(3)
    if bias is not None:
        own = q.shape[-1]
        q = q + bias[:own]
        if k.ndim == 3:
            k, v = k + bias[own : 2 * own], v + bias[2 * own :]
    q = split_heads(q, heads)
    k, v = (split_heads(t, heads) if t.ndim == 3 else t for t in (k, v))
    offset = 0
    if call.at(6) is not None:
        offset = call.x(6).shape[-2]
        k, v = torch.cat([call.x(6), k], -2), torch.cat([call.x(7), v], -2)
    added = _key_mask(call, 4, q, k)
    if call.attr("unidirectional", 0):
        added.append(causal_mask(q, k, offset, torch.finfo(q.dtype).min))
    if call.at(5) is not None:
        added.append(call.x(5))
    y = merge_heads(attend(q, k, v, call.attr("scale") or None, added))
    return (y, k, v)[: call.outputs]


@torch_op("RotaryEmbedding", domain=CONTRIB, fixed=(2, 3))
def rotary(call: Call) -> Tensor:
    """Positions are `(1,)`, where they begin, or `(batch, length)`."""
    x, positions, cos, sin = call.x(0), call.x(1), call.x(2), call.x(3)
    if call.attr("is_packed_batching", 0):
        raise call.refusal("packed batches")
    flat = x.ndim == 3
    half = call.attr("rotary_embedding_dim", 0) // 2 or cos.shape[-1]
    if flat:
        heads = call.attr("num_heads", 0) or x.shape[-1] // (2 * cos.shape[-1])
        x = split_heads(x, heads)
    if positions.numel() == 1:
        places = positions.reshape(1, 1) + torch.arange(x.shape[2], device=positions.device)
    else:
        places = positions
    places = places.to(x.device, torch.int64)
    cos, sin = (t.to(x.device)[places][:, None, :, :half] for t in (cos, sin))
    found = rotate(x, cos, sin, bool(call.attr("interleaved", 0))) * call.attr("scale", 1.0)
    return merge_heads(found) if flat else found
