"""One streamed pass over calibration inputs."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.errors import UsageError
from graphprune.scoring import statistics
from graphprune.scoring.statistics import Statistics, collect

RNG = np.random.default_rng(1)
WEIGHTS = {"w": drawn(8, 6), "v": drawn(6, 4)}


def bench() -> Bench:
    return Bench(from_text("h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)", WEIGHTS))


def feeds(count: int = 8) -> list[dict[str, np.ndarray]]:
    return [{"x": RNG.normal(1, 1, (64, 8)).astype(np.float32)} for _ in range(count)]


def test_they_are_those_of_the_activation() -> None:
    data = feeds()
    found = collect(bench().model, [("r", 1)], data)["r"]
    r = np.maximum(np.concatenate([f["x"] for f in data]) @ WEIGHTS["w"], 0)
    assert found.count == len(r)
    assert found.mean.dtype == np.float64
    np.testing.assert_allclose(found.mean, r.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(r.T, bias=True), atol=1e-5)
    np.testing.assert_allclose(found.variance, r.var(0), atol=1e-5)
    np.testing.assert_allclose(found.power, (r**2).mean(0), atol=1e-5)
    np.testing.assert_allclose(found.zero_share, (r == 0).mean(0))
    assert 0 < found.zero_share.mean() < 1


def test_nothing_cancels_far_from_zero() -> None:
    rows = RNG.normal(size=(4000, 3)) + 1e7
    full, plain = Statistics(3), Statistics(3, full=False)
    for part in np.split(rows, 8):
        full.add(part)
        plain.add(part)
    np.testing.assert_allclose(full.variance, rows.var(0), rtol=1e-6)
    np.testing.assert_allclose(plain.variance, rows.var(0), rtol=1e-6)
    assert plain.covariance is None


def test_it_runs_in_parts_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    data = feeds(3)
    wanted = [("h", 1), ("r", 1), ("y", 1)]
    whole = collect(bench().model, wanted, data, sizes=dict.fromkeys("hry", 400))
    asked = []
    monkeypatch.setattr(statistics, "MEMORY", 2000)
    session = statistics.Session
    monkeypatch.setattr(
        statistics, "Session", lambda m, **k: asked.append(k["outputs"]) or session(m, **k)
    )
    shares: list[float] = []
    parts = collect(
        bench().model, wanted, data, sizes=dict.fromkeys("hry", 400), progress=shares.append
    )
    assert asked == [["h"], ["r"], ["y"]]
    for name in "hry":
        np.testing.assert_array_equal(whole[name].scatter, parts[name].scatter)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_positions_are_chosen_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ROWS", 40)
    data = feeds(4)
    one, same, other = (collect(bench().model, [("r", 1)], data, seed=s)["r"] for s in (0, 0, 1))
    assert one.count == 40
    np.testing.assert_array_equal(one.scatter, same.scatter)
    assert not np.array_equal(one.scatter, other.scatter)


def test_what_is_not_finite_is_told() -> None:
    broken = Bench(from_text("h = MatMul (x, w) r = Log (h) y = MatMul (r, v)", WEIGHTS))
    with pytest.raises(UsageError, match="'r' is not finite on the calibration inputs") as caught:
        collect(broken.model, [("r", 1)], feeds(1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("jobs", [2, 3])
def test_threads_change_no_bit(jobs: int) -> None:
    data = feeds(5)
    wanted = [("h", 1), ("r", 1), ("y", 1)]
    sizes = dict.fromkeys("hry", 400)
    shares: list[float] = []
    alone = collect(bench().model, wanted, data, sizes=sizes)
    several = collect(bench().model, wanted, data, sizes=sizes, jobs=jobs, progress=shares.append)
    for name in "hry":
        assert alone[name].count == several[name].count == 5 * 64
        np.testing.assert_array_equal(alone[name].scatter, several[name].scatter)
        np.testing.assert_array_equal(alone[name].mean, several[name].mean)
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    broken = Bench(from_text("h = MatMul (x, w) r = Log (h) y = MatMul (r, v)", WEIGHTS))
    with pytest.raises(UsageError, match=r"'r' is not finite .* \(batch 0\)"):
        collect(broken.model, [("r", 1)], data, jobs=jobs)
