"""Which of two models is faster in onnxruntime, and how sure that is.

Protocol. The two models run in blocks of ten that alternate (a b, b a, a b, ...), so that drift of
clock or load meets both; the first two runs of a block are discarded, because the other model has
just emptied the caches. Each pair of blocks gives one ratio of medians. The speed-up is the median
of these ratios; its interval comes from their order statistics, which assume nothing of the noise.
Blocks are added until the interval is tight or the time is spent. Where a run is slow the blocks
are shorter, since a cold cache then no longer matters.

Two sessions of the *same* model differ by up to 1 % because their memory lies differently, however
often they run (measured). So a difference below `MARGIN` is called noise, not a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import comb
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

Verdict = Literal["faster", "slower", "noise"]

RUNS = 10
DISCARDED = 2
MARGIN = 0.02
TIGHT = 1.04  # upper end / lower end of an interval that needs no more blocks
TOO_WIDE = 1.25  # upper end / lower end beyond which no single number is given
# Pairs of blocks after which the interval is looked at. Few looks, at 99 % each: stopping at the
# first look that pleases would otherwise find a difference in pure noise.
LOOKS = (8, 12, 18, 27, 40, 60, 90)
LEAST = 6
ALPHA = 0.01


@dataclass(frozen=True)
class Timing:
    """Time of one run of one model, in milliseconds: median and interquartile range."""

    median_ms: float
    iqr_ms: float
    runs: int


@dataclass(frozen=True)
class Latency:
    """Two models timed against each other.

    Attributes:
        original: The first model's time.
        pruned: The second model's time.
        ratio: Median over pairs of blocks of time of the first / time of the second.
        interval: Where the ratio lies with probability `confidence`.
        confidence: Of the interval, between 0 and 1.
        verdict: On the second model. `noise` where the interval reaches within 2 % of equality.
        blocks: Pairs of blocks that were timed.
        runs_per_block: Runs in one block.
        discarded: Runs at the start of each block that do not count.
        threads: onnxruntime's intra-op threads.
        provider: onnxruntime's execution provider.
    """

    original: Timing
    pruned: Timing
    ratio: float
    interval: tuple[float, float]
    confidence: float
    verdict: Verdict
    blocks: int
    runs_per_block: int
    discarded: int
    threads: int
    provider: str

    @property
    def too_noisy(self) -> bool:
        """The interval is so wide that a single number would mislead."""
        return self.interval[1] > self.interval[0] * TOO_WIDE

    @property
    def speedup(self) -> float | None:
        """`ratio`, or None where noise is too high for a number."""
        return None if self.too_noisy else self.ratio

    def to_json(self) -> dict[str, Any]:
        """All fields; times in milliseconds, `speedup` null where noise is too high."""
        return {
            **asdict(self),
            "interval": list(self.interval),
            "speedup": self.speedup,
            "too_noisy": self.too_noisy,
        }


def compare_latency(
    a: ir.Model,
    b: ir.Model,
    feeds_a: Mapping[str, np.ndarray],
    feeds_b: Mapping[str, np.ndarray] | None = None,
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    seconds_budget: float = 10.0,
    progress: Callable[[float], None] | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Latency:
    """Time `a` (the original) against `b` (the pruned model) by the protocol above.

    Args:
        a: The original.
        b: The model that should be faster.
        feeds_a: Inputs of `a`.
        feeds_b: Inputs of `b`; default: the same.
        threads: Intra-op threads of both sessions.
        provider: Execution provider of both sessions.
        seconds_budget: No more blocks are added after this time; at least six pairs run.
        progress: Told the share of the budget that is spent, from 0 to 1.
        clock: Seconds. `time.thread_time` leaves out what other programs take of the processor;
            with one thread onnxruntime computes in the thread that calls it.

    Raises:
        UnsupportedModelError: onnxruntime cannot load or run one of the two.
    """
    from graphprune.onnx.runtime import Session

    inputs_a = dict(feeds_a)
    inputs_b = inputs_a if feeds_b is None else dict(feeds_b)
    with (
        Session(a, threads=threads, provider=provider, arena=True) as session_a,
        Session(b, threads=threads, provider=provider, arena=True) as session_b,
    ):
        samples = interleave(
            lambda: session_a.run(inputs_a),
            lambda: session_b.run(inputs_b),
            seconds_budget,
            clock,
            progress,
        )
    return judge(samples, threads, provider)


def time_model(
    model: ir.Model,
    feeds: Mapping[str, np.ndarray],
    threads: int = 1,
    provider: str = "CPUExecutionProvider",
    seconds_budget: float = 3.0,
) -> Timing:
    """Time one model alone: runs back to back for the budget, after warming up.

    Its caches are warm all the time, so two such times compare less well than `compare_latency`.
    """
    from graphprune.onnx.runtime import Session

    inputs = dict(feeds)
    times: list[float] = []
    with Session(model, threads=threads, provider=provider, arena=True) as session:
        _warm_up(lambda: session.run(inputs), perf_counter)
        end = perf_counter() + seconds_budget
        while len(times) < LEAST or (perf_counter() < end and len(times) < 1000):
            start = perf_counter()
            session.run(inputs)
            times.append(perf_counter() - start)
    return _timing(times)


@dataclass(frozen=True)
class Samples:
    """Seconds of the runs that count, one list a block; blocks i of `a` and `b` are neighbours."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[tuple[float, ...], ...]
    runs: int
    discarded: int

    @property
    def ratios(self) -> list[float]:
        """Per pair of blocks: median of a / median of b."""
        return [median(x) / median(y) for x, y in zip(self.a, self.b, strict=True)]


