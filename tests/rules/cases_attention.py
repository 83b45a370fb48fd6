"""Audit cases of ai.onnx's Attention and RotaryEmbedding."""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, case
from onnx import TensorProto


def merged(net: Net, x: str, n: int, *widths: int) -> list[str]:
    """Dense layers of the given widths on x `[batch, length, n]`."""
    return [net.dense(x, n, w) for w in widths]


def to_heads(net: Net, x: str, heads: int, size: int) -> str:
    """[batch, length, heads * size] -> [batch, heads, length, size]."""
    return net.op("Transpose", net.reshape(x, 0, 0, heads, size), perm=[0, 2, 1, 3])


def from_heads(net: Net, y: str, heads: int, size: int) -> str:
    return net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, heads * size)


def tables(net: Net, positions: int, half: int) -> tuple[str, str]:
    """Cosines and sines `[positions, half]`."""
    angles = net.rng.uniform(0, 6, (positions, half))
    return net.const(np.cos(angles).astype(np.float32)), net.const(
        np.sin(angles).astype(np.float32)
    )


@case(*((m, g, o) for m in (True, False) for g in (1, 2, 3) for o in (23, 24)))
def self_attention(rng: Rng, flat: bool, group: int, opset: int) -> Example:
    """Merged or split operands; query heads that share a kv head leave together."""
    net = Net(rng, opset)
    n, kv, d, e, s, m = (
        net.size(3, 5),
        net.size(2, 4),
        net.size(3, 5),
        net.size(3, 5),
        5,
        net.size(3, 5),
    )
    h = kv * group
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, kv * d, kv * e)
    attributes = {}
    if rng.random() < 0.4:
        attributes["scale"] = 0.4
    if rng.random() < 0.4:
        attributes["softcap"] = 2.0
    if rng.random() < 0.4:
        attributes["is_causal"] = 1
    if flat:
        y = net.op("Attention", q, k, v, q_num_heads=h, kv_num_heads=kv, **attributes)
    else:
        q, k, v = (to_heads(net, t, a, b) for t, a, b in ((q, h, d), (k, kv, d), (v, kv, e)))
        y = from_heads(net, net.op("Attention", q, k, v, **attributes), h, e)
    # Inside heads: dims of Q and K, dims of V, each kv head for itself.
    return net.example(net.dense(y, h * e, m), units=[kv], inner=[kv * d, kv * e])


@case("query", "key_value")
def one_kv_head(rng: Rng, what: str) -> Example:
    """Multi-query attention: query heads leave alone."""
    net = Net(rng, 23)
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, d, d)
    y = net.op("Attention", q, k, v, q_num_heads=h, kv_num_heads=1)
    y = net.dense(y, h * d, m)
    if what == "query":
        return net.example(y, units=[h], inner=[d, d])
    extra = net.dense(k, d, m)
    return net.example(net.op("Add", y, extra), units=[h], inner=[d, d])


@case("float", "bool", "heads", "given", "short")
def masked(rng: Rng, kind: str) -> Example:
    """Masks: constants, one for each head, given by the caller, with fewer keys than there are."""
    net = Net(rng, 24 if kind == "short" else 23)
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    if kind == "float":
        mask = net.const(rng.normal(0, 1, (s, s)).astype(np.float32))
    elif kind == "bool":
        allowed = rng.random((1, 1, s, s)) < 0.7
        mask = net.const(allowed | np.eye(s, dtype=bool))
    elif kind == "heads":
        mask = net.const(rng.normal(0, 1, (1, h, s, s)).astype(np.float32))
    elif kind == "short":
        mask = net.const(rng.normal(0, 1, (s, s - 2)).astype(np.float32))
    else:
        mask = net.input([net.batch, h, s, s])
    y = net.op("Attention", q, k, v, mask, q_num_heads=h, kv_num_heads=h)
    y = net.dense(y, h * d, m)
    if kind == "given":
        return net.example(y, units=[], inner=[h * d, h * d])
    return net.example(y, units=[h], inner=[h * d, h * d], reference=kind == "short")


@case("given", "computed", "present_only")
def cached(rng: Rng, kind: str) -> Example:
    """Past keys and values: given by the caller they hold what they cache."""
    net = Net(rng, 23)
    n, h, d, s, p, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 3, 4, net.size(3, 5)
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    heads = {"q_num_heads": h, "kv_num_heads": h, "is_causal": net.pick(0, 1)}
    if kind == "given":
        past = [net.input([net.batch, h, p, d]), net.input([net.batch, h, p, d])]
        y, pk, pv = net.ops("Attention", q, k, v, "", *past, count=3, **heads)
        y = net.dense(y, h * d, m)
        return net.example(y, pk, pv, units=[], inner=[], reason="fixed size")
    before = net.input([net.batch, p, n])
    past = [to_heads(net, t, h, d) for t in merged(net, before, n, h * d, h * d)]
    y, pk, pv = net.ops("Attention", q, k, v, "", *past, count=3, **heads)
    y = net.dense(y, h * d, m)
    if kind == "computed":
        total = net.op("Add", net.op("ReduceL2", pk), net.op("ReduceL2", pv))
        y = net.op("Add", y, net.op("Reshape", total, net.ints(1, 1, 1)))
        return net.example(y, units=[h], inner=[h * d, h * d])
    return net.example(y, pk, units=[], inner=[h * d], reason="it is the model's output")


