"""A small trained-like network with redundant hidden layers, its data and its metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from workbench import drawn, from_text

Array = np.ndarray[Any, Any]


def classifier(*, hidden: int = 48) -> onnx.ModelProto:
    """Two hidden layers whose units repeat each other with a little noise."""

    def repeated(inputs: int, distinct: int, seed: int) -> Array:
        base = drawn(inputs, distinct, seed=seed)
        copies = np.tile(base, (1, hidden // distinct))
        return (copies + 0.05 * drawn(inputs, hidden, seed=seed + 1)).astype(np.float32)

    body = (
        "a = MatMul (x, w1) b = Add (a, c1) h = Relu (b) "
        "d = MatMul (h, w2) e = Add (d, c2) k = Relu (e) "
        "f = MatMul (k, w3) z = Add (f, c3) y = Softmax <axis = -1> (z)"
    )
    weights = {
        "w1": repeated(8, 8, 1),
        "c1": 0.1 * drawn(hidden, seed=3),
        "w2": repeated(hidden, 12, 4),
        "c2": 0.1 * drawn(hidden, seed=6),
        "w3": 4 * drawn(hidden, 5, seed=7),
        "c3": drawn(5, seed=8),
    }
    return from_text(body, weights, outputs="float[N, 5] y")


def data(count: int, seed: int = 0) -> Array:
    """Inputs."""
    return np.random.default_rng(seed).normal(0.2, 1, (count, 8)).astype(np.float32)
