"""What is a weight, and which axis of it is which."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import drawn, from_text

from graphprune.onnx.load import load
from graphprune.sparse.weights import prunable


def found(body: str, weights: dict[str, np.ndarray], **rest: str) -> dict[str, tuple]:
    model = load(from_text(body, weights, **rest)).model
    return {
        w.name: (w.role.reduction, w.role.output, w.source, w.role.groups) for w in prunable(model)
    }


IMAGE = {"inputs": "float[1, 4, 8, 8] x", "outputs": "float[A, B, C, D] y"}


@pytest.mark.parametrize(
    ("body", "shape", "role", "rest"),
    [
        ("y = MatMul(x, w)", (8, 5), (0, 1, "x", 1), {}),
        ("y = Gemm(x, w)", (8, 5), (0, 1, "x", 1), {}),
        ("y = Gemm<transB=1>(x, w)", (5, 8), (1, 0, "x", 1), {}),
        ("t = Transpose<perm=[1, 0]>(w) y = MatMul(x, t)", (5, 8), (1, 0, "x", 1), {}),
        ("i = Identity(w) y = MatMul(x, i)", (8, 5), (0, 1, "x", 1), {}),
        ("t = Transpose(x) y = MatMul(w, t)", (5, 8), (1, 0, "t", 1), {}),
        ("t = Transpose(x) y = Gemm(w, t)", (5, 8), (1, 0, "t", 1), {}),
        ("y = Conv(x, w)", (6, 4, 3, 3), (1, 0, "x", 1), IMAGE),
        ("y = Conv<group=2>(x, w)", (6, 2, 3, 3), (1, 0, "x", 2), IMAGE),
        ("y = ConvTranspose(x, w)", (4, 6, 3, 3), (0, 1, "x", 1), IMAGE),
    ],
)
def test_axes(body, shape, role, rest):
    assert found(body, {"w": drawn(*shape)}, **rest) == {"w": role}


def test_embeddings_recurrence_and_ties():
    body = """
        e = Gather(table, x)
        h, s = LSTM<hidden_size=4>(e, w, r, b)
        q = Squeeze(h, one)
        m = MatMul(q, p)
        turned = Transpose<perm=[1, 0]>(table)
        y = MatMul(m, turned)
    """
    weights = {
        "table": drawn(20, 6),
        "w": drawn(1, 16, 6),
        "r": drawn(1, 16, 4),
        "b": drawn(1, 32),
        "p": drawn(4, 6),
        "one": np.array([1], np.int64),
    }
    roles = found(body, weights, inputs="int64[N, T] x", outputs="float[A, B, V] y")
    assert roles == {
        "table": (1, 0, None, 1),
        "w": (2, 1, "e", 1),
        "r": (2, 1, None, 1),
        "p": (0, 1, "q", 1),
    }


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Add(x, w)", {"w": drawn(1, 8)}),  # a bias
        ("y = Mul(x, w)", {"w": drawn(1, 8)}),
        ("a = MatMul(x, w) y = Add(a, w)", {"w": drawn(8, 8)}),  # read by something else too
        ("c = Cast<to=1>(w) y = MatMul(x, c)", {"w": np.ones((8, 8), np.int8)}),
        ("y = Gather<axis=1>(x, w)", {"w": np.zeros((2, 2), np.int64)}),
    ],
)
def test_what_is_left(body, weights):
    assert found(body, weights) == {}
