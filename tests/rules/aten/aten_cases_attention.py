"""Audit cases of attention."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


@case("plain", "causal", "mask", "head mask", "scale", "grouped", "rank 3", "long keys")
def attention(rng: Rng, how: str) -> Example:
    """Whole heads leave, or dims of q with those of k, and dims of v."""
    net = Net(rng)
    n, d, e, t = 4, net.size(3, 5), net.size(3, 5), net.size(3, 4)
    kv = net.size(2, 3)
    h = kv * 2 if how == "grouped" else 1 if how == "rank 3" else kv
    kv = 1 if how == "rank 3" else kv
    q, k, v = net.dense(n, h * d), net.dense(n, kv * d), net.dense(n, kv * e)
    out = net.dense(h * e, 3)
    keys = t + 1 if how == "long keys" else t
    mask = net.buffer(net.normal(h if how == "head mask" else 1, t, keys))

    def run(x: Tensor, z: Tensor) -> Tensor:
        if how == "rank 3":
            return out(F.scaled_dot_product_attention(q(x), k(x), v(x)))
        one, two, three = (
            f(s).view(-1, length, heads, size).transpose(1, 2)
            for f, s, length, heads, size in (
                (q, x, t, h, d),
                (k, z if how == "long keys" else x, keys, kv, d),
                (v, z if how == "long keys" else x, keys, kv, e),
            )
        )
        y = F.scaled_dot_product_attention(
            one,
            two,
            three,
            attn_mask=mask() if how in ("mask", "head mask") else None,
            is_causal=how == "causal",
            scale=0.3 if how == "scale" else None,
            enable_gqa=how == "grouped",
        )
        return out(y.transpose(1, 2).reshape(-1, t, h * e)) + 0 * z.sum()

    if how == "rank 3":
        units: object = (d, e)
    elif how == "grouped":
        units = None
    else:
        units = h
    inner = None if how == "grouped" else (d, e) if how == "rank 3" else (h * d, h * e)
    return net.example(
        run, net.normal(net.batch, t, n), net.normal(net.batch, t + 1, n), units=units, inner=inner
    )


@case("batch outside", "batch inside", "normed")
def merged_heads(rng: Rng, how: str) -> Example:
    """Heads merged with the batch into one axis, products by hand: an axis of dynamic length is cut."""
    net = Net(rng)
    n, h, d, t = 4, net.size(3, 4), net.size(3, 5), 3
    # Of two images, heads 0 and 1 of 4 could be every second one of either order.
    batch = 3 if how == "batch inside" else net.batch
    q, k, v = (net.dense(n, h * d) for _ in range(3))
    out = net.dense(h * d, 3)

    def heads(y: Tensor) -> Tensor:
        y = y.view(-1, t, h, d)
        y = y.permute(2, 0, 1, 3) if how == "batch inside" else y.transpose(1, 2)
        return y.reshape(-1, t, d)

    def run(x: Tensor) -> Tensor:
        one, two, three = (heads(f(x)) for f in (q, k, v))
        if how == "normed":
            three = F.layer_norm(three, [d])
        y = torch.bmm(torch.softmax(torch.bmm(one, two.mT), -1), three)
        if how == "batch inside":
            return out(y.view(h, -1, t, d).permute(1, 2, 0, 3).flatten(2))
        return out(y.view(-1, h, t, d).transpose(1, 2).flatten(2))

    x = net.normal(batch, t, n)
    return net.example(run, x, units=h, inner=None, statistics=how == "normed")


@case("neg cat", "interleaved")
def rotary(rng: Rng, how: str) -> Example:
    """Positions turned by slices, a negation and a concatenation."""
    net = Net(rng)
    n, h, d, t = 4, net.size(2, 3), 4, 3
    q, k, v = (net.dense(n, h * d) for _ in range(3))
    out = net.dense(h * d, 3)
    cos, sin = net.buffer(net.normal(t, d).cos()), net.buffer(net.normal(t, d).sin())

    def turned(x: Tensor) -> Tensor:
        if how == "neg cat":
            other = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
        else:
            other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * cos() + other * sin()

    def run(x: Tensor) -> Tensor:
        one, two, three = (f(x).view(-1, t, h, d).transpose(1, 2) for f in (q, k, v))
        y = F.scaled_dot_product_attention(turned(one), turned(two), three)
        return out(y.transpose(1, 2).flatten(2))

    return net.example(run, net.normal(net.batch, t, n), units=h, inner=None)
