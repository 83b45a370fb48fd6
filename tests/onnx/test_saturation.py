"""What outputs are compared by: the same value whether a softmax is one op or written out."""

from __future__ import annotations

import pytest
from workbench import Bench, drawn, from_text

from graphprune.onnx.saturation import before_saturation

WEIGHTS = {"w": drawn(8, 6)}
LAST = "l = MatMul (x, w) axes = Constant <value_ints = [1]> ()"
ONE = "one = Constant <value_float = 1.0> ()"


@pytest.mark.parametrize(
    "closing",
    [
        "y = Softmax (l)",
        "y = LogSoftmax (l)",
        "y = Sigmoid (l)",
        "s = Softmax (l) y = Identity (s)",
        "e = Exp (l) s = ReduceSum (e, axes) y = Div (e, s)",
        "m = ReduceMax (l, axes) d = Sub (l, m) e = Exp (d) s = ReduceSum (e, axes) y = Div (e, s)",
        "z = Constant <value_float = -9.0> () r = ReduceMax (l, axes) m = Max (z, r) d = Sub (l, m)"
        " e = Exp (d) s = ReduceSum (e, axes) i = Reciprocal (s) y = Mul (i, e)",
        f"{ONE} n = Neg (l) e = Exp (n) a = Add (one, e) y = Div (one, a)",
        f"{ONE} n = Neg (l) e = Exp (n) a = Add (e, one) y = Reciprocal (a)",
    ],
)
def test_what_goes_into_it(closing: str) -> None:
    model = Bench(from_text(f"{LAST} {closing}", WEIGHTS, outputs="float[N, 6] y")).model
    assert before_saturation(model.graph.outputs[0]).name == "l"


def test_views_between_the_sum_and_the_division() -> None:
    body = (
        f"{LAST} e = Exp (l) s = ReduceSum <keepdims = 0> (e, axes) u = Unsqueeze (s, axes)"
        " n = Shape (l) f = Expand (u, n) y = Div (e, f)"
    )
    model = Bench(from_text(body, WEIGHTS, outputs="float[N, 6] y")).model
    assert before_saturation(model.graph.outputs[0]).name == "l"


@pytest.mark.parametrize(
    "closing",
    [
        "y = Relu (l)",
        "y = Identity (l)",
        "e = Exp (l) s = ReduceSum (e, axes) y = Sub (e, s)",
        "e = Exp (l) s = ReduceSum (l, axes) y = Div (e, s)",  # the sum of something else
        f"{ONE} n = Neg (l) e = Exp (n) a = Add (one, e) y = Div (l, a)",  # SiLU
        f"{ONE} a = Add (one, l) y = Div (one, a)",
    ],
)
def test_an_output_that_does_not_saturate_is_compared_itself(closing: str) -> None:
    model = Bench(from_text(f"{LAST} {closing}", WEIGHTS, outputs="float[N, 6] y")).model
    assert before_saturation(model.graph.outputs[0]).name == "y"


def test_a_shift_that_is_not_the_greatest_counts() -> None:
    body = f"{LAST} m = ReduceMin (l, axes) d = Sub (l, m) e = Exp (d) s = ReduceSum (e, axes) y = Div (e, s)"
    model = Bench(from_text(body, WEIGHTS, outputs="float[N, 6] y")).model
    assert before_saturation(model.graph.outputs[0]).name == "d"


def test_nothing_in_front_of_an_input() -> None:
    model = Bench(from_text("y = Softmax (x)", {}, outputs="float[N, 8] y")).model
    assert before_saturation(model.graph.outputs[0]).name == "y"


@pytest.mark.parametrize(
    ("tail", "name"),
    [
        ("y = Softmax (h)", "h"),
        ("s = Sigmoid (h) y = Identity (s)", "h"),
        ("s = Softmax (h) y = ArgMax <axis = 1> (s)", "s"),
        ("y = Relu (h)", "y"),
        ("t = Transpose (h) y = LogSoftmax (t)", "t"),
    ],
)
def test_the_last_one_counts_and_views_do_not(tail: str, name: str) -> None:
    kind = "int64" if "ArgMax" in tail else "float"
    proto = from_text(f"h = MatMul (x, w) {tail}", {"w": drawn(8, 4)}, outputs=f"{kind}[A, B] y")
    model = Bench(proto).model
    assert before_saturation(model.graph.outputs[0]).name == name