@case(0, 1, 2, 3)
def scores_out(rng: Rng, mode: int) -> Example:
    """The scores are read too: heads are still free where they are summed."""
    net = Net(rng, 23)
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    outputs = net.ops(
        "Attention", q, k, v, count=4, q_num_heads=h, kv_num_heads=h, qk_matmul_output_mode=mode
    )
    # The unused outputs between are left out.
    net.nodes[-1].output[1] = net.nodes[-1].output[2] = ""
    y = net.dense(outputs[0], h * d, m)
    total = net.op("ReduceSum", net.op("Tanh", outputs[3]), net.ints(1), keepdims=0)
    return net.example(y, total, units=[h], inner=[h * d, h * d])


@case("query", "memory")
def learned(rng: Rng, what: str) -> Example:
    """Learned queries, or a learned memory of keys and values: tables feed the op."""
    net = Net(rng, 23)
    net.batch = 1
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([1, s, n])
    if what == "query":
        q = net.const(rng.normal(0, 1, (1, 4, h * d)).astype(np.float32))
        k, v = merged(net, x, n, h * d, h * d)
        y = net.op("Attention", q, k, v, q_num_heads=h, kv_num_heads=h)
        # The queries themselves are the model's output positions: they stay.
        return net.example(net.dense(y, h * d, m), units=[h], inner=[h * d, h * d])
    q = net.dense(x, n, h * d)
    k, v = (net.const(rng.normal(0, 1, (1, 6, h * d)).astype(np.float32)) for _ in range(2))
    y = net.op("Attention", q, k, v, q_num_heads=h, kv_num_heads=h)
    return net.example(net.dense(y, h * d, m), units=[h], inner=[h * d, h * d])


@case("query", "key", "value")
def fixed_operand(rng: Rng, which: str) -> Example:
    """One operand comes from the caller: what it meets stays."""
    net = Net(rng, 23)
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([net.batch, s, n])
    operands = merged(net, x, n, h * d, h * d)
    place = ("query", "key", "value").index(which)
    operands.insert(place, net.input([net.batch, s, h * d]))
    y = net.op("Attention", *operands, q_num_heads=h, kv_num_heads=h)
    y = net.dense(y, h * d, m)
    reason = "" if which == "value" else "fixed size"
    return net.example(y, units=[], inner=[h * d], reason=reason)


@case("nonpad")
def external_cache(rng: Rng, kind: str) -> Example:
    """Opset 24: how many keys of a cache written elsewhere are valid."""
    net = Net(rng, 24)
    n, h, d, s, m = net.size(3, 5), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    valid = net.input([net.batch], TensorProto.INT64, lambda r, shape: r.integers(2, s + 1, shape))
    y = net.op("Attention", q, k, v, "", "", "", valid, q_num_heads=h, kv_num_heads=h)
    return net.example(net.dense(y, h * d, m), units=[h], inner=[h * d, h * d])


@case(*((f, i, p) for f in (True, False) for i in (0, 1) for p in ("full", "partial", "batch")))
def rotary(rng: Rng, flat: bool, interleaved: int, kind: str) -> Example:
    """Rotary queries and keys, then attention: pairs leave together, the same of every head."""
    net = Net(rng, 23)
    net.batch = 2
    n, h, pairs, e, s, m = (
        net.size(3, 5),
        net.size(2, 3),
        net.size(2, 4),
        net.size(3, 5),
        5,
        net.size(3, 5),
    )
    rest = net.size(2, 4) if kind == "partial" else 0
    rest += rest % 2
    d = 2 * pairs + rest
    x = net.input([net.batch, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * e)
    attributes = {"interleaved": interleaved}
    if kind == "partial":
        attributes["rotary_embedding_dim"] = 2 * pairs
    if kind == "batch":
        angles = net.rng.uniform(0, 6, (2, s, pairs))
        caches = [
            net.const(np.cos(angles).astype(np.float32)),
            net.const(np.sin(angles).astype(np.float32)),
        ]
        where = []
    else:
        caches = list(tables(net, 9, pairs))
        where = [net.const(net.rng.integers(0, 9, (2, s)))]
    if flat:
        q, k = (
            net.op("RotaryEmbedding", t, *caches, *where, num_heads=h, **attributes) for t in (q, k)
        )
        y = net.op("Attention", q, k, v, q_num_heads=h, kv_num_heads=h)
    else:
        q, k, v = (to_heads(net, t, h, c) for t, c in ((q, d), (k, d), (v, e)))
        q, k = (net.op("RotaryEmbedding", t, *caches, *where, **attributes) for t in (q, k))
        y = from_heads(net, net.op("Attention", q, k, v), h, e)
    # Dims that are not turned leave of each head alone, but equally many.
    return net.example(net.dense(y, h * e, m), units=[h], inner=[pairs + h * rest, h * e])


@case("computed", "given")
def rotary_tables(rng: Rng, kind: str) -> Example:
    """Cosines and sines that are not weights: computed from frequencies, or given by the caller."""
    net = Net(rng, 23)
    net.batch = 2
    n, h, pairs, s, m = net.size(3, 5), net.size(2, 3), net.size(2, 4), 5, net.size(3, 5)
    d = 2 * pairs
    x = net.input([2, s, n])
    q, k, v = merged(net, x, n, h * d, h * d, h * d)
    if kind == "computed":
        at = net.op("Unsqueeze", net.input([2, s]), net.ints(2))
        angles = net.op("Mul", at, net.vector(1, 1, pairs, low=0.5, high=2.0))
    else:
        angles = net.input([2, s, pairs])
    cos, sin = net.op("Cos", angles), net.op("Sin", angles)
    q, k = (net.op("RotaryEmbedding", t, cos, sin, num_heads=h) for t in (q, k))
    y = net.op("Attention", q, k, v, q_num_heads=h, kv_num_heads=h)
    y = net.dense(y, h * d, m)
    if kind == "given":
        return net.example(y, units=[h], inner=[h * d])
    return net.example(y, units=[h], inner=[pairs, h * d])
