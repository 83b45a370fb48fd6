"""Elements that move, and bodies of control flow: graphs pruned by hand, and ways to break them."""

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


def means_by_hand() -> Case:
    """One by a constant, one by a computed size; a third mean shares the constant and stays."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[B, 8, 6] x) => (float[B, 8, 3] y)
      <float[6,{c}] w1, float[{c}] b1, float[{c},3] w2, int64[1] last, int64[1] first, int64 at,
       float[1,1] part{more}> {{
      a = MatMul(x, w1)
      b = Add(a, b1)
      s = ReduceSum<keepdims = 1>(b, last)
      m = Mul({part}, s)
      d = Sub(b, m)
      e = Mul(d, d)
      t = ReduceSum<keepdims = 0>(e, last)
      z = Shape(e)
      n = Gather(z, at)
      f = Cast<to = 1>(n)
      q = Div(t, f)
      o = ReduceSum<keepdims = 1>(d, first)
      p = Mul(o, part)
      r = Unsqueeze(q, last)
      u = Div(d, r)
      v = Add(u, p)
      y = MatMul(v, w2)
    }}"""
    make = Weights(26)
    w = {
        "w1": make(6, 8, fan=6), "b1": make(8), "w2": make(8, 3), "last": np.array([-1]),
        "first": np.array([1]), "at": np.array(-1), "part": np.array([[1 / 8]], np.float32),
    }  # fmt: skip
    keep = [0, 1, 4, 6, 7]
    small = {
        **w, "w1": w["w1"][:, keep], "b1": w["b1"][keep], "w2": w["w2"][keep],
        "fifth": np.array([[1 / 5]], np.float32),
    }  # fmt: skip
    k, first = cut(2, 8, keep), [cut(0, 8, keep)]
    made = plan(
        {**{name: [k] for name in "abdeouv"}, "p": [k]},
        [("w1", "a", 1, [cut(1, 8, keep)]), ("b1", "b", 1, first), ("w2", "y", 1, first)],
        statistics={"m": (2,), "q": (2,)},
        binding={"B": 2},
    )
    return Case(
        "means_by_hand",
        build(text.format(c=8, part="part", more=""), w),
        build(text.format(c=5, part="fifth", more=", float[1,1] fifth"), small),
        made,
        (
            Mutation("counts what left", rewire("m", 0, "part"), ("m",)),
            Mutation("counts one too many", weight("fifth", lambda a: a * 5 / 6), ("m",)),
            Mutation("the other mean too", rewire("p", 1, "fifth"), ("p",)),
            Mutation("a wrong count", weight("at", lambda a: a * 0), ("q",), structural=False),
        ),
        status="statistics",
    )


def shuffle() -> Case:
    """A channel shuffle over two groups, then Slice, Concat and Gather."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N, 3, 4, 4] x) => (float[N, 2, 4, 4] y)
      <float[{c},3,1,1] wa, float[{c}] ba, float[2,{t},1,1] wb, int64[5] split, int64[4] merged,
       int64[1] zero, int64[1] half, int64[1] one, int64[{i}] picks> {{
      a = Conv(x, wa, ba)
      s = Reshape(a, split)
      p = Transpose<perm = [0,2,1,3,4]>(s)
      m = Reshape(p, merged)
      f = Slice(m, zero, half, one)
      g = Gather<axis = 1>(m, picks)
      h = Tanh(g)
      j = Concat<axis = 1>(f, h, a)
      y = Conv(j, wb)
    }}"""
    make = Weights(8)
    w = {
        "wa": make(8, 3, 1, 1), "ba": make(8), "wb": make(2, 15, 1, 1),
        "split": np.array([0, 2, 4, 4, 4]), "merged": np.array([0, 8, 4, 4]),
        "zero": np.array([0]), "half": np.array([4]), "one": np.array([1]),
        "picks": np.array([7, 0, 5]),
    }  # fmt: skip
    # Channels 1 and 3 of each group of four stay, then (c, g) order: m = [1, 5, 3, 7].
    keep, moved = [1, 3, 5, 7], [2, 3, 6, 7]
    first, picked = [2, 3], [0]  # of the sliced four [0, 4, 1, 5]; of the picks only 7 stays
    joined = [*first, 4, *(7 + c for c in keep)]
    small = {
        **w, "wa": w["wa"][keep], "ba": w["ba"][keep], "wb": w["wb"][:, joined],
        "split": np.array([0, 2, 2, 4, 4]), "merged": np.array([0, 4, 4, 4]),
        "half": np.array([2]), "picks": np.array([3]),
    }  # fmt: skip
    made = plan(
        {
            "a": [cut(1, 8, keep)], "s": [cut(2, 4, [1, 3])], "p": [cut(1, 4, [1, 3])],
            "m": [cut(1, 8, moved)], "f": [cut(1, 4, first)], "g": [cut(1, 3, picked)],
            "h": [cut(1, 3, picked)], "j": [cut(1, 15, joined)],
        },
        [
            ("wa", "a", 1, [cut(0, 8, keep)]), ("ba", "a", 2, [cut(0, 8, keep)]),
            ("wb", "y", 1, [cut(1, 15, joined)]), ("picks", "g", 1, [cut(0, 3, picked)]),
        ],
        binding={"N": 2},
    )  # fmt: skip
    # Channels of m in terms of a: [0, 4, 1, 5, 2, 6, 3, 7]; those of 1, 3, 5, 7 are 2, 3, 6, 7.
    return Case(
        "shuffle",
        build(text.format(c=8, t=15, i=3), w),
        build(text.format(c=4, t=7, i=1), small),
        made,
        (
            Mutation(
                "permuted reshape", weight("split", lambda a: np.array([0, 4, 1, 4, 4])), ("s",)
            ),
            Mutation("no shuffle", attribute("p", "perm", [0, 1, 2, 3, 4]), ("p",)),
            Mutation("positions exchanged", attribute("p", "perm", [0, 2, 1, 4, 3]), ("p",)),
            Mutation(
                "slice off by one",
                lambda m: (weight("zero", lambda a: a + 1)(m), weight("half", lambda a: a + 1)(m)),
                ("f",),
            ),
            Mutation("index off by one", weight("picks", lambda a: a - 1), ("g",)),
            Mutation(
                "pieces exchanged",
                lambda m: (rewire("j", 0, "h")(m), rewire("j", 1, "f")(m)),
                ("j",),
            ),
            Mutation("columns of the join", weight("wb", swapped(1, 1, 2)), ("y",)),
        ),
    )


