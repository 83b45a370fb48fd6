"""Which layers read a group, and with how much weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from recurrent_nets import recurrent
from workbench import Bench, drawn, from_text

from graphprune.analysis.groups import Group
from graphprune.onnx.states import AXES, states_of
from graphprune.scoring import readers as readers_module
from graphprune.scoring.readers import Reader, is_recurrent, readers_of, uses_of

IMAGE = {"inputs": "float[N, 4, 8, 8] x", "outputs": "float[N, C, H, W] y"}


def readers(bench: Bench, size: int) -> list[Reader]:
    """Of the one group of `size` units."""
    (group,) = [g for g in bench.graph.groups if g.size == size]
    return all_readers(bench, group)


def all_readers(bench: Bench, group: Group) -> list[Reader]:
    found = readers_of(group, uses_of(bench.model), states_of(bench.model))
    for reader in found:
        np.testing.assert_allclose(np.diagonal(reader.gram()), reader.energy)
    return found


@pytest.mark.parametrize(
    ("body", "shape", "axis"),
    [
        ("y = MatMul (h, v)", (6, 4), 0),
        ("y = Gemm (h, v)", (6, 4), 0),
        ("y = Gemm <transB = 1> (h, v)", (4, 6), 1),
        ("t = Transpose <perm = [1, 0]> (h) y = MatMul (v, t)", (4, 6), 1),
    ],
)
def test_matrices(body: str, shape: tuple[int, int], axis: int) -> None:
    v = drawn(*shape)
    bench = Bench(from_text(f"h = MatMul (x, w) {body}", {"w": drawn(8, 6), "v": v}))
    (found,) = readers(bench, 6)
    np.testing.assert_array_equal(found.units, np.arange(6))
    np.testing.assert_allclose(found.energy, (v.astype(np.float64) ** 2).sum(1 - axis))
    np.testing.assert_allclose(found.absolute, np.abs(v.astype(np.float64)).sum(1 - axis))
    rows = np.moveaxis(v.astype(np.float64), axis, 0)
    np.testing.assert_allclose(found.gram(), rows @ rows.T)


@pytest.mark.parametrize(
    ("body", "shape", "axis"),
    [("y = Conv (h, v)", (4, 6, 3, 3), 1), ("y = ConvTranspose (h, v)", (6, 4, 3, 3), 0)],
)
def test_convolutions(body: str, shape: tuple[int, ...], axis: int) -> None:
    v = drawn(*shape)
    bench = Bench(from_text(f"h = Conv (x, w) {body}", {"w": drawn(6, 4, 1, 1), "v": v}, **IMAGE))
    (found,) = readers(bench, 6)
    rest = tuple(a for a in range(4) if a != axis)
    np.testing.assert_allclose(found.energy, (v.astype(np.float64) ** 2).sum(rest))
    rows = np.moveaxis(v.astype(np.float64), axis, 0).reshape(6, -1)
    np.testing.assert_allclose(found.gram(), rows @ rows.T)


def test_a_large_weight_is_multiplied_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    v = drawn(6, 40)
    bench = Bench(from_text("h = MatMul (x, w) y = MatMul (h, v)", {"w": drawn(8, 6), "v": v}))
    whole = readers(bench, 6)[0].gram()
    monkeypatch.setattr(readers_module, "_PIECE", 6 * 7)
    np.testing.assert_allclose(readers(bench, 6)[0].gram(), whole)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_depthwise_layer_hands_on(op: str) -> None:
    """The pointwise one behind it reads; the group is not counted twice."""
    weights = {"w": drawn(6, 4, 1, 1), "d": drawn(6, 1, 3, 3), "v": drawn(4, 6, 1, 1)}
    body = f"h = Conv (x, w) m = {op} <group = 6> (h, d) y = Conv (m, v)"
    bench = Bench(from_text(body, weights, **IMAGE))
    (found,) = readers(bench, 6)
    assert found.value == "m"


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_grouped_layers_read(op: str) -> None:
    """Each input meets the weights of its own group."""
    shape = (4, 32, 1, 1) if op == "Conv" else (64, 2, 1, 1)
    v = drawn(*shape)
    bench = Bench(
        from_text(
            f"h = Conv (x, w) r = Relu (h) y = {op} <group = 2> (r, v)",
            {"w": drawn(64, 4, 1, 1), "v": v},
            **IMAGE,
        )
    )
    groups = [g for g in bench.graph.groups if "w" in {m.site.name for m in g.members}]
    found = [r for g in groups for r in all_readers(bench, g)]
    assert found
    square = v.astype(np.float64)[:, :, 0, 0] ** 2
    if op == "Conv":
        expected = square.reshape(2, 2, 32).sum(1).reshape(-1)
    else:
        expected = square.sum(1)
    if op == "Conv":
        dense = v.astype(np.float64).reshape(2, 2, 32).transpose(0, 2, 1)
    else:
        dense = v.astype(np.float64).reshape(2, 32, 2)
    for reader in found:
        np.testing.assert_allclose(reader.energy, expected)
        gram = reader.gram()
        for g, rows in enumerate(dense):
            mine = slice(32 * g, 32 * g + 32)
            np.testing.assert_allclose(gram[mine, mine], rows @ rows.T)
        assert not gram[:32, 32:].any()


def test_a_flattened_map_carries_each_unit_many_times() -> None:
    weights = {"w": drawn(6, 4, 1, 1), "v": drawn(6 * 64, 4), "s": np.array([0, -1], np.int64)}
    body = "h = Conv (x, w) f = Reshape (h, s) y = MatMul (f, v)"
    bench = Bench(from_text(body, weights, inputs=IMAGE["inputs"]))
    (found,) = readers(bench, 6)
    np.testing.assert_array_equal(found.units, np.repeat(np.arange(6), 64))


def test_attention_is_read_by_its_output_projection() -> None:
    shape = np.array([0, 0, 2, 4], np.int64)
    weights = {
        **{n: drawn(8, 8, seed=i) for i, n in enumerate(("q", "k", "v", "o"))},
        "s": shape,
        "m": np.array([0, 0, 8], np.int64),
    }
    body = " ".join(
        f"{n}0 = MatMul (x, {n}) {n}1 = Reshape ({n}0, s) {n}2 = Transpose <perm = [0, 2, {p}]> ({n}1)"
        for n, p in (("q", "1, 3"), ("k", "3, 1"), ("v", "1, 3"))
    )
    body += (
        " a = MatMul (q2, k2) p = Softmax <axis = -1> (a) c = MatMul (p, v2)"
        " d = Transpose <perm = [0, 2, 1, 3]> (c) e = Reshape (d, m) y = MatMul (e, o)"
    )
    bench = Bench(from_text(body, weights, inputs="float[N, S, 8] x", outputs="float[N, S, 8] y"))
    (group,) = [g for g in bench.graph.groups if g.kind == "head"]
    (found,) = all_readers(bench, group)
    assert found.value == "e"
    np.testing.assert_array_equal(found.units, np.repeat([0, 1], 4))


def test_recurrent_layers_read_their_input_and_their_state() -> None:
    weights = {"w": drawn(8, 6), "W": drawn(1, 20, 6), "R": drawn(1, 20, 5), "v": drawn(5, 4)}
    body = (
        "h = MatMul (x, w) o, last = LSTM <hidden_size = 5> (h, W, R)"
        " z = Constant <value_ints = [0]> () s = Squeeze (last, z) y = MatMul (s, v)"
    )
    bench = Bench(
        from_text(body, weights, inputs="float[S, N, 8] x", outputs="float[N, 4] y"), {"S": 3}
    )
    sizes = {g.size: g for g in bench.graph.groups}
    (found,) = all_readers(bench, sizes[6])
    assert found.value == "h"
    np.testing.assert_allclose(found.energy, (weights["W"].astype(np.float64) ** 2).sum((0, 1)))
    assert not is_recurrent(sizes[6])
    assert is_recurrent(sizes[5])
    loop, behind = all_readers(bench, sizes[5])
    np.testing.assert_allclose(loop.energy, (weights["R"].astype(np.float64) ** 2).sum((0, 1)))
    assert behind.value == "s"


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_each_direction_reads_its_own_state(op: str, directions: int) -> None:
    bench = Bench(recurrent(op, directions=directions))
    (group,) = bench.graph.groups
    loop, behind = all_readers(bench, group)
    assert (loop.value, loop.axis) == ("o", AXES)
    assert behind.value == "f"
    weights = bench.weights["r"].astype(np.float64)
    np.testing.assert_array_equal(np.sort(loop.units), np.arange(12 * directions))
    np.testing.assert_array_equal(loop.units, behind.units)
    np.testing.assert_allclose(loop.energy, (weights**2).sum(1).ravel())
    for i, own in enumerate(weights):
        mine = slice(12 * i, 12 * i + 12)
        np.testing.assert_allclose(loop.gram()[mine, mine], own.T @ own)
    assert not loop.gram()[:12, 12:].any()


def test_directions_that_are_summed_lose_the_same_units() -> None:
    weights = {"w": drawn(2, 36, 4), "r": drawn(2, 36, 12), "v": drawn(12, 3), "one": np.array([1])}
    body = (
        'o = GRU <hidden_size = 12, direction = "bidirectional"> (x, w, r)'
        " s = ReduceSum <keepdims = 0> (o, one) y = MatMul (s, v)"
    )
    text = {"inputs": "float[T, N, 4] x", "outputs": "float[T, N, 3] y"}
    bench = Bench(from_text(body, weights, **text))
    (group,) = bench.graph.groups
    loop, behind = all_readers(bench, group)
    np.testing.assert_array_equal(behind.units, np.arange(12))
    np.testing.assert_array_equal(loop.units, np.tile(np.arange(12), 2))


def test_nothing_reads_units_of_a_loop_that_folds_nothing() -> None:
    """Without a state, not even what is behind counts: the loop is what matters."""
    bench = Bench(recurrent("GRU"))
    (group,) = bench.graph.groups
    assert readers_of(group, uses_of(bench.model), {}) == []


def test_what_no_linear_layer_reads() -> None:
    weights = {"w": drawn(8, 6), "b": drawn(8, 6, seed=1)}
    body = "h = MatMul (x, w) k = MatMul (x, b) t = Transpose <perm = [1, 0]> (k) y = MatMul (h, t)"
    bench = Bench(from_text(body, weights))
    (group,) = bench.graph.groups
    assert all_readers(bench, group) == []


def test_the_models_of_these_tests_are_valid() -> None:
    onnx.checker.check_model(from_text("y = MatMul (x, w)", {"w": drawn(8, 6)}))
