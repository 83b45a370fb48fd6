"""What follows a layer channel by channel is one scale and shift."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import drawn, from_text

from graphprune.compensation.tail import affine_tail
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session

IMAGE = {"inputs": "float[2, 4, 5, 5] x", "outputs": "float[A, B, C, D] y"}
BN = {
    "g": np.array([1.5, -0.5, 0.0, 2.0], np.float32),
    "b": drawn(4),
    "m": drawn(4, seed=1),
    "v": np.abs(drawn(4, seed=2)) + 0.1,
}
CASES = [
    ("h = BatchNormalization (c, g, b, m, v) y = Relu (h)", BN, "h"),
    (
        "a = Add (c, p) h = Mul (q, a) y = Relu (h)",
        {"p": drawn(1, 4, 1, 1), "q": drawn(4, 1, 1)},
        "h",
    ),
    (
        "a = Sub (c, p) h = Div (a, q) y = Relu (h)",
        {"p": drawn(4, 1, 1), "q": np.float32([2.5])},
        "h",
    ),
    ("h = Sub (p, c) y = Relu (h)", {"p": drawn(4, 1, 1)}, "c"),
    ("h = Add (c, p) y = Relu (h)", {"p": drawn(5)}, "c"),  # along a spatial axis
    ("h = Add (c, p) y = Mul (h, c)", {"p": drawn(4, 1, 1)}, "c"),  # read twice
]


@pytest.mark.parametrize(("text", "weights", "end"), CASES)
def test_scale_and_shift(text: str, weights: dict[str, np.ndarray], end: str) -> None:
    proto = from_text(f"c = Conv (x, w) {text}", {"w": drawn(4, 4, 1, 1), **weights}, **IMAGE)
    model = load(proto).model
    value = next(iter(model.graph)).outputs[0]
    last, scale, shift = affine_tail(value, 4, 2)
    assert last.name == end
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)
    with Session(model, outputs=["c", end]) as session:
        found = session.run({"x": x})
    made = found["c"] * scale[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(made, found[end], atol=1e-5)