def interleave(
    run_a: Callable[[], object],
    run_b: Callable[[], object],
    budget: float,
    clock: Callable[[], float] = perf_counter,
    progress: Callable[[float], None] | None = None,
) -> Samples:
    """Run alternating blocks of a and b until the ratio is certain or `budget` s are spent."""
    start = clock()
    pair = _warm_up(run_a, clock) + _warm_up(run_b, clock)
    fitting = int(budget / (LOOKS[0] * max(pair, 1e-9)))
    runs = max(1, min(RUNS, fitting))
    discarded = DISCARDED if runs >= 2 * DISCARDED + 1 else min(1, runs - 1)

    def block(run: Callable[[], object]) -> tuple[float, ...]:
        times = []
        for _ in range(runs):
            before = clock()
            run()
            times.append(clock() - before)
        return tuple(times[discarded:])

    a: list[tuple[float, ...]] = []
    b: list[tuple[float, ...]] = []
    while True:
        if len(a) % 2:
            b.append(block(run_b))
            a.append(block(run_a))
        else:
            a.append(block(run_a))
            b.append(block(run_b))
        samples = Samples(tuple(a), tuple(b), runs, discarded)
        spent = clock() - start
        if progress is not None:
            progress(min(1.0, spent / budget) if budget > 0 else 1.0)
        if len(a) >= LEAST and (spent >= budget or len(a) >= LOOKS[-1]):
            return samples
        if len(a) in LOOKS:
            low, high, _ = median_interval(samples.ratios)
            if high <= low * TIGHT:
                return samples


def judge(samples: Samples, threads: int = 1, provider: str = "CPUExecutionProvider") -> Latency:
    """Turn samples into a ratio, an interval and a verdict."""
    low, high, confidence = median_interval(samples.ratios)
    verdict: Verdict = "noise"
    if low > 1 + MARGIN:
        verdict = "faster"
    elif high < 1 / (1 + MARGIN):
        verdict = "slower"
    return Latency(
        original=_timing([t for times in samples.a for t in times]),
        pruned=_timing([t for times in samples.b for t in times]),
        ratio=median(samples.ratios),
        interval=(low, high),
        confidence=confidence,
        verdict=verdict,
        blocks=len(samples.a),
        runs_per_block=samples.runs,
        discarded=samples.discarded,
        threads=threads,
        provider=provider,
    )


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Interval of the median from order statistics: low, high, confidence.

    The k-th smallest and k-th largest value enclose the median unless fewer than k of n values
    fall on one side, which is a coin tossed n times. k is the largest that leaves at most 1 %; with
    fewer than eight values it is 1, and the confidence is what that gives.
    """
    ordered = sorted(values)
    n = len(ordered)
    k, outside = 1, 2 / 2**n
    while k < n - k:
        more = outside + 2 * comb(n, k) / 2**n
        if more > ALPHA:
            break
        k, outside = k + 1, more
    return ordered[k - 1], ordered[n - k], max(0.0, 1 - outside)


def _warm_up(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Run at least three times and 0.1 s (once where it is slow); the time of the fastest run."""
    start = clock()
    best = float("inf")
    count = 0
    while count < 3 or clock() - start < 0.1:
        before = clock()
        run()
        best = min(best, clock() - before)
        count += 1
        if clock() - start > 1.0 or count >= 1000:
            break
    return best


def _timing(seconds: list[float]) -> Timing:
    quarter, middle, three = np.percentile(seconds, (25, 50, 75)) * 1e3
    return Timing(float(middle), float(three - quarter), len(seconds))
