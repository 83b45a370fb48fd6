"""Scaled dot product attention: two contractions with a softmax between them."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.aten._macs import attention_macs
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.shared.attention import attend
from graphprune.torch.context import AtenContext
from graphprune.torch.resize import AtenResize


def resize_attention(r: AtenResize) -> None:
    """The scale is 1 / sqrt(head size) where none is given: it stays that of the original."""
    if r.arg("scale") is None and r.new("query")[-1] != r.old("query")[-1]:
        r.set("scale", r.old("query")[-1] ** -0.5)


@aten_rule("scaled_dot_product_attention", macs=attention_macs, resize=resize_attention)
def attention(ctx: AtenContext) -> None:
    """Query, key, value `[..., length, size]`, a mask that broadcasts to `[..., length, keys]`."""
    q, k, v = (ctx.moved(i) for i in range(3))
    if q.rank == 3:
        q, k, v = (_with_heads(ctx, t) for t in (q, k, v))
    if q.rank != 4 or any(t.shape[0] != q.shape[0] for t in (k, v)):
        ctx.boundary("attention over tensors of another rank than 3 or 4")
        return
    if not ctx.arg("enable_gqa", False) and k.shape[1] != q.shape[1]:
        ctx.boundary("heads of keys and queries differ")
        return
    masks = [i for i in (3,) if ctx.has(i)]
    found = attend(ctx, q, k, v, masks=masks, causal=bool(ctx.arg("is_causal", False)))
    if len(ctx.out_shape()) == 3:
        ctx.reshaped(found.y)
    else:
        ctx.set(found.y.factors)


def _with_heads(ctx: AtenContext, t: Labels) -> Labels:
    return ctx.alg.reshape(t, (t.shape[0], 1, *t.shape[1:]))
