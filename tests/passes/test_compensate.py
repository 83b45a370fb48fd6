"""Refitting a pruned model: exact where what left was redundant, never worse, no node added."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from workbench import Bench, drawn, from_text

from graphprune.onnx.runtime import Session
from graphprune.passes.compensate import CompensatePass
from graphprune.plan import Plan

RNG = np.random.default_rng(3)


def redundant(*shape: int) -> np.ndarray:
    """Rows of which the second half mixes the first half."""
    half = drawn(shape[0] // 2, *shape[1:], fan_in=int(np.prod(shape[1:])))
    mix = RNG.normal(size=(shape[0] // 2, shape[0] // 2)).astype(np.float32)
    return np.concatenate([half, np.tensordot(mix, half, 1)]).astype(np.float32)


def cut(proto: onnx.ModelProto) -> tuple[Bench, Plan, ir.Model]:
    """The second half of every group leaves, where its blocks need not keep equally many."""
    bench = Bench(proto)
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    for group in (g for g in bench.graph.groups if len(g.cells) == 1):
        removed[group.units[group.size // 2 :]] = True
    plan = bench.plan(bench.graph, removed)
    assert plan.tensors
    return bench, plan, bench.pruned(plan)


def compensated(
    bench: Bench, plan: Plan, pruned: ir.Model, feeds: list[dict[str, Any]]
) -> tuple[ir.Model, CompensatePass]:
    copy = pruned.clone()
    dims = {v.name: d for v, d in bench.shapes[0].dims.items()}
    work = CompensatePass(plan, bench.model, dims, feeds[:12], feeds[12:])
    work(copy)
    assert [(n.name, n.op_type) for n in copy.graph] == [(n.name, n.op_type) for n in pruned.graph]
    return copy, work


def outputs(model: ir.Model, feed: dict[str, Any]) -> np.ndarray:
    with Session(model) as session:
        return session.run(feed)["y"]


def batches(*shape: int) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.normal(0.5, 1, shape).astype(np.float32)} for _ in range(16)]


IMAGE = {"inputs": "float[N, 3, 6, 6] x", "outputs": "float[N, M, H, W] y"}
LINEAR = {
    "gemm": (
        "h = Gemm <transB = 1> (x, w1, b1) y = Gemm (h, w2, b2)",
        {"w1": redundant(16, 8), "b1": drawn(16), "w2": drawn(16, 5), "b2": drawn(5)},
        {},
        (32, 8),
    ),
    "matmul with a bias behind it": (
        "h = MatMul (x, w1) i = Add (h, b1) a = MatMul (i, w2) y = Add (a, b2)",
        {"w1": redundant(16, 8).T.copy(), "b1": drawn(16), "w2": drawn(16, 5), "b2": drawn(5)},
        {},
        (32, 8),
    ),
    "padded convolution without a bias": (
        "h = Conv (x, w1) y = Conv <pads = [1, 1, 1, 1]> (h, w2)",
        {"w1": redundant(16, 3, 1, 1), "w2": drawn(5, 16, 3, 3, fan_in=144)},
        IMAGE,
        (8, 3, 6, 6),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_redundant_channels_of_a_linear_network_are_restored(name: str) -> None:
    text, weights, graph, shape = LINEAR[name]
    bench, plan, pruned = cut(from_text(text, weights, **graph))
    feeds = batches(*shape)
    model, work = compensated(bench, plan, pruned, feeds)
    new = batches(*shape)[0]
    wanted = outputs(bench.model, new)
    lost = np.abs(outputs(pruned, new) - wanted).max()
    assert lost > 0.1 * np.abs(wanted).max()
    np.testing.assert_allclose(outputs(model, new), wanted, atol=2e-3 * np.abs(wanted).max())
    assert work.left == ()
    assert [f.lam is not None for f in work.layers] == [True]


def residual() -> onnx.ModelProto:
    weights = {
        "w0": drawn(16, 3, 3, 3, fan_in=27),
        "w1": drawn(16, 16, 3, 3, fan_in=144),
        "w2": drawn(16, 16, 3, 3, fan_in=144),
        "wd": drawn(16, 1, 3, 3, fan_in=9),
        "w3": drawn(5, 16, 1, 1, fan_in=16),
    }
    text = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, w0) b = Relu (a) "
        "c = Conv <pads = [1, 1, 1, 1]> (b, w1) d = Relu (c) "
        "e = Conv <pads = [1, 1, 1, 1]> (d, w2) f = Add (e, b) "
        "g = Conv <group = 16, pads = [1, 1, 1, 1]> (f, wd) h = Relu (g) y = Conv (h, w3)"
    )
    return from_text(text, weights, **IMAGE)


def test_error_feedback_brings_outputs_closer() -> None:
    bench, plan, pruned = cut(residual())
    model, work = compensated(bench, plan, pruned, batches(8, 3, 6, 6))
    new = batches(8, 3, 6, 6)[0]
    wanted = outputs(bench.model, new)
    before = np.linalg.norm(outputs(pruned, new) - wanted)
    after = np.linalg.norm(outputs(model, new) - wanted)
    assert after < 0.7 * before
    assert len(work.layers) == 4
    for fit in work.layers:
        if fit.lam is not None:
            assert fit.after < fit.before


def test_the_original_and_the_pruned_model_are_not_changed() -> None:
    bench, plan, pruned = cut(residual())
    before = [ir.to_proto(m).SerializeToString() for m in (bench.model, pruned)]
    compensated(bench, plan, pruned, batches(8, 3, 6, 6))
    assert [ir.to_proto(m).SerializeToString() for m in (bench.model, pruned)] == before


def test_the_same_inputs_give_the_same_bytes() -> None:
    bench, plan, pruned = cut(residual())
    feeds = batches(8, 3, 6, 6)
    one, two = (compensated(bench, plan, pruned, feeds)[0] for _ in range(2))
    assert ir.to_proto(one).SerializeToString() == ir.to_proto(two).SerializeToString()


GATED = {
    "LSTM": (
        "h = MatMul (x, w1) a, n, c = LSTM <hidden_size = 8> (h, wi, wr, b) "
        "d = Squeeze (n) y = MatMul (d, w2)",
        {"wi": drawn(1, 32, 16, fan_in=16), "wr": drawn(1, 32, 8, fan_in=8), "b": drawn(1, 64)},
    ),
    "both ways": (
        'h = MatMul (x, w1) a, n = GRU <hidden_size = 8, direction = "bidirectional"> (h, wi, wr) '
        "t = Transpose <perm = [1, 0, 2]> (n) d = Flatten (t) y = MatMul (d, w3)",
        {"wi": drawn(2, 24, 16, fan_in=16), "wr": drawn(2, 24, 8, fan_in=8), "w3": drawn(16, 4)},
    ),
    "attention": (
        "h = MatMul (x, w1) a = com.microsoft.Attention <num_heads = 2> (h, wq, bq) "
        "m = ReduceMean <axes = [0], keepdims = 0> (a) y = MatMul (m, w2)",
        {"wq": drawn(16, 24), "bq": drawn(24)},
    ),
}


@pytest.mark.parametrize("name", GATED)
def test_input_weights_take_over_what_redundant_inputs_held(name: str) -> None:
    text, weights = GATED[name]
    weights = {**weights, "w1": redundant(16, 8).T.copy(), "w2": drawn(8, 4)}
    used = {n: w for n, w in weights.items() if n in text}
    proto = from_text(text, used, inputs="float[3, N, 8] x", opset=17)
    bench, plan, pruned = cut(proto)
    states = [i.name for i in pruned.graph.initializers.values() if i.name in ("wr", "b")]
    before = {n: pruned.graph.initializers[n].const_value.numpy() for n in states}
    model, work = compensated(bench, plan, pruned, batches(3, 16, 8))
    assert work.left == ()
    first = work.layers[0]
    assert first.lam is not None
    assert first.before > 0.05
    assert first.after < 1e-4 * first.before
    for name, array in before.items():
        half = slice(None) if name == "wr" else np.s_[:, array.shape[1] // 2 :]
        np.testing.assert_array_equal(
            model.graph.initializers[name].const_value.numpy()[half], array[half]
        )
    new = batches(3, 16, 8)[0]
    wanted = outputs(bench.model, new)
    lost = np.linalg.norm(outputs(pruned, new) - wanted)
    assert np.linalg.norm(outputs(model, new) - wanted) < lost


def test_a_layer_of_another_kind_is_left_and_named() -> None:
    weights = {"w1": drawn(8, 16), "w2": drawn(1, 16, 4, fan_in=16), "w3": drawn(8, 4)}
    text = "h = MatMul (x, w1) r = Relu (h) y = MatMul (r, w2)"
    proto = from_text(text, {n: weights[n] for n in ("w1", "w2")}, outputs="float[A, N, 4] y")
    bench, plan, pruned = cut(proto)
    _, work = compensated(bench, plan, pruned, batches(16, 8))
    assert len(work.left) == 1
    assert work.layers == ()
