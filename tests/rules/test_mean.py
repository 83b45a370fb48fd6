"""Means written by hand: what the plan says of them, and what their factors become."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.certify import certify
from graphprune.rules.onnx.mean import scaled

NORM = """
  s = ReduceSum<keepdims = 1>({x}, last)
  m = {mean}
  d = Sub({x}, m)
  q = Mul(d, d)
  t = ReduceSum<keepdims = 1>(q, last)
  v = {variance}
  e = Add(v, small)
  r = Sqrt(e)
  n = Div(d, r)
"""
TRUNK = f"""
  h = MatMul(x, w0)
  {NORM}
  a = MatMul(n, w1)
  b = Relu(a)
  c = MatMul(b, w2)
  o = Add(h, c)
  y = MatMul(o, w3)
"""
CONSTANTS = {
    "last": np.array([-1]),
    "small": np.array(1e-3, np.float32),
    "part": np.array([1 / 12], np.float32),
    "at": np.array(-1),
}
WEIGHTS = {
    "w0": drawn(8, 12),
    "w1": drawn(12, 20),
    "w2": drawn(20, 12, seed=1),
    "w3": drawn(12, 5),
    **CONSTANTS,
}


def trunk(mean: str, variance: str) -> Bench:
    body = TRUNK.format(x="h", mean=mean, variance=variance)
    return Bench(from_text(body, WEIGHTS))


def test_residual_through_a_norm_by_hand_is_a_trunk() -> None:
    bench = trunk("Mul(s, part)", "Mul(t, part)")
    kinds = {g.size: (g.kind, g.trunk, g.statistics) for g in bench.graph.groups}
    assert kinds == {12: ("residual", True, ("m", "v")), 20: ("neuron", False, ())}


def test_without_the_right_count_it_is_no_trunk() -> None:
    body = TRUNK.format(x="h", mean="Mul(s, part)", variance="Mul(t, part)")
    bench = Bench(from_text(body, {**WEIGHTS, "part": np.array([0.25], np.float32)}))
    assert not any(g.trunk or g.statistics for g in bench.graph.groups)


@pytest.mark.parametrize("keep", [[0, 1, 2, 3, 4], [3, 7, 11]])
def test_each_use_of_a_shared_factor_counts_for_itself(keep: list[int]) -> None:
    """One constant serves two means that are cut and a product that is no mean."""
    body = TRUNK.format(x="h", mean="Mul(s, part)", variance="Mul(part, t)")
    body = body.replace("y = MatMul(o, w3)", "g = Mul(o, part) y = MatMul(g, w3)")
    bench = Bench(from_text(body, WEIGHTS))
    group = next(g for g in bench.graph.groups if g.trunk)
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    removed[np.delete(group.units, keep)] = True
    plan = bench.plan(bench.graph, removed)
    assert plan.statistics_nodes == {"m": (1,), "v": (1,)}
    pruned = bench.pruned(plan)
    factors = {
        n.outputs[0].name: v.const_value.numpy().item()
        for n in pruned.graph
        for v in n.inputs
        if n.op_type == "Mul" and v.is_initializer()
    }
    one = np.float32(1)
    assert factors == {
        "m": one / np.float32(len(keep)), "v": one / np.float32(len(keep)), "g": WEIGHTS["part"][0]
    }  # fmt: skip
    assert certify(bench.model, pruned, plan).status == "statistics"


def test_a_count_computed_from_the_shape_follows_by_itself() -> None:
    count = "z = Shape(h) i = Gather(z, at) f = Cast<to = 1>(i)"
    body = TRUNK.format(x="h", mean="Div(s, f)", variance="Div(t, f)")
    body = body.replace("s = ReduceSum", f"{count} s = ReduceSum", 1)
    bench = Bench(from_text(body, WEIGHTS))
    group = next(g for g in bench.graph.groups if g.trunk)
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    removed[group.units[::2]] = True
    plan = bench.plan(bench.graph, removed)
    pruned = bench.pruned(plan)
    assert {n.op_type for n in pruned.graph} >= {"Shape", "Gather", "Cast"}
    assert certify(bench.model, pruned, plan).status == "statistics"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_exact_factors_become_exact_ones(dtype: type) -> None:
    one = np.asarray(1, dtype)
    assert scaled(np.asarray(7, dtype), 7, 3, divisor=True) == 3
    assert scaled(one / np.asarray(7, dtype), 7, 3, divisor=False) == one / np.asarray(3, dtype)
    near = np.asarray([[1.000001 / 700]], np.float32)
    assert np.allclose(scaled(near, 700, 30, divisor=False), near * 700 / 30, rtol=1e-6)
