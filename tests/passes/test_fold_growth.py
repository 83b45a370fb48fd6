"""Folding never makes what is stored larger, and what is left as nodes is still pruned."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphprune
from graphprune.onnx.runtime import Session
from graphprune.passes.fold_initializers import FoldInitializersPass

RNG = np.random.default_rng(0)
SLACK = 1 << 10


def parse(text: str, weights: dict[str, np.ndarray]) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {text}')
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def linear(body: str, weights: dict[str, np.ndarray], width: int = 32) -> ir.Model:
    return parse(f"g (float[N, {width}] x) => (float[N, M] y) {{ {body} }}", weights)


def stored(model: ir.Model) -> int:
    """Bytes of all initializers and Constant nodes, bodies included."""
    total = 0
    for graph in [model.graph, *model.graph.subgraphs()]:
        total += sum(v.const_value.nbytes for v in graph.initializers.values())
        for node in graph:
            if node.op_type == "Constant":
                total += node.attributes["value"].as_tensor().nbytes
    return total


def fold(source: ir.Model, feeds: dict[str, np.ndarray]) -> ir.Model:
    """Fold a copy; it computes the same and stores no more."""
    folded = source.clone()
    FoldInitializersPass()(folded)
    with Session(source) as before, Session(folded) as after:
        old, new = before.run(feeds), after.run(feeds)
    for name, array in old.items():
        assert float(np.abs(array).max()) > 0.1
        assert np.allclose(array, new[name], rtol=1e-4, atol=1e-4)
    assert stored(folded) <= stored(source) + SLACK
    assert not FoldInitializersPass()(folded).modified
    return folded


def ops(model: ir.Model) -> list[str]:
    return [n.op_type for n in ir.traversal.RecursiveGraphIterator(model.graph)]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W = normal(32, 32)
X = {"x": normal(5, 32)}


@pytest.mark.parametrize(
    ("body", "weights", "left"),
    [
        # One weight, two results: the weight is stored once, or the results twice as much.
        (
            "a = Neg (w) b = Abs (w) h = MatMul (x, a) y = MatMul (h, b)",
            {"w": W},
            ["Neg", "Abs", "MatMul", "MatMul"],
        ),
        # The same with steps between, of which the first ones are common.
        (
            "t = Transpose (w) n = Neg (t) a = Exp (n) b = Abs (t) h = MatMul (x, a) "
            "y = MatMul (h, b)",
            {"w": W},
            ["Neg", "Exp", "Abs", "MatMul", "MatMul"],
        ),
        # Halves of a weight are no more than the weight.
        (
            "a, b = Split <axis = 1, num_outputs = 2> (w) h = MatMul (x, a) k = MatMul (x, b) "
            "y = Sub (h, k)",
            {"w": W},
            ["MatMul", "MatMul", "Sub"],
        ),
        # Repeating, broadcasting and widening grow; what is before them is folded.
        (
            "t = Neg (b) e = Expand (t, s) y = Add (x, e)",
            {"b": normal(1, 32), "s": np.array([500, 1])},
            ["Expand", "Add"],
        ),
        (
            "t = Neg (b) e = Tile (t, s) y = MatMul (x, e)",
            {"b": normal(1, 32), "s": np.array([32, 1])},
            ["Tile", "MatMul"],
        ),
        (
            "c = Concat <axis = 1> (w, w, w) y = MatMul (x, c)",
            {"w": W},
            ["Concat", "MatMul"],
        ),
        (
            "t = Transpose (w) c = Cast <to = 1> (t) y = MatMul (x, c)",
            {"w": W.astype(np.float16)},
            ["Cast", "MatMul"],
        ),
        (
            "c = Cast <to = 1> (w) y = MatMul (x, c)",
            {"w": W.astype(np.float64)},
            ["MatMul"],
        ),
        # An outer sum is larger than its two vectors, though not than a weight beside it.
        (
            "o = Add (a, b) y = MatMul (x, o)",
            {"a": normal(32, 1), "b": normal(1, 32)},
            ["Add", "MatMul"],
        ),
        (
            "o = Add (a, b) p = Mul (o, w) y = MatMul (x, p)",
            {"a": normal(32, 1), "b": normal(1, 32), "w": W},
            ["MatMul"],
        ),
        # What nothing reads counts for nothing.
        (
            "e = Expand (b, s) d = Add (w, e) a = Abs (w) k = MatMul (x, a) y = MatMul (k, e)",
            {"w": W, "b": normal(1, 32), "s": np.array([32, 32])},
            ["Expand", "MatMul", "MatMul"],
        ),
        # Too small to matter.
        (
            "s = Shape (w) z = ConstantOfShape (s) r = ReduceMax <keepdims = 0> (w) e = Exp (r) "
            "h = MatMul (x, w) y = Div (h, e)",
            {"w": normal(32, 8)},
            ["MatMul", "Div"],
        ),
        # A weight that is read as it is, and a number computed from it.
        (
            "a = Abs (w) r = ReduceMax <keepdims = 0> (a) v = Div (w, r) k = MatMul (x, w) "
            "h = Div (k, r) y = MatMul (h, v)",
            {"w": W},
            ["Div", "MatMul", "Div", "MatMul"],
        ),
    ],
)
def test_what_is_folded(body: str, weights: dict[str, np.ndarray], left: list[str]) -> None:
    feeds = {"x": normal(500, 32)} if "Add (x, e)" in body else X
    folded = fold(linear(body, weights), feeds)
    assert sorted(ops(folded)) == sorted(left)


def test_a_large_table_of_indices_is_folded_however_it_came_about() -> None:
    """What is gathered by it is followed only where its contents are known."""
    body = "i = Range (zero, many, one) j = Mod (i, width) k = Unsqueeze (j, axis) "
    body += "l = Reshape (k, flat) y = Gather <axis = 1> (x, l)"
    numbers = {"zero": 0, "one": 1, "many": 6000, "width": 32}
    weights: dict[str, np.ndarray] = {n: np.array(v) for n, v in numbers.items()}
    weights |= {"axis": np.array([0]), "flat": np.array([-1])}
    source = linear(body, weights)
    folded = source.clone()
    FoldInitializersPass()(folded)
    assert ops(folded) == ["Gather"]
    assert folded.graph.initializers["l"].const_value.numpy().tolist() == [
        i % 32 for i in range(6000)
    ]


BODIES = """
g (float[N, 32] x) => (float[N, 32] y) {{
    c = ReduceMax <keepdims = 0> (x)
    k = Greater (c, zero)
    y = If (k) <
        then_branch = t () => (float[N, 32] a) {{
            s1 = Constant <value = int64[1] {{16}}> ()
            e1 = Constant <value = int64[1] {{32}}> ()
            {p}1 = Slice (w, s1, e1, s0)
            {p}2 = Slice (w, s0, s1, s0)
            {p} = Concat <axis = 0> ({p}1, {p}2)
            a = MatMul (x, {p})
        }},
        else_branch = e () => (float[N, 32] b) {{
            s2 = Constant <value = int64[1] {{16}}> ()
            e2 = Constant <value = int64[1] {{32}}> ()
            {q}1 = Slice (w, s2, e2, s0)
            {q}2 = Slice (w, s0, s2, s0)
            {q} = Concat <axis = 0> ({q}1, {q}2)
            h = MatMul (x, {q})
            b = Neg (h)
        }}
    >
}}
"""


def test_equal_results_of_two_bodies_are_one_initializer_around_them() -> None:
    weights = {"w": W, "zero": np.array(0, np.float32), "s0": np.array([0])}
    source = parse(BODIES.format(p="p", q="q"), weights)
    folded = fold(source, X)
    assert fold(source, {"x": -np.abs(X["x"])})  # the other branch
    assert sorted(ops(folded)) == sorted(["ReduceMax", "Greater", "If", "MatMul", "MatMul", "Neg"])
    assert set(folded.graph.initializers) == {"p", "zero"}
    assert not any(g.initializers for g in folded.graph.subgraphs())
    swapped = np.concatenate([W[16:], W[:16]])
    assert np.array_equal(folded.graph.initializers["p"].const_value.numpy(), swapped)


def test_a_name_that_occurs_twice_is_not_moved_out_of_its_body() -> None:
    """Bodies side by side may call different things the same."""
    weights = {"w": W, "zero": np.array(0, np.float32), "s0": np.array([0])}
    source = parse(BODIES.format(p="p", q="p"), weights)
    folded = fold(source, X)
    assert ops(folded).count("Slice") == 4  # once for both is not possible, twice is too much
    assert set(folded.graph.initializers) == {"w", "zero", "s0"}
    half = {**weights, "w": normal(32, 4)}
    text = BODIES.format(p="p", q="p").replace("float[N, 32] y", "float[N, 4] y")
    text = text.replace("float[N, 32] a", "float[N, 4] a").replace(
        "float[N, 32] b", "float[N, 4] b"
    )
    folded = fold(parse(text, half), X)
    assert ops(folded).count("Slice") == 0  # twice is little
    assert [set(g.initializers) >= {"p"} for g in folded.graph.subgraphs()] == [True, True]


@pytest.mark.parametrize(
    "body",
    [
        "a = Neg (w) u = Abs (w) k = MatMul (x, a) r = Relu (k) y = MatMul (r, u)",
        "c = Cast <to = 1> (h) k = MatMul (x, c) r = Relu (k) y = MatMul (r, w)",
        "e = Expand (b, s) k = MatMul (x, w) m = Add (k, e) r = Relu (m) y = MatMul (r, v)",
    ],
)
def test_layers_behind_what_is_left_lose_channels(body: str) -> None:
    weights = {"w": W, "h": W.astype(np.float16), "b": normal(1, 32), "v": normal(32, 32)}
    weights["s"] = np.array([16, 32])
    feeds = "float[16, 32] x" if "Expand" in body else "float[N, 32] x"
    used = {n: a for n, a in weights.items() if f"{n})" in body or f"({n}" in body}
    source = parse(f"g ({feeds}) => (float[N, 32] y) {{ {body} }}", used)
    result = graphprune.compile(source, channels=0.5, align=1, bench=False)
    assert [len(g.kept) for g in result.report.groups] == [16]
    assert result.report.certificate is not None
    assert result.report.certificate["status"] == "exact"
    assert stored(result.model) <= stored(source)


def test_tables_of_half_precision_lose_columns_only() -> None:
    """The positions that are looked up are known, but more of them in longer inputs."""
    body = "v = Cast <to = 1> (words) e = Gather (v, i) t = Shape <start = 1, end = 2> (i) "
    body += "n = Slice (ids, zero, t, one) u = Cast <to = 1> (places) p = Gather (u, n) "
    body += "a = Add (e, p) y = MatMul (a, w)"
    tables = {"words": normal(50, 32), "places": normal(64, 32)}
    numbers = {"ids": np.arange(64)[None], "zero": np.array([0]), "one": np.array([1])}
    weights = {n: a.astype(np.float16) for n, a in tables.items()}
    text = f"g (int64[N, T] i) => (float[N, T, 4] y) {{ {body} }}"
    source = parse(text, {**weights, **numbers, "w": normal(32, 4)})
    result = graphprune.compile(source, channels=0.5, align=1, bench=False)
    shapes = {n: tuple(v.shape) for n, v in result.model.graph.initializers.items()}
    assert (shapes["words"], shapes["places"]) == ((50, 16), (64, 16))
    assert ops(result.model).count("Cast") == 2


@st.composite
def constants(draw: st.DrawFn) -> tuple[str, dict[str, np.ndarray]]:
    """A random graph of constants, any of which a layer may read."""
    square = {f"w{i}": normal(32, 32) for i in range(draw(st.integers(1, 2)))}
    rows = {"r": normal(1, 32)}
    weights: dict[str, np.ndarray] = {
        **square,
        **rows,
        "s": np.array([32, 32]),
        "o": np.array([0]),
        "m": np.array([20]),
    }
    weights["n"] = np.array([32])
    known, lines = list(square), []
    for i in range(draw(st.integers(1, 7))):
        a, b = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        lines.append(
            draw(
                st.sampled_from(
                    [
                        f"v{i} = Abs ({a})",
                        f"v{i} = Transpose <perm = [1, 0]> ({a})",
                        f"v{i} = Add ({a}, {b})",
                        f"v{i} = Mul ({a}, r)",
                        f"v{i} = Expand (r, s)",
                        f"v{i} = Identity ({a})",
                        f"p{i} = Slice ({a}, o, m, o) q{i} = Slice ({b}, m, n, o) "
                        f"v{i} = Concat <axis = 0> (p{i}, q{i})",
                    ]
                )
            )
        )
        known.append(f"v{i}")
    read = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
    for j, name in enumerate(read):
        # Each layer's rows are brought back to one length, lest products of many overflow.
        before = "x" if j == 0 else f"h{j - 1}"
        lines.append(f"l{j} = MatMul ({before}, {name}) h{j} = LpNormalization <p = 2> (l{j})")
    lines.append(f"y = MatMul (h{len(read) - 1}, z)")
    used = " ".join(lines)
    weights["z"] = normal(32, 3)
    return used, {n: a for n, a in weights.items() if f"{n})" in used or f"{n}," in used}


@given(constants())
@settings(max_examples=60, deadline=None)
def test_random_constants_never_grow(drawn: tuple[str, dict[str, np.ndarray]]) -> None:
    body, weights = drawn
    fold(linear(body, weights), X)
