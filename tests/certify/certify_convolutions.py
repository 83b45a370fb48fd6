"""Convolutions and what normalises them: graphs pruned by hand, and ways to break them."""

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


def conv_chain() -> Case:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N, 3, 8, 8] x) => (float[N, 4] y)
      <float[{c},3,3,3] w1, float[{c}] b1, float[5,{c},3,3] w2, float[5] b2, float[5,4] w3> {{
      c1 = Conv<pads: ints = [1,1,1,1]>(x, w1, b1)
      r1 = Relu(c1)
      s1 = Sigmoid(r1)
      c2 = Conv(s1, w2, b2)
      p = GlobalAveragePool(c2)
      f = Flatten(p)
      y = MatMul(f, w3)
    }}"""
    make = Weights(1)
    w = {
        "w1": make(6, 3, 3, 3),
        "b1": make(6),
        "w2": make(5, 6, 3, 3),
        "b2": make(5),
        "w3": make(5, 4),
    }
    keep = [0, 2, 3, 5]
    small = {**w, "w1": w["w1"][keep], "b1": w["b1"][keep], "w2": w["w2"][:, keep]}
    k = cut(1, 6, keep)
    made = plan(
        {"c1": [k], "r1": [k], "s1": [k]},
        [
            ("w1", "c1", 1, [cut(0, 6, keep)]),
            ("b1", "c1", 2, [cut(0, 6, keep)]),
            ("w2", "c2", 1, [cut(1, 6, keep)]),
        ],
        binding={"N": 2},
    )
    return Case(
        "conv_chain",
        build(text.format(c=6), w),
        build(text.format(c=4), small),
        made,
        (
            Mutation("swap two kept filters", weight("w1", swapped(0, 1, 2)), ("c1",)),
            Mutation("swap two kept inputs", weight("w2", swapped(1, 0, 3)), ("c2",)),
            Mutation(
                "bias of the channels that left",
                weight("b1", lambda b: w["b1"][[0, 1, 3, 4]]),
                ("c1",),
            ),
            Mutation("bias shifted by one", weight("b1", lambda b: np.roll(b, 1)), ("c1",)),
            Mutation("one channel too few", weight("w1", lambda a: a[:3]), ("c1",)),
            Mutation("stale pads", attribute("c1", "pads", [0, 0, 0, 0]), ("c1",)),
            Mutation("reads past an activation", rewire("s1", 0, "c1"), ("s1",)),
            Mutation("a weight elsewhere", weight("w3", lambda a: a * 1.001), ("y",)),
            Mutation(
                "one bit of one weight",
                weight(
                    "w2",
                    lambda a: np.where(
                        np.arange(a.size).reshape(a.shape) == 7,
                        np.nextafter(a, 9).astype(np.float32),
                        a,
                    ),
                ),
                ("c2",),
                numeric=False,
            ),
        ),
    )


def residual() -> Case:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[N, 3, 6, 6] x) => (float[N, 4, 6, 6] y, float[N, 2, 6, 6] z)
      <float[{c},3,1,1] wa, float[{c}] ba, float[5,{c},3,3] wb, float[{c},5,1,1] wc, float[{c}] bc,
       float[{c}] scale, float[{c}] shift, float[{c}] mean, float[{c}] var,
       float[4,{c},1,1] wd, float[2,{c},1,1] we> {{
      a = Conv(x, wa, ba)
      n = BatchNormalization(a, scale, shift, mean, var)
      b = Conv<pads: ints = [1,1,1,1]>(n, wb)
      t = Tanh(b)
      c = Conv(t, wc, bc)
      s = Add(n, c)
      y = Conv(s, wd)
      z = Conv(s, we)
    }}"""
    make = Weights(2)
    w = {
        "wa": make(7, 3, 1, 1), "ba": make(7), "wb": make(5, 7, 3, 3), "wc": make(7, 5, 1, 1),
        "bc": make(7), "scale": make.positive(7), "shift": make(7), "mean": make(7),
        "var": make.positive(7), "wd": make(4, 7, 1, 1), "we": make(2, 7, 1, 1),
    }  # fmt: skip
    keep = [1, 3, 4, 6]
    outer, inner = ("wa", "ba", "wc", "bc", "scale", "shift", "mean", "var"), ("wb", "wd", "we")
    small = {n: a[keep] if n in outer else a[:, keep] for n, a in w.items()}
    k, first, second = cut(1, 7, keep), [cut(0, 7, keep)], [cut(1, 7, keep)]
    made = plan(
        {name: [k] for name in ("a", "n", "c", "s")},
        [
            ("wa", "a", 1, first), ("ba", "a", 2, first), ("wb", "b", 1, second),
            ("wc", "c", 1, first), ("bc", "c", 2, first), ("wd", "y", 1, second),
            ("we", "z", 1, second),
            *((n, "n", i + 1, first) for i, n in enumerate(("scale", "shift", "mean", "var"))),
        ],
        binding={"N": 2},
    )  # fmt: skip
    assert set(outer) | set(inner) == set(w)
    return Case(
        "residual",
        build(text.format(c=7), w),
        build(text.format(c=4), small),
        made,
        (
            Mutation("wrong variance slice", weight("var", lambda a: w["var"][:4]), ("n",)),
            Mutation("swap the branch's filters", weight("wc", swapped(0, 0, 1)), ("c",)),
            Mutation(
                "a consumer that was forgotten", weight("we", lambda a: w["we"][:, :4]), ("z",)
            ),
            Mutation("the skip is forgotten", rewire("s", 0, "c"), ("s",)),
            Mutation("stale epsilon", attribute("n", "epsilon", 0.1), ("n",)),
            Mutation("reads before the norm", rewire("b", 0, "a"), ("b",)),
        ),
    )


