"""Hand-written triples (original, pruned, plan) and the ways in which each pruned graph is broken.

The pruned graphs are written down and sliced by hand; no code that prunes takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from graphprune.plan import Cut, InitializerCut, Plan

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Mutation:
    """One way to break a pruned graph.

    Attributes:
        name: For the test's id.
        apply: Changes the pruned model in place.
        nodes: Any of these may be named as the first that differs.
        structural: The structural check alone must find it.
        numeric: The numeric check alone must find it.
    """

    name: str
    apply: Callable[[ir.Model], None]
    nodes: tuple[str, ...]
    structural: bool = True
    numeric: bool = True


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    original: ir.Model
    pruned: ir.Model
    plan: Plan
    mutations: tuple[Mutation, ...] = ()
    status: str = "exact"


def build(text: str, weights: dict[str, Array]) -> ir.Model:
    """A model from ONNX text whose declared initializers get these contents."""
    proto = onnx.parser.parse_model(text)
    declared = {v.name for v in proto.graph.value_info}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for n, a in weights.items() if n in declared
    )
    return ir.from_proto(proto)


def cut(axis: int, size: int, kept: Sequence[object], **rest: object) -> Cut:
    return Cut(axis, size, np.array(kept, dtype=np.int64), **rest)  # type: ignore[arg-type]


def plan(
    tensors: dict[str, Sequence[Cut]],
    uses: Sequence[tuple[str, str, int, Sequence[Cut]]],
    statistics: dict[str, tuple[int, ...]] | None = None,
    binding: dict[str, int] | None = None,
) -> Plan:
    return Plan(
        source_sha256="",
        groups=(),
        tensors={name: tuple(cuts) for name, cuts in tensors.items()},
        initializers=tuple(InitializerCut(n, node, i, tuple(c)) for n, node, i, c in uses),
        statistics_nodes=statistics or {},
        binding=binding or {},
    )


class Weights:
    """Random weights that keep signals near 1."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *dims: int, fan: int | None = None) -> Array:
        fan = fan or (int(np.prod(dims[1:])) if len(dims) > 1 else 4)
        return (self._generator.standard_normal(dims) * fan**-0.5).astype(np.float32)

    def positive(self, *dims: int) -> Array:
        return self._generator.uniform(0.5, 1.5, dims).astype(np.float32)


# --- breaking things ------------------------------------------------------------------------------


def find(model: ir.Model, key: str) -> ir.Node:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.name == key or any(v.name == key for v in node.outputs):
            return node
    raise KeyError(key)


def weight(name: str, change: Callable[[Array], Array]) -> Callable[[ir.Model], None]:
    """Replace an initializer's contents."""

    def apply(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        array = change(np.array(value.const_value.numpy()))
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)

    return apply


def swapped(axis: int, i: int, j: int) -> Callable[[Array], Array]:
    """Exchange two indices along an axis."""

    def change(array: Array) -> Array:
        order = np.arange(array.shape[axis])
        order[[i, j]] = order[[j, i]]
        return np.take(array, order, axis=axis)

    return change


def attribute(key: str, name: str, value: object) -> Callable[[ir.Model], None]:
    def apply(model: ir.Model) -> None:
        find(model, key).attributes[name] = ir.convenience.convert_attribute(name, value)

    return apply


def rewire(key: str, index: int, to: str) -> Callable[[ir.Model], None]:
    """Let an input read another value."""

    def apply(model: ir.Model) -> None:
        node = find(model, key)
        values = dict(model.graph.initializers.items())
        for other in ir.traversal.RecursiveGraphIterator(model.graph):
            values.update({v.name: v for v in other.outputs})
        values.update({v.name: v for v in model.graph.inputs})
        node.replace_input_with(index, values[to])

    return apply


# --- convolutions ---------------------------------------------------------------------------------


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


# --- matrices -------------------------------------------------------------------------------------


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


# --- movement -------------------------------------------------------------------------------------


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


def all_cases() -> list[Case]:
    return [
        conv_chain(), residual(), group_norm(21), group_norm(18), heads(), lstm(), layer_norm(),
        reduce_mean(18), reduce_mean(13), means_by_hand(), shuffle(), if_body(), merged_batch(),
    ]  # fmt: skip
