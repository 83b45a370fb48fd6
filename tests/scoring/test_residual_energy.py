"""Scores by what a refit cannot bring back."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.errors import UsageError
from graphprune.options import Options
from graphprune.scoring import energy as energy_module
from graphprune.scoring.energy import added_variance, residual_energy
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


PAIRS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1, -1]  # two channels each, two stay
PART = [-1, 2, 2, -1, 0, 1]  # two units are not read


Read = list[tuple[Reader, Statistics, np.ndarray]]
"""Readers, statistics of what they read and their weights."""


def refitted_error(
    covariance: np.ndarray, w: np.ndarray, kept: list[int]
) -> tuple[float, np.ndarray]:
    """Least squared error with some inputs only, and the weights that leave it, 0 for the others."""
    found = np.zeros_like(w)
    found[kept] = np.linalg.solve(covariance[np.ix_(kept, kept)], covariance[kept] @ w)
    off = w - found
    return float(np.trace(off.T @ covariance @ off)), found


def greedy(size: int, read: Read) -> list[tuple[int, float]]:
    """Which unit leaves next, and what it costs, by layers fitted anew for every unit."""
    left, order = list(range(size)), []
    while left:
        cost = dict.fromkeys(left, 0.0)
        for reader, statistics, w in read:
            covariance = statistics.covariance
            total = (np.diagonal(covariance) * (w**2).sum(1)).sum()
            floor = added_variance(statistics)
            covariance = covariance + np.diag(floor)
            kept = [c for c, u in enumerate(reader.units) if u in left or u < 0]
            before, fitted = refitted_error(covariance, w, kept)
            for unit in left:
                own = np.flatnonzero(reader.units == unit)
                after, _ = refitted_error(covariance, w, [c for c in kept if c not in own])
                cost[unit] += (after - before - floor[own] @ (fitted[own] ** 2).sum(1)) / total
        order.append(min(cost.items(), key=lambda item: item[1]))
        left.remove(order[-1][0])
    return order


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("units", [(PAIRS,), (PAIRS, PART), (PART, PAIRS, PAIRS)])
def test_it_is_the_greedy_elimination_of_the_textbook(
    units: tuple[list[int], ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy_module, "_BLOCK", block)
    random = np.random.default_rng(len(units))
    rows = {n: random.normal(size=(500, n)) @ random.normal(size=(n, n)) for n in (12, 6)}
    known = {n: Statistics(n) for n in rows}
    for n, sums in known.items():
        sums.add(rows[n])
    read: Read = []
    for own in units:
        w = random.normal(size=(len(own), 7))
        energy = (w**2).sum(1)
        reader = Reader("x", 1, np.array(own), energy, energy, lambda w=w: w @ w.T)  # type: ignore[misc]
        read.append((reader, known[len(own)], w))
    found = residual_energy(5, [(r, s) for r, s, _ in read])
    order = greedy(5, read)
    assert np.argsort(found).tolist() == [u for u, _ in order]
    expected = np.maximum.accumulate([c for _, c in order])
    np.testing.assert_allclose(np.sort(found), expected, rtol=1e-6)


@pytest.mark.parametrize("count", [40, 80, 400, 20000])
def test_correlations_by_chance_are_not_relied_on(count: int) -> None:
    """Of 64 channels made of 8: what is added is a part of what brings correlations closest."""
    random = np.random.default_rng(count)
    mixture = random.normal(size=(8, 64)) * random.uniform(0.1, 10, 64)
    noise = random.uniform(0.1, 3, 64)
    truth = mixture.T @ mixture + np.diag(noise**2)
    sums = Statistics(64)
    sums.add(random.normal(size=(count, 8)) @ mixture + random.normal(size=(count, 64)) * noise)
    sizes = np.sqrt(sums.variance)

    def away(share: float) -> float:
        """Of correlations, as they are pulled towards none."""
        mean = (sums.covariance + share * np.diag(sums.variance)) / (1 + share)
        return float(np.square((mean - truth) / np.outer(sizes, sizes)).sum())

    (share,) = np.unique((added_variance(sums) / sums.variance).round(9))
    best = min(away(s) for s in np.geomspace(1e-4, 10, 100))
    if count > 10000:
        assert share == energy_module._SHRINK
    else:
        assert away(share / energy_module._PART) < 1.2 * best
        assert away(share) < 0.99 * away(0)


def test_what_took_over_for_others_is_dear() -> None:
    """Three alike channels: the weights of those that left are on the last one."""
    w, v = drawn(8, 4), drawn(4, 4)
    w[:, 2] = w[:, 1] = w[:, 0]
    w[:, 3] *= 1.5
    v[1] = v[2] = v[0]
    v[3] *= np.linalg.norm(v[0]) / np.linalg.norm(v[3])
    found = scored(w, v)
    assert found.argmax() < 3  # of the three one stays longer than the channel larger than each


def test_it_needs_data() -> None:
    with pytest.raises(UsageError, match="--calib"):
        Options(channels=0.5, criterion="energy")
    options = Options(channels=0.5, criterion="energy", calib=np.zeros(3))
    assert options.to_json()["calib"] == "given in memory"
    assert Options(channels=0.5, calib="a.npz").to_json()["calib"] == "a.npz"
