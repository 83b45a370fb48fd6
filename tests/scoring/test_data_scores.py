"""Criteria with data, through the analysis of small models."""

from __future__ import annotations

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.errors import UsageError
from graphprune.onnx.feeds import random_feeds
from graphprune.scoring.run import CRITERIA, data_scores
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


@pytest.mark.parametrize("criterion", [*CRITERIA, "auto"])
def test_hidden_widths_of_recurrent_layers_go_by_the_norm(criterion: str) -> None:
    weights = {"W": drawn(1, 20, 8), "R": drawn(1, 20, 5), "v": drawn(5, 4)}
    body = (
        "o, last = LSTM <hidden_size = 5> (x, W, R)"
        " z = Constant <value_ints = [0]> () s = Squeeze (last, z) y = MatMul (s, v)"
    )
    bench = Bench(
        from_text(body, weights, inputs="float[S, N, 8] x", outputs="float[N, 4] y"), {"S": 3}
    )
    (group,) = bench.graph.groups
    data = [{"x": RNG.normal(size=(3, 2, 8)).astype(np.float32)} for _ in range(8)]
    norm = scores([group], bench.weights.__getitem__, "l2")[group.name]
    np.testing.assert_array_equal(scored(bench, data, criterion), norm)


def test_auto_is_the_best_for_the_kind() -> None:
    """Heads as a whole by the energy that leaves, neurons by what a refit cannot bring back."""
    bench = Bench(NETWORKS["encoder"]())
    data = [random_feeds(bench.model, bench.bindings[0], i) for i in range(4)]
    names = [g.name for g in bench.graph.groups]
    weight = bench.weights.__getitem__
    found = {
        c: data_scores(bench.model, bench.graph, names, weight, data, c)
        for c in ("auto", "energy", "activation")
    }
    kinds = set()
    for group in bench.graph.groups:
        kinds.add(group.kind)
        best = "activation" if group.kind == "head" else "energy"
        np.testing.assert_allclose(found["auto"][group.name], found[best][group.name], rtol=1e-12)
    assert {"head", "neuron"} <= kinds


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
