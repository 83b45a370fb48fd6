"""MACs as a function of sizes: the same as counting the graph, and what uses are read whole."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.measure.cost import count_macs
from graphprune.onnx.costs import mac_function, whole_uses
from models_zoo.builders import micrographs

MODELS = {**NETWORKS, **{n: lambda n=n: micrographs.build(n) for n in micrographs.NAMES}}


@pytest.mark.parametrize("name", MODELS)
def test_without_changes_it_counts_what_the_counter_counts(name: str) -> None:
    bench = Bench(MODELS[name]())
    for shapes in bench.shapes:
        total = count_macs(bench.model, shapes).total
        assert total > 0
        assert mac_function(bench.model, shapes)({}, {}) == total


def test_new_sizes_of_activations_and_of_uses_count() -> None:
    body = "h = MatMul (x, w) r = Relu (h) y = MatMul (r, w2)"
    bench = Bench(from_text(body, {"w": drawn(8, 6), "w2": drawn(6, 4)}))
    batch = bench.bindings[0]["N"]
    macs = mac_function(bench.model, bench.shapes[0])
    assert macs({}, {}) == batch * (8 * 6 + 6 * 4)
    sizes = {"h": (batch, 3), "r": (batch, 3)}
    assert macs(sizes, {("h", 1): (8, 3), ("y", 1): (3, 4)}) == batch * (8 * 3 + 3 * 4)


def test_two_uses_of_one_weight_may_have_different_sizes() -> None:
    body = "h = MatMul (x, w) r = Relu (h) y = MatMul (r, w)"
    bench = Bench(from_text(body, {"w": drawn(8, 8)}))
    batch = bench.bindings[0]["N"]
    macs = mac_function(bench.model, bench.shapes[0])
    sizes = {"h": (batch, 5), "r": (batch, 5)}
    assert macs(sizes, {("h", 1): (8, 5), ("y", 1): (5, 8)}) == batch * (8 * 5 + 5 * 8)


LOOP = (
    "h = MatMul (x, w) go = Constant <value = bool {1}> () "
    "y = Loop (trips, go, h) <body = b (int64 i, bool c, float[N, 6] s) => (bool d, float[N, 6] t) "
    "{ d = Identity (c) m = MatMul (s, u) t = Tanh (m) }>"
)
IF = (
    "h = MatMul (x, w) s = ReduceSum <keepdims = 0> (x) zero = Constant <value = float {0}> () "
    "go = Greater (s, zero) "
    "y = If (go) <then_branch = t () => (float[N, 6] a) { a = MatMul (h, u) }, "
    "else_branch = e () => (float[N, 6] b) { k = MatMul (h, u) b = MatMul (k, u) }>"
)


@pytest.mark.parametrize(
    ("body", "constants", "inner"),
    [
        (LOOP, {"trips": np.array(5)}, 5),
        (LOOP, {"trips": np.array(0)}, 0),
        (IF, {}, 2),
    ],
)
def test_bodies_count_as_often_as_they_run(
    body: str, constants: dict[str, np.ndarray], inner: int
) -> None:
    weights = {"w": drawn(8, 6), "u": drawn(6, 6), **constants}
    bench = Bench(from_text(body, weights, outputs="float[N, 6] y"))
    batch = bench.bindings[0]["N"]
    found = mac_function(bench.model, bench.shapes[0])({}, {})
    assert found == batch * (8 * 6 + inner * 6 * 6)
    assert found == count_macs(bench.model, bench.shapes[0]).total


def test_a_scan_runs_once_a_step() -> None:
    body = (
        "y, z = Scan <num_scan_inputs = 1, body = b (float[6] s, float[8] v) => "
        "(float[6] t, float[6] o) { k = MatMul (v, w) t = Add (s, k) o = Tanh (t) }> (start, x)"
    )
    proto = from_text(
        body,
        {"w": drawn(8, 6), "start": np.zeros(6, np.float32)},
        outputs="float[6] y, float[N, 6] z",
    )
    bench = Bench(proto)
    steps = bench.bindings[0]["N"]
    found = mac_function(bench.model, bench.shapes[0])({}, {})
    assert found == steps * 8 * 6 == count_macs(bench.model, bench.shapes[0]).total


def test_uses_without_tracking_are_named() -> None:
    body = "h = MatMul (x, w) r = Relu (h) y0 = MatMul (r, v) n = Add (x, q) "
    body += "z = MatMul (n, v2) y = Add (y0, z)"
    weights = {"w": drawn(8, 6), "v": drawn(6, 4), "q": drawn(1), "v2": drawn(8, 4)}
    proto = from_text(body, weights)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, [8, 6]))
    bench = Bench(proto)
    assert whole_uses(bench.model, bench.graph.sites) == {"w", "q"}
