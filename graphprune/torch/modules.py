"""Layers of torch that cannot hold what pruning leaves of them, generalised."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads need not fill the model's width.

    Parameters and state dict are those of `nn.MultiheadAttention`. With H heads of d query (and key)
    and e value dimensions: `in_proj_weight` is `[H * (2d + e), E]`, or `q_proj_weight` `[H * d, E]`,
    `k_proj_weight` `[H * d, kdim]`, `v_proj_weight` `[H * e, vdim]`; `out_proj.weight` is `[E, H * e]`.

    Attributes:
        scale: Factor of the scores; that of the original, whose heads may have been wider.
        query_dim: d.
        value_dim: e.
    """

    scale: float
    query_dim: int
    value_dim: int

    @staticmethod
    def from_sliced(
        attention: nn.MultiheadAttention, heads: int, query_dim: int, value_dim: int, scale: float
    ) -> MultiheadAttention:
        """Turn an instance, whose parameters are sliced already, into this class, in place.

        Raises:
            TypeError: It is a subclass: what it adds would be lost.
        """
        if type(attention) is not nn.MultiheadAttention:
            raise TypeError(f"{type(attention).__name__} is no plain nn.MultiheadAttention")
        attention.__class__ = MultiheadAttention
        made = cast(MultiheadAttention, attention)
        made.num_heads, made.query_dim, made.value_dim = heads, query_dim, value_dim
        made.head_dim, made.scale = value_dim, scale
        # torch's layers take their own fused path where this is set, and it knows no such widths.
        made._qkv_same_embed_dim = False
        return made

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`: same arguments, same results.

        Raises:
            RuntimeError: `is_causal` without a mask; a mask of the wrong shape.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None
        else:
            is_causal = False
        q, k, v = self._projected(query, key, value)
        mask = self._mask(attn_mask, key_padding_mask, q.shape[0], k.shape[2], q.dtype)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = torch.matmul(q * self.scale, k.transpose(-2, -1))
            if mask is not None:
                scores = scores + mask
            weights = F.dropout(torch.softmax(scores, -1), dropout)
            mixed = torch.matmul(weights, v)
        else:
            mixed = F.scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal, scale=self.scale
            )
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[batch, heads, length, size]`."""
        wide, narrow = self.num_heads * self.query_dim, self.num_heads * self.value_dim
        sizes = [wide, wide, narrow]
        bias = self.in_proj_bias
        biases = [None, None, None] if bias is None else list(torch.split(bias, sizes))
        if self.in_proj_weight is not None:
            weights = list(torch.split(self.in_proj_weight, sizes))
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        q = F.linear(query, weights[0], biases[0])
        k = F.linear(key, weights[1], biases[1])
        v = F.linear(value, weights[2], biases[2])
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], -1, -1)], 1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return (
            torch.unflatten(q, -1, (self.num_heads, self.query_dim)).transpose(1, 2),
            torch.unflatten(k, -1, (self.num_heads, self.query_dim)).transpose(1, 2),
            torch.unflatten(v, -1, (self.num_heads, self.value_dim)).transpose(1, 2),
        )

    def _mask(
        self,
        given: Tensor | None,
        padding: Tensor | None,
        batch: int,
        keys: int,
        dtype: torch.dtype,
    ) -> Tensor | None:
        """Both masks as one that is added to the scores `[batch, heads, length, keys]`."""
        mask: Tensor | None = None
        if given is not None:
            mask = _additive(given, dtype)
            if mask.dim() == 3:
                mask = torch.unflatten(mask, 0, (batch, self.num_heads))
            mask = F.pad(mask, (0, keys - mask.shape[-1]))
        if padding is not None:
            spread = _additive(padding, dtype)
            spread = F.pad(spread, (0, keys - spread.shape[-1]))[:, None, None, :]
            mask = spread if mask is None else mask + spread
        return mask


class PassThrough(nn.Module):
    """Stands in the place of a layer that left: gives its first tensor back.

    Attributes:
        outputs: 0: the tensor itself; else a tuple of so many, all but the first of them None.
    """

    def __init__(self, outputs: int = 0) -> None:
        super().__init__()
        self.outputs = outputs

    @staticmethod
    def instead_of(layer: nn.Module, outputs: int) -> PassThrough:
        """One with the public attributes of a layer that are no tensors: others may read them."""
        made = PassThrough(outputs)
        for name, value in vars(layer).items():
            if not name.startswith("_") and not isinstance(value, Tensor):
                made.__dict__.setdefault(name, value)
        made.training = layer.training
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first tensor among the arguments, as it is."""
        first = next(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        return (first, *([None] * (self.outputs - 1))) if self.outputs else first


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """True means hidden: minus infinity."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
