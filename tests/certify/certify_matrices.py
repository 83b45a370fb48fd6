"""Matrices, recurrences and norms over features: graphs pruned by hand, and ways to break them."""

from __future__ import annotations

import numpy as np
from certify_case import (
    Case,
    Mutation,
    Weights,
    attribute,
    build,
    cut,
    plan,
    rewire,
    swapped,
    weight,
)


def heads() -> Case:
    """Three heads of four: the middle head leaves, the others keep different dims of q and k."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[B, S, 6] x) => (float[B, S, 6] y)
      <float[6,{qk}] wq, float[{qk}] bq, float[6,{qk}] wk, float[6,{v}] wv, float[{v}] bv,
       float[{v},6] wo, int64[4] to_qk, int64[4] to_v, int64[3] merged, float scale> {{
      q = MatMul(x, wq)
      qb = Add(q, bq)
      k = MatMul(x, wk)
      v = MatMul(x, wv)
      vb = Add(v, bv)
      q4 = Reshape(qb, to_qk)
      k4 = Reshape(k, to_qk)
      v4 = Reshape(vb, to_v)
      qt = Transpose<perm = [0,2,1,3]>(q4)
      kt = Transpose<perm = [0,2,3,1]>(k4)
      vt = Transpose<perm = [0,2,1,3]>(v4)
      qk = MatMul(qt, kt)
      z = Mul(qk, scale)
      p = Softmax<axis = -1>(z)
      o4 = MatMul(p, vt)
      ot = Transpose<perm = [0,2,1,3]>(o4)
      o = Reshape(ot, merged)
      y = MatMul(o, wo)
    }}"""
    make = Weights(4)
    w = {
        "wq": make(6, 12, fan=6), "bq": make(12), "wk": make(6, 12, fan=6),
        "wv": make(6, 12, fan=6), "bv": make(12), "wo": make(12, 6),
        "to_qk": np.array([0, 0, 3, 4]), "to_v": np.array([0, 0, 3, 4]),
        "merged": np.array([0, 0, 12]), "scale": np.float32(0.7),
    }  # fmt: skip
    dims = [[0, 3], [1, 2]]  # of heads 0 and 2
    qk = [0, 3, 9, 10]
    v = [0, 1, 2, 3, 8, 9, 10, 11]
    small = {
        **w,
        "wq": w["wq"][:, qk], "bq": w["bq"][qk], "wk": w["wk"][:, qk], "wv": w["wv"][:, v],
        "bv": w["bv"][v], "wo": w["wo"][v], "to_qk": np.array([0, 0, 2, 2]),
        "to_v": np.array([0, 0, 2, 4]), "merged": np.array([0, 0, 8]),
    }  # fmt: skip
    head = [0, 2]
    made = plan(
        {
            "q": [cut(2, 12, qk)], "qb": [cut(2, 12, qk)], "k": [cut(2, 12, qk)],
            "v": [cut(2, 12, v)], "vb": [cut(2, 12, v)],
            "q4": [cut(2, 3, head), cut(3, 4, dims, blocks=(2,))],
            "k4": [cut(2, 3, head), cut(3, 4, dims, blocks=(2,))],
            "v4": [cut(2, 3, head)],
            "qt": [cut(1, 3, head), cut(3, 4, dims, blocks=(1,))],
            "kt": [cut(1, 3, head), cut(2, 4, dims, blocks=(1,))],
            **{n: [cut(1, 3, head)] for n in ("vt", "qk", "z", "p", "o4")},
            "ot": [cut(2, 3, head)], "o": [cut(2, 12, v)],
        },
        [
            ("wq", "q", 1, [cut(1, 12, qk)]), ("bq", "qb", 1, [cut(0, 12, qk)]),
            ("wk", "k", 1, [cut(1, 12, qk)]), ("wv", "v", 1, [cut(1, 12, v)]),
            ("bv", "vb", 1, [cut(0, 12, v)]), ("wo", "y", 1, [cut(0, 12, v)]),
        ],
        binding={"B": 2, "S": 5},
    )  # fmt: skip
    return Case(
        "heads",
        build(text.format(qk=12, v=12), w),
        build(text.format(qk=4, v=8), small),
        made,
        (
            Mutation("swap two dims of k", weight("wk", swapped(1, 0, 1)), ("k",)),
            Mutation(
                "swap heads of the output",
                weight("wo", lambda a: a[[4, 5, 6, 7, 0, 1, 2, 3]]),
                ("y",),
            ),
            Mutation("rows of the wrong head", weight("wo", lambda a: w["wo"][:8]), ("y",)),
            Mutation("permuted reshape", weight("to_v", lambda a: np.array([0, 0, 4, 2])), ("v4",)),
            Mutation("dims before heads", attribute("vt", "perm", [0, 3, 1, 2]), ("vt",)),
            Mutation("stale scale", weight("scale", lambda a: a * np.float32(2**0.5)), ("z",)),
            Mutation("bias of another head", weight("bv", lambda a: w["bv"][:8]), ("vb",)),
            Mutation("bias left out", rewire("v4", 0, "v"), ("v4",)),
            Mutation("softmax over queries", attribute("p", "axis", -2), ("p",)),
        ),
    )


