"""The protocol and the verdict, with a clock that only runs when a fake model runs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from graphprune.measure.latency import (
    LEAST,
    LOOKS,
    Samples,
    interleave,
    judge,
    median_interval,
)


class Lab:
    """Two fake models and the clock that they advance."""

    def __init__(self, a: float, b: float, noise: float = 0.0, seed: int = 0) -> None:
        self.now = 0.0
        self.rng = np.random.default_rng(seed)
        self.noise = noise
        self.times = {"a": a, "b": b}
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now

    def run(self, which: str):
        def go() -> None:
            self.order.append(which)
            self.now += self.times[which] * float(np.exp(self.noise * self.rng.standard_normal()))

        return go

    def compare(self, budget: float = 10.0, progress=None):
        samples = interleave(self.run("a"), self.run("b"), budget, self.clock, progress)
        return judge(samples)


def test_a_clear_gain_needs_the_fewest_blocks():
    result = Lab(2e-3, 1e-3, noise=0.005).compare()
    assert result.verdict == "faster"
    assert result.speedup == pytest.approx(2.0, rel=0.01)
    assert result.blocks == LOOKS[0]
    assert (result.runs_per_block, result.discarded) == (10, 2)
    assert result.original.median_ms == pytest.approx(2.0, rel=0.01)
    assert result.pruned.median_ms == pytest.approx(1.0, rel=0.01)
    assert result.original.runs == result.blocks * 8
    assert result.confidence >= 0.99


def test_slower_is_said_of_the_second_model():
    result = Lab(1e-3, 1.3e-3, noise=0.01).compare()
    assert result.verdict == "slower"
    assert result.interval[1] < 1


@pytest.mark.parametrize("ratio", [1.0, 1.01, 1 / 1.01])
def test_a_difference_within_the_margin_is_noise_however_tight(ratio):
    result = Lab(1e-3 * ratio, 1e-3).compare()
    assert result.verdict == "noise"
    assert result.speedup == pytest.approx(ratio)


@pytest.mark.parametrize("seed", range(20))
def test_equal_models_under_heavy_noise_get_no_verdict(seed):
    assert Lab(1e-3, 1e-3, noise=0.3, seed=seed).compare().verdict == "noise"


def test_noise_too_high_gives_no_number():
    blocks_a = tuple((x,) for x in (1.0, 2.0, 0.5, 3.0, 1.0, 0.7, 1.4, 2.2))
    result = judge(Samples(blocks_a, ((1.0,),) * 8, 1, 0))
    assert result.too_noisy
    assert result.speedup is None
    assert result.verdict == "noise"
    assert json.loads(json.dumps(result.to_json()))["speedup"] is None


def test_more_noise_takes_more_blocks_up_to_the_budget():
    calm, loud = Lab(1e-3, 9e-4, noise=0.01), Lab(1e-3, 9e-4, noise=0.4)
    assert calm.compare().blocks < loud.compare().blocks <= LOOKS[-1]
    poor = Lab(1e-3, 9e-4, noise=0.4)
    assert poor.compare(budget=0.4).blocks < loud.compare().blocks
    assert poor.now < 0.5


def test_order_alternates_and_starts_of_blocks_are_discarded():
    lab = Lab(1e-3, 1e-3)
    lab.compare()
    blocks = "".join(lab.order[200:360])  # after the warm-ups of 0.1 s each
    assert blocks == ("a" * 10 + "b" * 10 + "b" * 10 + "a" * 10) * 4


def test_cold_starts_do_not_count():
    """A model that is ten times slower in the first two runs after the other ran."""
    lab = Lab(1e-3, 1e-3)

    def cold(which: str):
        go = lab.run(which)

        def run() -> None:
            if "".join(lab.order[-2:]) != which * 2:
                lab.now += 9e-3
            go()

        return run

    samples = interleave(cold("a"), cold("b"), 10.0, lab.clock)
    # The second of two neighbouring blocks of one model would otherwise look faster.
    assert judge(samples).original.median_ms == pytest.approx(1.0)
    assert judge(samples).original.iqr_ms == pytest.approx(0.0, abs=1e-9)


def test_slow_models_get_shorter_blocks_and_still_a_verdict():
    lab = Lab(2.0, 1.0, noise=0.01)
    result = lab.compare(budget=10.0)
    assert result.blocks == LEAST
    assert result.runs_per_block == 1
    assert result.verdict == "faster"
    assert result.confidence == pytest.approx(1 - 2 / 2**LEAST)
    assert lab.now < 30


def test_progress_grows_to_the_end():
    seen: list[float] = []
    Lab(1e-3, 1e-3, noise=0.4).compare(budget=0.5, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("n", [6, 8, 12, 40, 90])
def test_interval_covers_the_median_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(2000):
        low, high, confidence = median_interval(list(rng.exponential(size=n)))
        hits += low <= np.log(2) <= high
    assert confidence >= (0.99 if n >= 8 else 0.96)
    # 2000 draws: three standard deviations are 0.7 % at 99 %
    assert hits / 2000 >= confidence - 0.007
    assert hits / 2000 < 1 or n < 9


def test_false_alarms_over_all_looks_stay_rare():
    """Equal models, many experiments: a verdict may slip through in at most a few percent."""
    verdicts = [Lab(1e-3, 1e-3, noise=0.1, seed=s).compare().verdict for s in range(200)]
    assert sum(v != "noise" for v in verdicts) <= 6