def group_norm(opset: int = 21) -> Case:
    per = 12 if opset >= 21 else 3
    text = """<ir_version: 10, opset_import: ["" : {o}]>
    g (float[N, 3, 5, 5] x) => (float[N, 4, 5, 5] y)
      <float[{c},3,1,1] wa, float[{c}] ba, float[{p}] scale, float[{p}] bias,
       float[4,{c},1,1] wb> {{
      a = Conv(x, wa, ba)
      n = GroupNormalization<num_groups = {g}, epsilon = 0.01>(a, scale, bias)
      y = Conv(n, wb)
    }}"""
    make = Weights(3)
    w = {
        "wa": make(12, 3, 1, 1), "ba": make(12), "scale": make.positive(per), "bias": make(per),
        "wb": make(4, 12, 1, 1),
    }  # fmt: skip
    keep = [0, 1, 3, 8, 9, 10]  # group 1 leaves, groups 0 and 2 keep different channels
    norm = keep if per == 12 else [0, 2]
    small = {
        "wa": w["wa"][keep], "ba": w["ba"][keep], "scale": w["scale"][norm],
        "bias": w["bias"][norm], "wb": w["wb"][:, keep],
    }  # fmt: skip
    k, first = cut(1, 12, keep), [cut(0, 12, keep)]
    each = [cut(0, per, norm)]
    made = plan(
        {"a": [k], "n": [k]},
        [
            ("wa", "a", 1, first), ("ba", "a", 2, first), ("scale", "n", 1, each),
            ("bias", "n", 2, each), ("wb", "y", 1, [cut(1, 12, keep)]),
        ],
        statistics={"n": (1, 2, 3)},
        binding={"N": 2},
    )  # fmt: skip
    return Case(
        f"group_norm_{opset}",
        build(text.format(o=opset, c=12, g=3, p=per), w),
        build(text.format(o=opset, c=6, g=2, p=6 if per == 12 else 2), small),
        made,
        (
            Mutation("swap two scales", weight("scale", swapped(0, 0, 1)), ("n",)),
            Mutation("stale epsilon", attribute("n", "epsilon", 0.02), ("n",)),
            Mutation("wrong bias slice", weight("bias", lambda b: w["bias"][: len(b)]), ("n",)),
            Mutation(
                "wrong number of groups",
                attribute("n", "num_groups", 1),
                ("n",),
                structural=False,
            ),
        ),
        status="statistics",
    )
