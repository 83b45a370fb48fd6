"""Audit cases of onnxruntime's fused attention ops."""

from __future__ import annotations

import numpy as np
from audit_net import MS, Example, Net, Rng, case
from cases_attention import merged, tables, to_heads
from onnx import TensorProto


def sizes(net: Net) -> tuple[int, int, int, int, int]:
    """Input width, heads, head size, length, output width."""
    return net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)


# -- Attention with its packed projection ----------------------------------------------------------


@case("plain", "value_width", "no_bias", "scale", "causal", "bias_of_heads", "padded")
def packed_projection(rng: Rng, kind: str) -> Example:
    net = Net(rng)
    n, h, d, s, m = sizes(net)
    c = net.size(4, 6)
    e = net.size(3, 5) if kind == "value_width" else d
    x = net.dense(net.input([net.batch, s, n]), n, c)
    width = 2 * h * d + h * e
    operands = [x, net.weight(c, width)]
    operands.append("" if kind == "no_bias" else net.vector(width))
    attributes = {"num_heads": h}
    if kind == "value_width" or rng.random() < 0.3:
        attributes["qkv_hidden_sizes"] = [h * d, h * d, h * e]
    if kind == "scale":
        attributes["scale"] = 0.35
    if kind == "causal":
        attributes["unidirectional"] = 1
    if kind == "bias_of_heads":
        bias = net.const(rng.normal(0, 1, (1, h, s, s)).astype(np.float32))
        operands += ["", "", bias]
    if kind == "padded":
        operands.append(
            net.op(
                "Cast",
                net.input(
                    [net.batch, s], TensorProto.INT64, lambda r, shape: r.integers(0, 2, shape)
                ),
                to=TensorProto.INT32,
            )
        )
    y = net.op("Attention", *operands, domain=MS, **attributes)
    y = net.dense(y, h * e, m)
    return net.example(y, units=[c, h], inner=[c, h * d, h * e])


@case("given", "present", "computed")
def packed_projection_cached(rng: Rng, kind: str) -> Example:
    """Past and present hold keys and values in one tensor: as many dims of both."""
    net = Net(rng)
    n, h, d, s, m = sizes(net)
    x = net.input([net.batch, s, n])
    operands = [x, net.weight(n, 3 * h * d), net.vector(3 * h * d)]
    if kind == "given":
        operands += ["", net.input([2, net.batch, h, 4, d])]
    if kind == "computed":
        before = net.input([net.batch, 4, n])
        parts = [
            net.op("Unsqueeze", to_heads(net, t, h, d), net.ints(0))
            for t in merged(net, before, n, h * d, h * d)
        ]
        operands += ["", net.op("Concat", *parts, axis=0)]
    y, present = net.ops("Attention", *operands, count=2, domain=MS, num_heads=h)
    y = net.dense(y, h * d, m)
    if kind == "given":
        return net.example(y, present, units=[], inner=[], reason="fixed size")
    if kind == "present":
        return net.example(y, present, units=[], inner=[], reason="it is the model's output")
    y = net.op("Add", y, net.op("ReduceL2", present, keepdims=0))
    # Inside heads: dims of Q and K, dims of V, bound to lose equally many of each.
    return net.example(y, units=[h], inner=[2 * h * d])


# -- MultiHeadAttention ----------------------------------------------------------------------------


@case("plain", "bias", "scale", "causal", "cross", "bias_of_heads", "padded")
def multi_head(rng: Rng, kind: str) -> Example:
    net = Net(rng)
    n, h, d, s, m = sizes(net)
    e = net.size(3, 5)
    x = net.input([net.batch, s, n])
    source = net.input([net.batch, 7, n]) if kind == "cross" else x
    q, (k, v) = net.dense(x, n, h * d), merged(net, source, n, h * d, h * e)
    operands = [q, k, v]
    attributes = {"num_heads": h}
    if kind == "bias":
        operands.append(net.vector(2 * h * d + h * e))
    if kind == "scale":
        attributes["scale"] = 0.35
    if kind == "causal":
        attributes["unidirectional"] = 1
    if kind == "bias_of_heads":
        operands += ["", "", net.const(rng.normal(0, 1, (1, h, s, s)).astype(np.float32))]
    if kind == "padded":
        mask = net.input(
            [net.batch, s], TensorProto.INT64, lambda r, shape: r.integers(0, 2, shape)
        )
        operands += ["", net.op("Cast", mask, to=TensorProto.INT32)]
    y = net.op("MultiHeadAttention", *operands, domain=MS, **attributes)
    return net.example(net.dense(y, h * e, m), units=[h], inner=[h * d, h * e])


