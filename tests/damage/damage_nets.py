"""Small networks whose hidden units depend on each other, and data for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from workbench import drawn, from_text

Array = np.ndarray[Any, Any]


def correlated(inputs: int, units: int, rank: int, seed: int = 0) -> Array:
    """Weights `(inputs, units)` whose units from `rank` on are mixtures of the first ones."""
    base = drawn(inputs, rank, seed=seed)
    mixed = drawn(rank, units - rank, seed=seed + 1)
    return np.concatenate([base, base @ mixed], axis=1).astype(np.float32)


def mlp(*, softmax: bool = True) -> onnx.ModelProto:
    """Two hidden layers with ReLU, and a Softmax over five classes."""
    body = (
        "a = MatMul (x, w1) b = Add (a, c1) h = Relu (b) "
        "d = MatMul (h, w2) e = Add (d, c2) k = Relu (e) "
        "f = MatMul (k, w3) z = Add (f, c3) y = Softmax <axis = -1> (z)"
    )
    weights = {
        "w1": correlated(8, 24, 10),
        "c1": drawn(24, seed=2),
        "w2": drawn(24, 16, seed=3),
        "c2": drawn(16, seed=4),
        "w3": 3 * drawn(16, 5, seed=5),
        "c3": drawn(5, seed=6),
    }
    if not softmax:
        body = body.replace("z = Add (f, c3) y = Softmax <axis = -1> (z)", "y = Add (f, c3)")
    return from_text(body, weights, outputs="float[N, 5] y")


def data(count: int = 64, size: int = 8, seed: int = 0) -> Array:
    """Inputs of unit variance around a mean that is not zero."""
    return (np.random.default_rng(seed).normal(0.3, 1, (count, size))).astype(np.float32)
