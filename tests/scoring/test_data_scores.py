"""Criteria with data, through the analysis of small models."""

from __future__ import annotations

import numpy as np
import pytest
from architectures import NETWORKS
from recurrent_nets import recurrent, sequences
from workbench import Bench, drawn, from_text

from graphprune.errors import UsageError
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.runtime import Session
from graphprune.onnx.states import states_of, with_states
from graphprune.scoring.run import data_scores
from graphprune.selection.criteria import scores

RNG = np.random.default_rng(2)
BODY = "h = MatMul (x, w) c = Add (h, b) r = Relu (c) y = MatMul (r, v)"


def feeds() -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.normal(size=(64, 8)).astype(np.float32)} for _ in range(8)]


def model() -> tuple[dict[str, np.ndarray], Bench]:
    weights = {"w": drawn(8, 6), "b": np.zeros(6, np.float32), "v": drawn(6, 4)}
    weights["b"][:] = [0, -2, 2, 0, 0, 0]  # unit 1 is mostly off, unit 2 mostly on
    weights["w"][:, 3] = 0
    weights["b"][3] = 3  # always 3: energy, but no variance
    return weights, Bench(from_text(BODY, weights))


def scored(bench: Bench, data: list[dict[str, np.ndarray]], criterion: str) -> np.ndarray:
    (group,) = bench.graph.groups
    weight = bench.weights.__getitem__
    found = data_scores(bench.model, bench.graph, [group.name], weight, data, criterion)
    return found[group.name]


def test_the_formulas() -> None:
    weights, bench = model()
    data = feeds()
    x = np.concatenate([f["x"] for f in data]).astype(np.float64)
    r = np.maximum(x @ weights["w"] + weights["b"], 0)
    v = weights["v"].astype(np.float64)
    expected = {
        "activation": (r**2).mean(0) * (v**2).sum(1),
        "wanda": np.linalg.norm(r, axis=0) * np.abs(v).sum(1),
        "flap": r.var(0) * (v**2).sum(1),
        "apoz": (r > 0).mean(0),
    }
    for criterion, values in expected.items():
        found = scored(bench, data, criterion)
        np.testing.assert_allclose(found, values / values.mean(), rtol=1e-4, atol=1e-9)


def test_what_they_disagree_on() -> None:
    _, bench = model()
    data = feeds()
    assert scored(bench, data, "flap").argmin() == 3
    assert scored(bench, data, "energy").argmin() == 3
    assert scored(bench, data, "activation").argmax() == 3
    assert scored(bench, data, "apoz").argmin() == 1


def test_several_readers_count_alike() -> None:
    weights = {"w": drawn(8, 6), "v": drawn(6, 4), "u": 100 * drawn(6, 4, seed=3)}
    body = "h = MatMul (x, w) p = MatMul (h, v) q = MatMul (h, u) y = Concat <axis = 1> (p, q)"
    bench = Bench(from_text(body, weights))
    data = feeds()
    x = np.concatenate([f["x"] for f in data]).astype(np.float64)
    power = ((x @ weights["w"]) ** 2).mean(0)
    shares = []
    for n in "vu":
        values = power * (weights[n].astype(np.float64) ** 2).sum(1)
        shares.append(values / values.sum())
    np.testing.assert_allclose(scored(bench, data, "activation"), 3 * sum(shares), rtol=1e-4)


def test_without_zeros_apoz_says_nothing_and_the_norm_decides() -> None:
    weights = {"w": drawn(8, 6), "v": drawn(6, 4)}
    bench = Bench(from_text("h = MatMul (x, w) y = MatMul (h, v)", weights))
    (group,) = bench.graph.groups
    norm = scores([group], bench.weights.__getitem__, "l2")[group.name]
    np.testing.assert_array_equal(scored(bench, feeds(), "apoz"), norm)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_hidden_units_by_what_the_loop_and_the_layers_behind_read(op: str, last: bool) -> None:
    bench = Bench(recurrent(op, last=last))
    data = sequences(8)
    copy = with_states(bench.model)
    (value,) = [s.value for s in states_of(bench.model).values()]
    with Session(copy, outputs=[value]) as session:
        steps = np.concatenate([session.run(f)[value] for f in data], axis=2)[:, 0]
    shares = []
    for of, name in ((steps, "r"), (steps[-1:] if last else steps, "v")):
        power = (of.astype(np.float64) ** 2).mean((0, 1))
        weights = bench.weights[name].astype(np.float64)
        values = power * ((weights**2).sum(1) if name == "v" else (weights[0] ** 2).sum(0))
        shares.append(values / values.sum())
    expected = sum(shares) * 6
    np.testing.assert_allclose(scored(bench, data, "activation"), expected, rtol=1e-3)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_of_two_hidden_units_that_are_alike_one_is_free(op: str, directions: int) -> None:
    found = scored(Bench(recurrent(op, directions=directions, twins=True)), sequences(8), "energy")
    for one in found.reshape(directions, 12):
        cheap, dear = np.sort(one)[:6], np.sort(one)[6:]
        assert cheap.max() < 0.2 * dear.min()
        for pair in one.reshape(2, 6).T:
            assert pair.min() < 0.2 * pair.max()


def test_auto_is_what_was_best_when_measured() -> None:
    bench = Bench(NETWORKS["encoder"]())
    data = [random_feeds(bench.model, bench.bindings[0], i) for i in range(4)]
    names = [g.name for g in bench.graph.groups]
    weight = bench.weights.__getitem__
    auto, energy, activation = (
        data_scores(bench.model, bench.graph, names, weight, data, c)
        for c in ("auto", "energy", "activation")
    )
    for name in names:
        np.testing.assert_array_equal(auto[name], energy[name])
        assert not np.allclose(auto[name], activation[name])
    assert {"head", "neuron"} <= {g.kind for g in bench.graph.groups}


@pytest.mark.parametrize("jobs", [2, 3])
def test_threads_and_the_order_of_asking_change_nothing(jobs: int) -> None:
    bench = Bench(NETWORKS["encoder"]())
    data = [random_feeds(bench.model, bench.bindings[0], i) for i in range(4)]
    names = [g.name for g in bench.graph.groups]
    weight = bench.weights.__getitem__
    one = data_scores(bench.model, bench.graph, names, weight, data)
    several = data_scores(bench.model, bench.graph, names, weight, data, jobs=jobs)
    for name in reversed(names):
        np.testing.assert_array_equal(several[name], one[name])
    assert list(several) == names
    with pytest.raises(KeyError):
        several["nothing"]


def test_a_criterion_without_data() -> None:
    _, bench = model()
    with pytest.raises(UsageError, match="'fpgm' does not use data"):
        scored(bench, feeds(), "fpgm")