@case("given", "computed", "present", "memory")
def multi_head_cached(rng: Rng, kind: str) -> Example:
    """Past and present; or all keys and values as heads, computed before."""
    net = Net(rng)
    n, h, d, s, m = sizes(net)
    x = net.input([net.batch, s, n])
    before = net.input([net.batch, 4, n])
    if kind == "memory":
        q = net.dense(x, n, h * d)
        k, v = (to_heads(net, t, h, d) for t in merged(net, before, n, h * d, h * d))
        y = net.op("MultiHeadAttention", q, k, v, domain=MS, num_heads=h)
        return net.example(net.dense(y, h * d, m), units=[h], inner=[2 * h * d])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    if kind == "given":
        past = [net.input([net.batch, h, 4, d]), net.input([net.batch, h, 4, d])]
    elif kind == "computed":
        past = [to_heads(net, t, h, d) for t in merged(net, before, n, h * d, h * d)]
    else:
        past = []
    operands = [q, k, v, *([*[""] * 3, *past] if past else [])]
    y, pk, pv = net.ops("MultiHeadAttention", *operands, count=3, domain=MS, num_heads=h)
    y = net.dense(y, h * d, m)
    if kind == "given":
        return net.example(y, pk, pv, units=[], inner=[], reason="fixed size")
    if kind == "present":
        return net.example(y, pk, units=[], inner=[h * d], reason="it is the model's output")
    y = net.op("Add", y, net.op("ReduceL2", pk, keepdims=0))
    y = net.op("Add", y, net.op("ReduceL2", pv, keepdims=0))
    return net.example(y, units=[h], inner=[2 * h * d])


# -- GroupQueryAttention ---------------------------------------------------------------------------


def lengths(net: Net, s: int) -> list[str]:
    """seqlens_k (one less than the keys of each sequence), total_sequence_length."""
    net.batch = 2
    return [net.const(np.full(2, s - 1, np.int32)), net.const(np.array(s, np.int32))]