def lstm() -> Case:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[T, B, 4] x) => (float[T, B, 3] y)
      <float[1,{g},4] w, float[1,{g},{h}] r, float[1,{b}] b, float[{h},3] wo, int64[1] one> {{
      h, last = LSTM<hidden_size = {h}>(x, w, r, b)
      s = Squeeze(h, one)
      y = MatMul(s, wo)
    }}"""
    make = Weights(5)
    w = {
        "w": make(1, 20, 4, fan=2), "r": make(1, 20, 5, fan=5), "b": make(1, 40, fan=4),
        "wo": make(5, 3), "one": np.array([1]),
    }  # fmt: skip
    keep = [0, 2, 3]
    gates = [5 * g + i for g in range(4) for i in keep]
    both = gates + [20 + i for i in gates]
    small = {
        **w, "w": w["w"][:, gates], "r": w["r"][:, gates][:, :, keep], "b": w["b"][:, both],
        "wo": w["wo"][keep],
    }  # fmt: skip
    made = plan(
        {"h": [cut(3, 5, keep)], "last": [cut(2, 5, keep)], "s": [cut(2, 5, keep)]},
        [
            ("w", "h", 1, [cut(1, 20, gates)]),
            ("r", "h", 2, [cut(1, 20, gates), cut(2, 5, keep)]),
            ("b", "h", 3, [cut(1, 40, both)]),
            ("wo", "y", 1, [cut(0, 5, keep)]),
        ],
        binding={"T": 6, "B": 2},
    )
    return Case(
        "lstm",
        build(text.format(g=20, h=5, b=40), w),
        build(text.format(g=12, h=3, b=24), small),
        made,
        (
            Mutation("swap recurrent columns", weight("r", swapped(2, 0, 1)), ("h",)),
            Mutation(
                "recurrent columns by position",
                weight("r", lambda a: w["r"][:, gates][:, :, :3]),
                ("h",),
            ),
            Mutation(
                "gates out of order",
                weight("w", lambda a: a[:, [3, 4, 5, 0, 1, 2, *range(6, 12)]]),
                ("h",),
            ),
            Mutation("recurrent bias of the wrong unit", weight("b", swapped(1, 12, 13)), ("h",)),
            Mutation("rows of the head", weight("wo", lambda a: w["wo"][:3]), ("y",)),
        ),
    )


def layer_norm() -> Case:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[B, S, 6] x) => (float[B, S, 3] y, float[B, S, 1] m)
      <float[6,{c}] w1, float[{c}] b1, float[{c}] scale, float[{c}] bias, float[{c},3] w2> {{
      a = MatMul(x, w1)
      b = Add(a, b1)
      n, mu, inv = LayerNormalization<axis = -1, epsilon = 0.01>(b, scale, bias)
      g = Mul(n, n)
      y = MatMul(g, w2)
      m = Mul(mu, inv)
    }}"""
    make = Weights(6)
    w = {
        "w1": make(6, 8, fan=6), "b1": make(8), "scale": make.positive(8), "bias": make(8),
        "w2": make(8, 3),
    }  # fmt: skip
    keep = [0, 1, 4, 6, 7]
    small = {n: a[:, keep] if n == "w1" else a[keep] for n, a in w.items()}
    k, first = cut(2, 8, keep), [cut(0, 8, keep)]
    made = plan(
        {"a": [k], "b": [k], "n": [k], "g": [k]},
        [
            ("w1", "a", 1, [cut(1, 8, keep)]), ("b1", "b", 1, first), ("scale", "n", 1, first),
            ("bias", "n", 2, first), ("w2", "y", 1, first),
        ],
        statistics={"n": (2,)},
        binding={"B": 2, "S": 4},
    )  # fmt: skip
    return Case(
        "layer_norm",
        build(text.format(c=8), w),
        build(text.format(c=5), small),
        made,
        (
            Mutation("swap two scales", weight("scale", swapped(0, 1, 3)), ("n",)),
            Mutation("stale epsilon", attribute("n", "epsilon", 0.02), ("n",)),
            Mutation("wrong bias slice", weight("bias", lambda a: w["bias"][:5]), ("n",)),
            Mutation("bias before the norm", weight("b1", lambda a: w["b1"][1:6]), ("b",)),
            Mutation("squares the wrong side", rewire("g", 1, "b"), ("g",)),
            Mutation("mean of something else", rewire("m", 0, "inv"), ("m",)),
        ),
        status="statistics",
    )


