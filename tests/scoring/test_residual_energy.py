"""Scores by what a refit cannot bring back."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.errors import UsageError
from graphprune.options import Options
from graphprune.scoring import energy as energy_module
from graphprune.scoring.energy import residual_energy
from graphprune.scoring.readers import Reader
from graphprune.scoring.run import data_scores
from graphprune.scoring.statistics import Statistics

RNG = np.random.default_rng(0)


def feeds(count: int = 8) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.normal(1, 1, (64, 8)).astype(np.float32)} for _ in range(count)]


def scored(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    bench = Bench(from_text("h = MatMul (x, w) y = MatMul (h, v)", {"w": w, "v": v}))
    (group,) = bench.graph.groups
    weight = bench.weights.__getitem__
    found = data_scores(bench.model, bench.graph, [group.name], weight, feeds(), "energy")
    return found[group.name]


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


@pytest.mark.parametrize("block", [2, 3, 64])
def test_it_is_the_greedy_elimination_of_the_textbook(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against inverses taken anew after every unit."""
    monkeypatch.setattr(energy_module, "_BLOCK", block)
    rows = RNG.normal(size=(500, 12)) @ RNG.normal(size=(12, 12))
    statistics = Statistics(12)
    statistics.add(rows)
    units = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1, -1])  # two channels each, two stay
    energy = RNG.random(12) + 0.1
    found = residual_energy(5, [(Reader("x", 1, units, energy, energy), statistics)])

    covariance = np.cov(rows.T, bias=True)
    floor = 1e-3 * np.diagonal(covariance).mean()
    covariance += floor * np.eye(12)
    total = (statistics.variance * energy).sum()
    left, order = list(range(5)), []
    while left:
        stay = [c for c in range(12) if units[c] in left or units[c] < 0]
        residual = 1 / np.diagonal(np.linalg.inv(covariance[np.ix_(stay, stay)])) - floor
        cost = {
            u: sum(residual[stay.index(c)] * energy[c] for c in np.flatnonzero(units == u)) / total
            for u in left
        }
        order.append((min(left, key=lambda u: cost[u]), min(cost.values())))
        left.remove(order[-1][0])
    assert np.argsort(found).tolist() == [u for u, _ in order]
    expected = np.maximum.accumulate([c for _, c in order])
    np.testing.assert_allclose(np.sort(found), expected, rtol=1e-6)


def test_it_needs_data() -> None:
    with pytest.raises(UsageError, match="--calib"):
        Options(channels=0.5, criterion="energy")
    options = Options(channels=0.5, criterion="energy", calib=np.zeros(3))
    assert options.to_json()["calib"] == "given in memory"
    assert Options(channels=0.5, calib="a.npz").to_json()["calib"] == "a.npz"
