"""Small networks and inputs that distillation has something to do with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from workbench import drawn, from_text

import graphprune
from graphprune.data.feeds import Calibration, read_calibration
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.plan import Plan

Array = np.ndarray[Any, Any]


def residual_net() -> Any:
    """Two residual blocks of two layers and a classifier with softmax."""
    body = (
        "s = MatMul (x, w0) "
        "a1 = MatMul (s, w1) b1 = Add (a1, c1) r1 = Relu (b1) d1 = MatMul (r1, v1) s1 = Add (s, d1) "
        "a2 = MatMul (s1, w2) b2 = Add (a2, c2) r2 = Relu (b2) d2 = MatMul (r2, v2)"
        " s2 = Add (d2, s1) "
        "l = MatMul (s2, w3) z = Add (l, c3) y = Softmax <axis = -1> (z)"
    )
    weights = {
        "w0": drawn(8, 16),
        "w1": drawn(16, 32, seed=1),
        "c1": drawn(32, seed=2),
        "v1": drawn(32, 16, seed=3),
        "w2": drawn(16, 32, seed=4),
        "c2": drawn(32, seed=5),
        "v2": drawn(32, 16, seed=6),
        "w3": drawn(16, 5, seed=7),
        "c3": drawn(5, seed=8),
    }
    return from_text(body, weights, outputs="float[N, 5] y")


def inputs(count: int, seed: int = 0) -> Array:
    """Inputs of few effective dimensions, as data has."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(0, 1, (4, 8))
    values = rng.normal(0, 1, (count, 4)) @ basis / 2 + 0.1 * rng.normal(0, 1, (count, 8))
    return values.astype(np.float32)


class Pruned:
    """A model, what half of it is, and inputs."""

    def __init__(self, proto: Any, calib: Any, samples: int, **settings: Any) -> None:
        settings = {"channels": 0.5, "bench": False, "align": 4, **settings}
        self.original: ir.Model = canonicalise(load(proto).model)
        result = graphprune.compile(proto, **settings)
        self.model: ir.Model = result.model
        self.plan: Plan = result.plan
        self.calibration: Calibration = read_calibration(calib, self.original, samples)

    @property
    def all(self) -> tuple[ir.Model, ir.Model, Plan, Calibration]:
        return self.original, self.model, self.plan, self.calibration


def weights_of(model: ir.Model) -> dict[str, Array]:
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}
