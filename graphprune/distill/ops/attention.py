"""ai.onnx's Attention and RotaryEmbedding, and what fused attentions have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.distill.ops.registry import Call, Result, torch_op


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`(batch, length, heads * size)` -> `(batch, heads, length, size)`."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    added: list[Tensor],
    softcap: float = 0.0,
) -> Tensor:
    """softmax(scale q k^T + added) v on `(batch, heads, length, size)`; fewer k and v repeat."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q, k.transpose(-1, -2)) * (scale or q.shape[-1] ** -0.5)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    for mask in added:
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, -1), v)


def causal_mask(q: Tensor, k: Tensor, offset: int, value: float = -torch.inf) -> Tensor:
    """What is added to scores so that place i sees places up to `i + offset` only."""
    rows = torch.arange(q.shape[-2], device=q.device)[:, None]
    columns = torch.arange(k.shape[-2], device=q.device)[None]
    return torch.where(columns <= rows + offset, 0.0, value).to(q.dtype)


@torch_op("Attention")
def attention(call: Call) -> Result:
    if call.wants(3):
        raise call.refusal("it gives its scores")
    if call.at(6) is not None:
        raise call.refusal("lengths of padded keys (nonpad_kv_seqlen)")
    q, k, v = (call.x(i) for i in range(3))
    flat = q.ndim == 3
    if flat:
        q = split_heads(q, call.attr("q_num_heads"))
        k, v = (split_heads(t, call.attr("kv_num_heads")) for t in (k, v))
    offset = 0
    if call.at(4) is not None:
        offset = call.x(4).shape[-2]
        k, v = torch.cat([call.x(4), k], -2), torch.cat([call.x(5), v], -2)
    added = []
    if call.attr("is_causal", 0):
        added.append(causal_mask(q, k, offset))
    mask = call.at(3)
    if mask is not None:
        missing = k.shape[-2] - mask.shape[-1]
        if mask.dtype == torch.bool:
            mask = torch.where(mask, 0.0, -torch.inf).to(q.dtype)
        if missing > 0:
            mask = torch.nn.functional.pad(mask, (0, missing), value=-torch.inf)
        added.append(mask.to(q.device))
    cap = call.attr("softcap", 0.0)
    y = attend(q, k, v, call.attr("scale"), added, cap)
    return (merge_heads(y) if flat else y, k, v)[: call.outputs]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turn pairs of the first dims of `(..., size)` by angles `(..., half)`; the rest stays."""
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        found = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        found = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
    return torch.cat([found, rest], -1)


@torch_op("RotaryEmbedding", fixed=(1, 2))
def rotary(call: Call) -> Tensor:
    x, cos, sin, positions = call.x(0), call.x(1), call.x(2), call.at(3)
    flat = x.ndim == 3
    if flat:
        x = split_heads(x, call.attr("num_heads"))
    cos, sin = cos.to(x.device), sin.to(x.device)
    if positions is not None:
        cos, sin = (table[positions.to(x.device, torch.int64)] for table in (cos, sin))
    half = call.attr("rotary_embedding_dim", 0) // 2
    if half:
        cos, sin = cos[..., :half], sin[..., :half]
    found = rotate(x, cos[:, None], sin[:, None], bool(call.attr("interleaved", 0)))
    return merge_heads(found) if flat else found