def reduce_mean(opset: int = 18) -> Case:
    """A response norm by hand: x * L2(x) / mean of L2 over channels, and a mean subtracted."""
    axes = "axes: ints = [1], " if opset < 18 else ""
    spatial = "axes: ints = [2, 3], " if opset < 18 else ""
    operand, positions = ("", "") if opset < 18 else (", channel", ", position")
    text = """<ir_version: 10, opset_import: ["" : {o}]>
    g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y)
      <float[{c},3,1,1] wa, float[{c}] ba, float[2,{c},1,1] wb, int64[1] channel, int64[2] position,
       float eps> {{
      a = Conv(x, wa, ba)
      l = ReduceL2<{s}keepdims: int = 1>(a{p})
      m = ReduceMean<{a}keepdims: int = 1>(l{i})
      d = Add(m, eps)
      n = Div(l, d)
      t = Mul(a, n)
      u = ReduceMean<{a}keepdims: int = 0>(t{i})
      e = Unsqueeze(u, channel)
      v = Sub(t, e)
      y = Conv(v, wb)
    }}"""
    make = Weights(7)
    w = {
        "wa": make(6, 3, 1, 1), "ba": make(6), "wb": make(2, 6, 1, 1), "channel": np.array([1]),
        "position": np.array([2, 3]), "eps": np.float32(0.01),
    }  # fmt: skip
    keep = [0, 3, 5]
    small = {**w, "wa": w["wa"][keep], "ba": w["ba"][keep], "wb": w["wb"][:, keep]}
    k = cut(1, 6, keep)
    made = plan(
        {name: [k] for name in ("a", "l", "n", "t", "v")},
        [
            ("wa", "a", 1, [cut(0, 6, keep)]), ("ba", "a", 2, [cut(0, 6, keep)]),
            ("wb", "y", 1, [cut(1, 6, keep)]),
        ],
        statistics={"m": (1,), "u": (1,)},
        binding={"N": 2},
    )  # fmt: skip
    fill = {"o": opset, "a": axes, "s": spatial, "i": operand, "p": positions}
    return Case(
        f"reduce_mean_{opset}",
        build(text.format(c=6, **fill), w),
        build(text.format(c=3, **fill), small),
        made,
        (
            Mutation("swap two filters", weight("wa", swapped(0, 0, 2)), ("a",)),
            Mutation("the mean's count is patched", weight("eps", lambda a: a * 2), ("d",)),
            Mutation("divides by the wrong norm", rewire("n", 1, "m"), ("n",)),
            Mutation("forgot to subtract", rewire("y", 0, "t"), ("y",)),
        ),
        status="statistics",
    )
