"""Scores by what a refit cannot bring back."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.compensation.energy import covariances, energy_scores
from graphprune.errors import UsageError
from graphprune.options import Options

RNG = np.random.default_rng(0)


def feeds(count: int = 8) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.normal(1, 1, (64, 8)).astype(np.float32)} for _ in range(count)]


def test_covariances_are_those_of_the_activation() -> None:
    weights = {"w": drawn(8, 6), "v": drawn(6, 4)}
    bench = Bench(from_text("h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)", weights))
    data = feeds()
    found = covariances(bench.model, {"r": 1}, data)["r"]
    r = np.maximum(np.concatenate([f["x"] for f in data]) @ weights["w"], 0)
    np.testing.assert_allclose(found, np.cov(r.T, bias=True), atol=1e-5)


def scored(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    bench = Bench(from_text("h = MatMul (x, w) y = MatMul (h, v)", {"w": w, "v": v}))
    (group,) = bench.graph.groups
    weight = bench.weights.__getitem__
    return energy_scores(bench.model, bench.graph, [group.name], weight, feeds())[group.name]


def test_a_channel_that_others_explain_is_cheap_however_large() -> None:
    w = drawn(8, 5)
    w[:, 4] = 10 * (w[:, 0] + w[:, 1])
    v = drawn(5, 4)
    found = scored(w, v)
    first = int(found.argmin())
    assert first in (0, 1, 4)  # one of three that depend on each other
    assert sorted(found)[0] < 0.05 * sorted(found)[1]  # once it is gone the rest is independent


def test_of_two_equal_channels_one_stays() -> None:
    w, v = drawn(8, 4), drawn(4, 4)
    w[:, 3], v[3] = w[:, 2], v[2]
    found = np.sort(scored(w, v))
    assert found[0] < 0.05 * found[1]


def test_constant_channels_are_free() -> None:
    """What never varies is a bias of the layer that reads it."""
    w, v = drawn(8, 4), drawn(4, 4)
    w[:, 1] = 0
    v[1] *= 100
    assert scored(w, v).argmin() == 1


def test_it_needs_data() -> None:
    with pytest.raises(UsageError, match="--calib"):
        Options(channels=0.5, criterion="energy")
    options = Options(channels=0.5, criterion="energy", calib=np.zeros(3))
    assert options.to_json()["calib"] == "given in memory"
    assert Options(channels=0.5, calib="a.npz").to_json()["calib"] == "a.npz"