@case(
    *((p, g, r) for p in ("apart", "packed") for g in (1, 2) for r in ("none", "halves", "pairs")),
    ("apart", 2, "part"),
    ("packed", 2, "part"),
)
def grouped(rng: Rng, layout: str, group: int, turned: str) -> Example:
    """Heads leave by groups; dims in the runs of 8 that the kernel asks for."""
    net = Net(rng)
    n, kv, s, m = net.size(3, 5), net.size(2, 3), 5, net.size(3, 5)
    h = kv * group
    d = net.pick(16, 24) if turned == "none" else net.pick(32, 48)
    d = 64 if turned == "part" else d
    width = {"none": 0, "part": 32}.get(turned, d)
    after = lengths(net, s)
    x = net.input([net.batch, s, n])
    attributes = {"num_heads": h, "kv_num_heads": kv}
    if rng.random() < 0.4:
        attributes["scale"] = 0.3
    if rng.random() < 0.3:
        attributes["softcap"] = 3.0
    if rng.random() < 0.3:
        attributes["local_window_size"] = 2
    if width:
        attributes.update(do_rotary=1, rotary_interleaved=int(turned == "pairs"))
        after += list(tables(net, 9, width // 2))
    if layout == "apart":
        operands = merged(net, x, n, h * d, kv * d, kv * d)
    else:
        operands = [net.dense(x, n, (h + 2 * kv) * d), "", ""]
    y = net.op("GroupQueryAttention", *operands, "", "", *after, domain=MS, **attributes)
    y = net.dense(y, h * d, m)
    run = 8 if turned == "none" else 16
    values = kv * d // run
    # Pairs that all heads share, then what is not turned.
    keys = width // 16 + kv * (d - width) // run
    return net.example(y, units=[kv], inner=[keys + values])


@case("given", "computed", "bias", "sink", "positions")
def grouped_extras(rng: Rng, kind: str) -> Example:
    net = Net(rng)
    n, kv, s, m = net.size(3, 5), net.size(2, 3), 1, net.size(3, 5)
    h, d, past = 2 * kv, 32, 4
    if kind not in ("given", "computed"):
        s, past = 5, 0
    after = lengths(net, s + past)
    x = net.input([net.batch, s, n])
    operands = merged(net, x, n, h * d, kv * d, kv * d)
    caches = ["", ""]
    attributes = {"num_heads": h, "kv_num_heads": kv}
    if kind == "given":
        caches = [net.input([2, kv, past, d]), net.input([2, kv, past, d])]
    if kind == "computed":
        before = net.input([2, past, n])
        caches = [to_heads(net, t, kv, d) for t in merged(net, before, n, kv * d, kv * d)]
    if kind == "bias":
        after += ["", "", "", net.const(rng.normal(0, 1, (1, h, s, s)).astype(np.float32))]
    if kind == "sink":
        after += ["", "", "", "", net.vector(h)]
    if kind == "positions":
        attributes["do_rotary"] = 1
        after += [*tables(net, 9, d // 2), net.const(np.arange(s) + rng.integers(0, 4, (2, 1)))]
    y, pk, pv = net.ops(
        "GroupQueryAttention", *operands, *caches, *after, count=3, domain=MS, **attributes
    )
    y = net.dense(y, h * d, m)
    if kind == "given":
        return net.example(y, pk, pv, units=[], inner=[], reason="fixed size")
    y = net.op("Add", y, net.op("ReduceL2", pk, keepdims=0))
    y = net.op("Add", y, net.op("ReduceL2", pv, keepdims=0))
    runs = kv * d // 8
    inner = [d // 16 + kv * d // 16] if kind == "positions" else [2 * runs]
    return net.example(y, units=[kv], inner=inner)


# -- RotaryEmbedding ------------------------------------------------------------------------------


@case(*((f, i, p) for f in (True, False) for i in (0, 1) for p in ("full", "part", "no_heads")))
def rotary(rng: Rng, flat: bool, interleaved: int, kind: str) -> Example:
    """onnxruntime's own rotary op, then MultiHeadAttention."""
    net = Net(rng)
    net.batch = 2
    n, h, pairs, s, m = net.size(3, 5), net.size(2, 3), net.size(2, 4), 5, net.size(3, 5)
    rest = 2 * net.size(1, 2) if kind == "part" else 0
    d = 2 * pairs + rest
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    attributes = {"interleaved": interleaved}
    if kind == "part":
        attributes.update(rotary_embedding_dim=2 * pairs, num_heads=h)
    elif kind == "full" and flat:
        attributes["num_heads"] = h
    after = [net.const(net.rng.integers(0, 4, (2, s))), *tables(net, 9, pairs)]
    if flat:
        q, k = (net.op("RotaryEmbedding", t, *after, domain=MS, **attributes) for t in (q, k))
    else:
        k = net.op("RotaryEmbedding", to_heads(net, k, h, d), *after, domain=MS, **attributes)
        q = net.op("RotaryEmbedding", to_heads(net, q, h, d), *after, domain=MS, **attributes)
        q = net.reshape(net.op("Transpose", q, perm=[0, 2, 1, 3]), 0, 0, h * d)
        v = to_heads(net, v, h, d)
    y = net.op("MultiHeadAttention", q, k, v, domain=MS, num_heads=h)
    # Keys and values that come as heads lose equally many dims.
    inner = [pairs + h * rest, h * d] if flat else [pairs + h * rest + h * d]
    return net.example(net.dense(y, h * d, m), units=[h], inner=inner)
