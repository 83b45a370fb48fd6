"""What leaves is exact where it was a linear function of what stays, and cheaper elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from damage_nets import correlated, data, mlp
from recurrent_nets import recurrent, sequences
from workbench import Bench, drawn, from_text

from graphprune.damage.fold import Folder, reading_of, statistics_of
from graphprune.damage.judge import Judge
from graphprune.damage.probe import Point, Prober
from graphprune.options import Options

Array = np.ndarray[Any, Any]


def damages(proto: onnx.ModelProto, x: list[Array], keep: int) -> tuple[float, float, ir.Model]:
    """As cut and folded, when the first group keeps its first `keep` units; the folded model."""
    bench = Bench(proto)
    feeds = [{"x": a} for a in x]

    probe = Prober(bench.model, bench.shapes, Options(align=1))
    judge = Judge(bench.model, feeds)
    group = probe.groups[0]
    reading = reading_of(bench.model, [group])
    assert reading.layers or reading.states
    folder = Folder(reading, statistics_of(bench.model, reading, feeds))
    counts = (keep,) * len(group.cells)
    point = Point(group.name, counts, sum(counts) / group.size)
    plan = probe.plan(point, -np.arange(group.size, dtype=float))
    model = probe.model(plan)
    assert model is not None
    cut = judge.damage(model)
    folder(model, plan)
    folded = judge.damage(model)
    return cut, folded, model


W = correlated(8, 12, 6)
"""Six units, and six mixtures of them."""

X = [data(32, seed=i) for i in range(4)]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("h = MatMul (x, w) y = MatMul (h, v)", {"v": drawn(12, 4, seed=3)}),
        (
            "h = MatMul (x, w) a = MatMul (h, v) y = Add (a, b)",
            {"v": drawn(12, 4, seed=3), "b": drawn(4)},
        ),
        ("h = MatMul (x, w) y = Gemm (h, v)", {"v": drawn(12, 4, seed=3)}),
        (
            "h = MatMul (x, w) y = Gemm <transB = 1> (h, v, b)",
            {"v": drawn(4, 12, seed=3), "b": drawn(4)},
        ),
        ("h = MatMul (x, w) y = Gemm (h, v, b)", {"v": drawn(12, 4, seed=3), "b": drawn(1)}),
    ],
    ids=["matmul", "matmul+add", "gemm", "gemm+bias", "gemm+scalar"],
)
def test_exact_on_linear_functions(body: str, weights: dict[str, Array]) -> None:
    proto = from_text(body, {"w": W, **weights}, outputs="float[N, 4] y")
    cut, folded, _ = damages(proto, X, 6)
    assert cut > 0.05
    assert folded < 1e-4 * cut


def test_a_constant_goes_into_the_bias() -> None:
    """Units that are a mixture and a constant more: exact with a bias, not without."""
    shifted = np.concatenate([np.zeros(6), np.arange(1, 7)]).astype(np.float32)
    weights = {"w": W, "s": shifted, "v": drawn(12, 4, seed=3)}
    plain = "h = MatMul (x, w) k = Add (h, s) "
    with_bias = from_text(
        plain + "a = MatMul (k, v) y = Add (a, b)",
        {**weights, "b": drawn(4)},
        outputs="float[N, 4] y",
    )
    without = from_text(plain + "y = MatMul (k, v)", weights, outputs="float[N, 4] y")
    cut, folded, _ = damages(with_bias, X, 6)
    assert folded < 1e-4 * cut
    cut, folded, _ = damages(without, X, 6)
    assert 1e-4 * cut < folded < cut


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_exact_in_convolutions(bias: bool, kernel: int) -> None:
    """Without padding; 1x1 in front of kernels of both sizes."""
    mixed = correlated(3, 10, 5).T.reshape(10, 3, 1, 1)
    weights = {
        "w": np.ascontiguousarray(mixed),
        "c": np.concatenate([np.zeros(5), np.ones(5)]).astype(np.float32),
        "v": drawn(4, 10, kernel, kernel, seed=2, fan_in=10 * kernel**2),
        **({"b": drawn(4)} if bias else {}),
    }
    more = ", b" if bias else ""
    proto = from_text(
        f"h = Conv (x, w{', c' if bias else ''}) y = Conv (h, v{more})",
        weights if bias else {n: a for n, a in weights.items() if n != "c"},
        inputs="float[N, 3, 6, 6] x",
        outputs="float[N, 4, A, B] y",
    )
    rng = np.random.default_rng(0)
    x = [rng.normal(0.3, 1, (4, 3, 6, 6)).astype(np.float32) for _ in range(6)]
    cut, folded, _ = damages(proto, x, 5)
    assert cut > 0.05
    assert folded < 1e-4 * cut


def test_exact_in_transposed_convolutions() -> None:
    """With a stride, so that an output reads some of the taps only."""
    mixed = np.ascontiguousarray(correlated(3, 10, 5).T.reshape(10, 3, 1, 1))
    proto = from_text(
        "h = Conv (x, w) y = ConvTranspose <strides = [2, 2]> (h, v, b)",
        {"w": mixed, "v": drawn(10, 4, 3, 3, seed=2, fan_in=40), "b": drawn(4)},
        inputs="float[N, 3, 6, 6] x",
        outputs="float[N, 4, A, B] y",
    )
    rng = np.random.default_rng(0)
    x = [rng.normal(0.3, 1, (4, 3, 6, 6)).astype(np.float32) for _ in range(6)]
    cut, folded, _ = damages(proto, x, 5)
    assert cut > 0.05
    assert folded < 1e-4 * cut


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_exact_in_what_a_recurrent_layer_reads(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3}[op]
    shifted = np.concatenate([np.zeros(6), np.ones(6)]).astype(np.float32)
    weights = {
        "w": W,
        "s": shifted,
        "i": drawn(1, gates * 5, 12, fan_in=12),
        "r": drawn(1, gates * 5, 5, fan_in=5),
        "b": drawn(1, gates * 10, fan_in=4),
    }
    proto = from_text(
        f"a = MatMul (x, w) h = Add (a, s) y = {op} <hidden_size = 5> (h, i, r, b)",
        weights,
        inputs="float[T, N, 8] x",
        outputs="float[T, D, N, 5] y",
    )
    rng = np.random.default_rng(0)
    x = [rng.normal(0.3, 1, (7, 4, 8)).astype(np.float32) for _ in range(6)]
    cut, folded, model = damages(proto, x, 6)
    assert cut > 0.01
    assert folded < 1e-3 * cut
    (layer,) = (n for n in model.graph if n.op_type == op)
    state = layer.inputs[3].const_value.numpy()[:, gates * 5 :]
    np.testing.assert_array_equal(state, weights["b"][:, gates * 5 :])


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_exact_in_what_a_recurrent_layer_reads_of_its_own(op: str, directions: int) -> None:
    """Each unit of the second half is what one of the first half is."""
    proto = recurrent(op, directions=directions, twins=True)
    cut, folded, _ = damages(proto, [f["x"] for f in sequences(8)], 6)
    assert cut > 0.05
    assert folded < 1e-3 * cut


def test_behind_a_relu_it_loses_less_than_cutting() -> None:
    for keep in (8, 12, 18):
        cut, folded, _ = damages(mlp(), X, keep)
        assert 0 < folded < 0.7 * cut


def test_weights_that_others_read_too_are_not_changed() -> None:
    """Two layers share a matrix, only one of them reads the group."""
    proto = from_text(
        "h = MatMul (x, w) a = MatMul (h, v) b = MatMul (z, v) y = Add (a, b)",
        {"w": W, "v": drawn(12, 4, seed=3)},
        inputs="float[N, 8] x, float[N, 12] z",
        outputs="float[N, 4] y",
    )
    bench = Bench(proto)
    groups = [g for g in bench.graph.groups if g.size == 12]
    rng = np.random.default_rng(0)
    feeds = [{"x": x, "z": rng.normal(size=(len(x), 12)).astype(np.float32)} for x in X]
    probe = Prober(bench.model, bench.shapes, Options(align=1))
    reading = reading_of(bench.model, groups)
    point = Point(probe.groups[0].name, (6,), 0.5)
    plan = probe.plan(point, np.arange(12.0))
    model = probe.model(plan)
    Folder(reading, statistics_of(bench.model, reading, feeds))(model, plan)
    matrices = {
        n.inputs[0].name: n.inputs[1].const_value.numpy()
        for n in model.graph
        if n.op_type == "MatMul"
    }
    np.testing.assert_array_equal(matrices["z"], bench.weights["v"])
    assert matrices["h"].shape == (6, 4)
    assert not np.isin(matrices["h"], bench.weights["v"]).all()
