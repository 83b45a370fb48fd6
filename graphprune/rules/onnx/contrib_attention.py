"""Attention ops of onnxruntime (com.microsoft). Source: onnxruntime docs/ContribOperators.md."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext
from graphprune.rules.onnx._macs import (
    fused_attention_macs,
    grouped_query_attention_macs,
    multi_head_attention_macs,
)
from graphprune.rules.onnx.attention import resize_rotary, rotary
from graphprune.rules.registry import op_rule, registry
from graphprune.rules.resize import Resize
from graphprune.rules.shared.attention import (
    attend,
    heads_left,
    in_runs,
    kept_of,
    merge_heads,
    part,
    rotate,
    split_heads,
    whole_heads,
)
from graphprune.rules.shared.conv import channel_operand
from graphprune.rules.shared.matmul import product

_MS = "com.microsoft"
_POSITIONS = "it counts positions"
_RUN = 8
"""GroupQueryAttention's kernel takes head sizes that are multiples of this, twice with rotary."""


def explicit_scale(r: Resize, size: int, left: int) -> None:
    """The default scale, 1 / sqrt(head size), is made explicit where dims leave."""
    if left != size and not r.attr("scale", 0.0):
        r.set_attr("scale", size**-0.5)


# -- Attention: packed projection ------------------------------------------------------------------


