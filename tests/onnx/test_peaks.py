"""Values of which only the largest over all places goes on, and those of which more does."""

from __future__ import annotations

import pytest
from workbench import Bench, drawn, from_text

from graphprune.onnx.peaks import global_maximum

WEIGHTS = {"w": drawn(6, 3, 3), "v": drawn(6, 6, 3), "b": drawn(6, 1), "c": drawn(6, 1, seed=2)}
LAST = "axes = Constant <value_ints = [2]> ()"
GELU = "q = Mul (l, l) k = Mul (q, l) s = Add (k, l) t = Tanh (s) u = Add (t, c) r = Mul (u, l)"


def found(body: str) -> str | None:
    text = f"l = Conv (x, w) {body}"
    bench = Bench(from_text(text, WEIGHTS, inputs="float[N, 3, 10] x", outputs="float[A, B, C] y"))
    dims = {v.name or "": d for v, d in bench.shapes[0].dims.items()}
    node = next(n for n in bench.model.graph if n.op_type == "Conv")
    value = global_maximum(node.outputs[0], dims, (-2,))
    return None if value is None else value.name


@pytest.mark.parametrize(
    "body",
    [
        "m = GlobalMaxPool (l) y = Sigmoid (m)",
        "r = Relu (l) m = GlobalMaxPool (r) y = Sigmoid (m)",
        f"{GELU} m = GlobalMaxPool (r) y = Sigmoid (m)",
        f"{LAST} a = Add (l, b) r = Relu (a) m = ReduceMax (r, axes) y = Sigmoid (m)",
        "a = Add (l, b) m = MaxPool <kernel_shape = [8]> (a) y = Sigmoid (m)",
        "n = Shape (l) f = Cast <to = 1> (n) m = GlobalMaxPool (l) y = Mul (m, f)",
        "o = Constant <value_ints = [1]> ()"
        " t = Transpose <perm = [0, 2, 1]> (l) m = ReduceMax (t, o) y = Sigmoid (m)",
    ],
)
def test_one_place_of_each_channel_counts(body: str) -> None:
    assert found(body) == "m"


@pytest.mark.parametrize(
    "body",
    [
        "y = Relu (l)",
        "m = GlobalAveragePool (l) y = Sigmoid (m)",
        "m = MaxPool <kernel_shape = [2], strides = [2]> (l) y = Sigmoid (m)",
        "m = GlobalMaxPool (l) a = GlobalAveragePool (l) y = Add (m, a)",
        "m = GlobalMaxPool (l) y = Add (m, l)",
        "k = Conv <pads = [1, 1]> (l, v) m = GlobalMaxPool (k) y = Sigmoid (m)",
        "z = Conv (x, w) a = Mul (l, z) m = GlobalMaxPool (a) y = Sigmoid (m)",
        "a = GlobalMaxPool (l) b1 = GlobalMaxPool (l) y = Add (a, b1)",
    ],
)
def test_more_than_that_counts(body: str) -> None:
    assert found(body) is None


@pytest.mark.parametrize(("length", "expected"), [(9, "m"), (8, None)])
def test_as_many_places_as_channels_are_not_told_apart(length: int, expected: str | None) -> None:
    """Six channels; without padding there are two places less than in `x`."""
    text = "l = Conv (x, w) m = GlobalMaxPool (l) y = Sigmoid (m)"
    inputs = f"float[N, 3, {length}] x"
    bench = Bench(from_text(text, WEIGHTS, inputs=inputs, outputs="float[A, B, C] y"))
    dims = {v.name or "": d for v, d in bench.shapes[0].dims.items()}
    node = next(n for n in bench.model.graph if n.op_type == "Conv")
    value = global_maximum(node.outputs[0], dims, (-2,))
    assert (None if value is None else value.name) == expected
