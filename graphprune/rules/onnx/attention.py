"""Attention and RotaryEmbedding of ai.onnx (opset 23 on)."""

from __future__ import annotations

from graphprune.rules.context import OpContext
from graphprune.rules.onnx._macs import attention_macs
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize
from graphprune.rules.shared.attention import (
    attend,
    heads_left,
    kept_of,
    merge_heads,
    rotate,
    split_heads,
)


def resize_attention(r: Resize) -> None:
    """`q_num_heads`, `kv_num_heads`; the default scale is made explicit where dims leave."""
    size, left = r.old(0)[-1], r.new(0)[-1]
    if len(r.old(0)) == 3:
        for i, name in ((0, "q_num_heads"), (1, "kv_num_heads")):
            heads = int(r.attr(name))
            width = r.old(i)[2]
            new = heads_left(kept_of(r.cut(i, 2), width), width // heads)
            if new != heads:
                r.set_attr(name, new)
            if i == 0:
                size, left = width // heads, r.new(0)[2] // new
    if left != size and r.attr("scale") is None:
        r.set_attr("scale", size**-0.5)


@op_rule("", "Attention", since=23, macs=attention_macs, resize=resize_attention)
def attention(ctx: OpContext) -> None:
    """q, k, v `[batch, heads, length, size]` or `[batch, length, heads * size]`."""
    alg = ctx.alg
    q, k, v = (ctx.moved(i) for i in range(3))
    merged = q.rank == 3
    if merged:
        q = split_heads(alg, q, int(ctx.attr("q_num_heads")))
        k, v = (split_heads(alg, t, int(ctx.attr("kv_num_heads"))) for t in (k, v))
    past = (ctx.moved(4), ctx.moved(5)) if ctx.has(4) and ctx.has(5) else None
    ctx.pin(6, "it counts positions")
    found = attend(ctx, q, k, v, past=past, masks=[3], causal=bool(ctx.attr("is_causal", 0)))
    ctx.set((merge_heads(alg, found.y) if merged else found.y).factors)
    ctx.set(found.key, 1)
    ctx.set(found.value, 2)
    ctx.set(found.scores.factors, 3)


def resize_rotary(r: Resize) -> None:
    """`num_heads` of a merged input, `rotary_embedding_dim`."""
    heads = int(r.attr("num_heads", 0) or 0)
    turned = int(r.attr("rotary_embedding_dim", 0) or 0)
    axis = len(r.old(0)) - 1
    kept = kept_of(r.cut(0, axis), r.old(0)[axis])
    if axis == 2 and heads:
        size = r.old(0)[axis] // heads
        new = heads_left(kept, size)
        if new != heads:
            r.set_attr("num_heads", new)
        kept = kept[kept // size == kept[0] // size] % size
    if turned:
        left = int((kept < turned).sum())
        if left != turned:
            r.set_attr("rotary_embedding_dim", left)


def rotary(ctx: OpContext, caches: tuple[int, int]) -> None:
    """X `[batch, heads, length, size]` or `[batch, length, heads * size]`."""
    x = ctx.moved(0)
    half = ctx.shape(caches[0])[-1]
    merged = x.rank == 3
    if merged:
        heads = int(ctx.attr("num_heads", 0) or 0) or x.shape[2] // (2 * half)
        x = split_heads(ctx.alg, x, heads)
    y = rotate(ctx, x, caches, width=2 * half, interleaved=bool(ctx.attr("interleaved", 0)))
    ctx.set((merge_heads(ctx.alg, y) if merged else y).factors)


@op_rule("", "RotaryEmbedding", since=23, resize=resize_rotary)
def rotary_embedding(ctx: OpContext) -> None:
    """X, cosines, sines, position ids."""
    ctx.pin(3, "it counts positions")
    rotary(ctx, (1, 2))