def packed_sizes(sizes: object, width: int) -> list[int]:
    """Widths of q, k and v in a packed projection."""
    return [int(n) for n in sizes] if sizes else [width // 3] * 3  # type: ignore[attr-defined]


def resize_packed(r: Resize) -> None:
    """`num_heads`, `qkv_hidden_sizes`, `scale`, from what is left of the packed columns."""
    width = r.old(1)[1]
    given = r.attr("qkv_hidden_sizes")
    old = packed_sizes(given, width)
    heads = int(r.attr("num_heads"))
    kept = kept_of(r.cut(1, 1), width)
    bounds = np.cumsum([0, *old])
    new = [int(((kept >= a) & (kept < b)).sum()) for a, b in pairwise(bounds)]
    if new == old:
        return
    left = heads_left(kept[kept < old[0]], old[0] // heads)
    r.set_attr("num_heads", left)
    if given or len(set(new)) > 1:
        r.set_attr("qkv_hidden_sizes", new)
    explicit_scale(r, old[0] // heads, new[0] // left)


@op_rule(_MS, "Attention", macs=fused_attention_macs, resize=resize_packed)
def attention(ctx: OpContext) -> None:
    """X `[batch, length, input]`, W `[input, q + k + v]` -> `[batch, length, v]`, present."""
    if ctx.attr("past_present_share_buffer", 0):
        ctx.boundary("its past and present share one buffer of fixed size")
        return
    packed = product(ctx, 0, 1)
    if ctx.has(2):
        packed = channel_operand(ctx, packed, 2, axis=2)
    attend_packed(ctx, packed, mask=3, past=4, bias=5)


def attend_packed(ctx: OpContext, packed: Labels, *, mask: int, past: int, bias: int) -> None:
    """Attention of a projection `[batch, length, q + k + v]`; the arguments are input numbers."""
    alg = ctx.alg
    heads = int(ctx.attr("num_heads"))
    quantised = ctx.node.op_type == "QAttention"
    parts = []
    start = 0
    for size in packed_sizes(ctx.attr("qkv_hidden_sizes"), packed.shape[2]):
        parts.append(split_heads(alg, alg.slice(packed, 2, start, start + size, 1), heads))
        start += size
    q, k, v = parts
    if ctx.attr("do_rotary", 0):
        q, k = (whole_heads(alg, t, "its rotary tables are made inside the op") for t in (q, k))
    ctx.pin(mask, _POSITIONS)
    cached = None
    if ctx.has(past):
        both = ctx.moved(past)
        cached = (part(alg, both, 0, 0), part(alg, both, 0, 1))
    present = len(ctx.node.outputs) > 1 and bool(ctx.node.outputs[1].name)
    found = attend(
        ctx,
        q,
        k,
        v,
        past=cached,
        masks=[] if quantised else [bias],
        causal=bool(ctx.attr("unidirectional", 0)),
        one_size=quantised or present or cached is not None,
    )
    ctx.set(merge_heads(alg, found.y).factors)
    if present:
        rows = [
            Labels((1, *t.shape), tuple(f.renamed({a: a + 1 for a in f.axes}) for f in factors))
            for t, factors in ((k, found.key), (v, found.value))
        ]
        ctx.set(alg.concat(rows, 0)[0].factors, 1)


@op_rule(_MS, "QAttention", macs=partial(fused_attention_macs, past=8), resize=resize_packed)
def quantised_attention(ctx: OpContext) -> None:
    """Attention of 8-bit X and W; columns of W have their own or one scale and zero point."""
    ctx.pin(0, "a removed entry of a quantised input is not a zero")
    if not ctx.labels(1).weight:
        ctx.boundary("its weight is not constant")
        return
    width = ctx.shape(1)[1]
    columns = Factor((1,), ctx.alg.space.fresh(width))
    ctx.adopt(1, [columns])
    packed = Labels((*ctx.shape(0)[:2], width), (columns.renamed({1: 2}),))
    for i in (2, 4, 7):
        if ctx.has(i):
            packed = channel_operand(ctx, packed, i, axis=2)
    attend_packed(ctx, packed, mask=5, past=8, bias=0)


# -- MultiHeadAttention: q, k and v, together or apart ---------------------------------------------


def resize_multi_head(r: Resize) -> None:
    """`num_heads`, `scale`."""
    heads = int(r.attr("num_heads"))
    if len(r.old(0)) == 5:  # packed [batch, length, heads, 3, size]
        left, size, new = r.new(0)[2], r.old(0)[4], r.new(0)[4]
    else:
        width = r.old(0)[2]
        size = width // heads
        left = heads_left(kept_of(r.cut(0, 2), width), size)
        new = r.new(0)[2] // left
    if left != heads:
        r.set_attr("num_heads", left)
    explicit_scale(r, size, new)


@op_rule(_MS, "MultiHeadAttention", macs=multi_head_attention_macs, resize=resize_multi_head)
def multi_head_attention(ctx: OpContext) -> None:
    """q, k, v `[batch, length, heads * size]`; or packed; or k and v already split into heads."""
    alg = ctx.alg
    if ctx.has(8) or ctx.has(9):
        ctx.boundary("its past and present share one buffer of fixed size")
        return
    q, k, v = separate(ctx, int(ctx.attr("num_heads")))
    if ctx.has(3):
        q, k, v = biased(ctx, 3, (q, k, v))
    ctx.pin(4, _POSITIONS)
    past = (ctx.moved(6), ctx.moved(7)) if ctx.has(6) and ctx.has(7) else None
    # Caches, and keys and values that come as heads, have one head size.
    one_size = past is not None or (ctx.has(2) and len(ctx.shape(1)) == 4)
    found = attend(
        ctx,
        q,
        k,
        v,
        past=past,
        masks=[5],
        causal=bool(ctx.attr("unidirectional", 0)),
        one_size=one_size,
    )
    ctx.set(merge_heads(alg, found.y).factors)
    ctx.set(found.key, 1)
    ctx.set(found.value, 2)
    ctx.set(found.scores.factors, 3)


def separate(ctx: OpContext, heads: int) -> tuple[Labels, Labels, Labels]:
    """q, k and v as `[batch, heads, length, size]`, however they come."""
    alg = ctx.alg
    query = ctx.moved(0)
    if query.rank == 5:  # [batch, length, heads, 3, size]
        q, k, v = (alg.transpose(part(alg, query, 3, i), (0, 2, 1, 3)) for i in range(3))
        return q, k, v
    q = split_heads(alg, query, heads)
    key = ctx.moved(1)
    if key.rank == 5:  # [batch, length, heads, 2, size]
        k, v = (alg.transpose(part(alg, key, 3, i), (0, 2, 1, 3)) for i in range(2))
        return q, k, v
    k, v = (t if t.rank == 4 else split_heads(alg, t, heads) for t in (key, ctx.moved(2)))
    return q, k, v


def biased(
    ctx: OpContext, i: int, parts: tuple[Labels, Labels, Labels]
) -> tuple[Labels, Labels, Labels]:
    """q, k and v plus a bias that lists theirs one after the other."""
    alg = ctx.alg
    bias = ctx.moved(i)
    start = 0
    result = []
    for t in parts:
        heads, size = t.shape[1], t.shape[3]
        own = alg.slice(bias, 0, start, start + heads * size, 1)
        start += heads * size
        own = alg.reshape(own, (1, heads, 1, size))
        result.append(Labels(t.shape, alg.meet([t, own], create=[]).factors))
    return result[0], result[1], result[2]


# -- GroupQueryAttention ---------------------------------------------------------------------------


def query_parts(r: Resize) -> tuple[np.ndarray, np.ndarray, int]:
    """Kept query dims, kept key dims, head size."""
    heads, kv_heads = int(r.attr("num_heads")), int(r.attr("kv_num_heads"))
    width = r.old(0)[2]
    kept = kept_of(r.cut(0, 2), width)
    if r.has(1):
        return kept, kept_of(r.cut(1, 2), r.old(1)[2]), width // heads
    size = width // (heads + 2 * kv_heads)
    first, last = heads * size, (heads + kv_heads) * size
    return kept[kept < first], kept[(kept >= first) & (kept < last)] - first, size


def resize_grouped(r: Resize) -> None:
    """`num_heads`, `kv_num_heads`, `scale`."""
    query, key, size = query_parts(r)
    heads = heads_left(query, size)
    r.set_attr("num_heads", heads)
    r.set_attr("kv_num_heads", heads_left(key, size))
    explicit_scale(r, size, len(query) // heads)


@op_rule(_MS, "GroupQueryAttention", macs=grouped_query_attention_macs, resize=resize_grouped)
def group_query_attention(ctx: OpContext) -> None:
    """q `[batch, length, heads * size]`, k, v `[batch, length, kv heads * size]`, or all in q."""
    alg = ctx.alg
    if any(ctx.has(i) for i in (12, 13)):
        ctx.boundary("its caches are quantised")
        return
    heads, kv_heads = int(ctx.attr("num_heads")), int(ctx.attr("kv_num_heads"))
    query = ctx.moved(0)
    if ctx.has(1):
        merged = [query, ctx.moved(1), ctx.moved(2)]
    else:
        size = query.shape[2] // (heads + 2 * kv_heads)
        bounds = np.cumsum([0, heads * size, kv_heads * size, kv_heads * size])
        merged = [alg.slice(query, 2, int(a), int(b), 1) for a, b in pairwise(bounds)]
    q, k, v = (
        split_heads(alg, t, n) for t, n in zip(merged, (heads, kv_heads, kv_heads), strict=True)
    )
    if ctx.attr("do_rotary", 0):
        width = 2 * ctx.shape(7)[-1]
        turn = bool(ctx.attr("rotary_interleaved", 0))
        q, k = (rotate(ctx, t, (7, 8), width=width, interleaved=turn, run=_RUN) for t in (q, k))
        v = in_runs(alg, v, 2 * _RUN)
    else:
        q, k, v = (in_runs(alg, t, _RUN) for t in (q, k, v))
    past = (ctx.moved(3), ctx.moved(4)) if ctx.has(3) and ctx.has(4) else None
    for i in (5, 6, 9):
        ctx.pin(i, _POSITIONS)
    found = attend(ctx, q, k, v, past=past, masks=[10], sink=11, causal=True, one_size=True)
    ctx.set(merge_heads(alg, found.y).factors)
    ctx.set(found.key, 1)
    ctx.set(found.value, 2)
    ctx.set(found.scores.factors, 3)


# -- RotaryEmbedding and boundaries ----------------------------------------------------------------


@op_rule(_MS, "RotaryEmbedding", resize=resize_rotary)
def rotary_embedding(ctx: OpContext) -> None:
    """X, position ids, cosines, sines."""
    ctx.pin(1, _POSITIONS)
    rotary(ctx, (2, 3))


_BUFFER = "its past and present share one buffer of fixed size"
_PACKED = "its tokens are packed without padding"
_SPARSE = "its block mask fixes the layout of the heads"


@op_rule(_MS, "DecoderMaskedMultiHeadAttention", "DecoderMaskedSelfAttention", boundary=_BUFFER)
@op_rule(_MS, "DecoderAttention", boundary="its caches change their layout at run time")
@op_rule(_MS, "PackedAttention", "PackedMultiHeadAttention", boundary=_PACKED)
@op_rule(_MS, "SparseAttention", boundary=_SPARSE)
@op_rule(_MS, "PagedAttention", boundary="its caches are pages of fixed size")
@op_rule(
    _MS,
    "LongformerAttention",
    "QOrderedAttention",
    "QOrderedLongformerAttention",
    boundary="its kernel takes one layout of heads only",
)
def fixed_attention(ctx: OpContext) -> None:
    """Nothing of it leaves."""
    rule = registry.find(ctx.node.domain, ctx.node.op_type, None)
    assert rule is not None
    ctx.boundary(rule.boundary)