def if_body() -> Case:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N, 3, 4, 4] x, bool flag) => (float[N, 2, 4, 4] y)
      <float[{c},3,1,1] wa, float[{c}] ba, float[{c},1,1] k, float[2,{c},1,1] wb> {{
      a = Conv(x, wa, ba)
      i = If (flag) <
        then_branch = then_body () => (float[N, {c}, 4, 4] ti) {{
          ts = Sigmoid(a)
          ti = Mul(ts, k)
        }},
        else_branch = else_body () => (float[N, {c}, 4, 4] ei) {{
          ei = Cos(a)
        }}
      >
      y = Conv(i, wb)
    }}"""
    make = Weights(9)
    w = {"wa": make(5, 3, 1, 1), "ba": make(5), "k": make(5, 1, 1), "wb": make(2, 5, 1, 1)}
    keep = [0, 2, 4]
    small = {n: a[:, keep] if n == "wb" else a[keep] for n, a in w.items()}
    k, first = cut(1, 5, keep), [cut(0, 5, keep)]
    made = plan(
        {name: [k] for name in ("a", "i", "ts", "ti", "ei")},
        [
            ("wa", "a", 1, first), ("ba", "a", 2, first), ("k", "ti", 1, first),
            ("wb", "y", 1, [cut(1, 5, keep)]),
        ],
        binding={"N": 2},
    )  # fmt: skip
    return Case(
        "if_body",
        build(text.format(c=5), w),
        build(text.format(c=3), small),
        made,
        (
            Mutation("swap inside a branch", weight("k", swapped(0, 0, 1)), ("ti", "i")),
            Mutation("a branch reads past a node", rewire("ti", 0, "a"), ("ti", "i")),
            Mutation("swap after the branches", weight("wb", swapped(1, 0, 2)), ("y",)),
        ),
    )


def merged_batch() -> Case:
    """Heads merged with the batch: a cut along a dynamic axis, at the plan's sizes only."""
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[B, 5, 6] x) => (float[B, 5, 4] y)
      <float[6,{c}] wa, float[{c}] ba, int64[4] four, int64[3] three, int64[4] back, int64[3] flat,
       float[{c},4] wb, float[1,3,3] inner> {{
      a = MatMul(x, wa)
      b = Add(a, ba)
      q = Reshape(b, four)
      t = Transpose<perm = [0,2,1,3]>(q)
      m = Reshape(t, three)
      n = MatMul(m, inner)
      e = Exp(n)
      u = Reshape(e, back)
      v = Transpose<perm = [0,2,1,3]>(u)
      f = Reshape(v, flat)
      y = MatMul(f, wb)
    }}"""
    make = Weights(10)
    w = {
        "wa": make(6, 12, fan=6), "ba": make(12), "four": np.array([0, 5, 4, 3]),
        "three": np.array([-1, 5, 3]), "back": np.array([-1, 4, 5, 3]),
        "flat": np.array([0, 0, 12]), "wb": make(12, 4), "inner": make(1, 3, 3, fan=6),
    }  # fmt: skip
    head = [0, 2, 3]
    kept = [3 * h + i for h in head for i in range(3)]
    rows = [4 * b + h for b in range(2) for h in head]
    small = {
        **w, "wa": w["wa"][:, kept], "ba": w["ba"][kept], "wb": w["wb"][kept],
        "four": np.array([0, 5, 3, 3]), "back": np.array([-1, 3, 5, 3]),
        "flat": np.array([0, 0, 9]),
    }  # fmt: skip
    moving = [cut(0, 8, rows, dynamic=True)]
    made = plan(
        {
            "a": [cut(2, 12, kept)], "b": [cut(2, 12, kept)], "q": [cut(2, 4, head)],
            "t": [cut(1, 4, head)], "m": moving, "n": moving, "e": moving,
            "u": [cut(1, 4, head)], "v": [cut(2, 4, head)], "f": [cut(2, 12, kept)],
        },
        [
            ("wa", "a", 1, [cut(1, 12, kept)]), ("ba", "b", 1, [cut(0, 12, kept)]),
            ("wb", "y", 1, [cut(0, 12, kept)]),
        ],
        binding={"B": 2},
    )  # fmt: skip
    return Case(
        "merged_batch",
        build(text.format(c=12), w),
        build(text.format(c=9), small),
        made,
        (
            Mutation(
                "swap two heads", weight("wb", lambda a: a[[3, 4, 5, 0, 1, 2, 6, 7, 8]]), ("y",)
            ),
            Mutation("no transpose back", attribute("v", "perm", [0, 1, 2, 3]), ("v", "f")),
            Mutation("an inner matrix", weight("inner", lambda a: a.swapaxes(1, 2)), ("n",)),
        ),
    )
