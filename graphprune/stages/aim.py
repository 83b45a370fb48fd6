"""Searching for the budget that meets a goal which only the finished model can tell.

A goal is a measured time, an accuracy, or how far outputs may move. A try is the model that one
budget makes, compensated as the result will be where that matters (weights do not change the time).
The stages behind this one make the model that was found once more, and prove it; it is not refitted
again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np

from graphprune.errors import NothingGainedError, UnreachableTargetError
from graphprune.options import Options
from graphprune.stages.choose import decide_stage, rewrite_stage
from graphprune.stages.recover import compensate_stage
from graphprune.stages.work import Search, Try, Work

_TIMINGS = 6
_SECONDS = 4.0
_NEAR = (0.95, 1.02)
"""A measured time is taken at once within these of the target, and at most 5 % above it at all."""
_FARTHEST = 1.05

_EVALUATIONS = 12
_FINE = 0.02
"""Budgets are told apart down to this share of the original's multiply-adds."""


def aim_stage(work: Work) -> Work:
    """Turn goals into a budget. Raises UnreachableTargetError with the closest that was found."""
    options = work.options
    if work.given is not None:
        return work
    if options.latency is not None or options.latency_ms is not None:
        work = _latency(work)
    if options.max_drop is not None or options.max_divergence is not None:
        work = _quality(work)
    return _settle(work) if work.search is None else work


@dataclass(frozen=True)
class _Limit:
    """What a model may lose, and how that is measured."""

    name: str
    most: float
    of: Callable[[Work], float]


def _latency(work: Work) -> Work:
    """Correct the predicted budget until the measured time is what was asked for."""
    from graphprune.measure.latency import compare_latency, time_model

    options = work.options
    assert work.timed is not None
    asked = options.latency
    if asked is None:
        assert options.latency_ms is not None
        whole = time_model(
            work.known_model, work.timed.feeds, options.threads, options.provider
        ).median_ms
        asked = options.latency_ms / whole
    if asked >= 1:
        raise NothingGainedError(
            "the model is already as fast as the latency that was asked for: nothing is to be pruned"
        )
    tries: list[Try] = []
    budget = asked
    while len(tries) < _TIMINGS and all(abs(budget - t.budget) >= 1e-3 for t in tries):
        work.progress("search", len(tries) / _TIMINGS)
        try:
            made = _made(work, replace(options, latency=budget, latency_ms=None), refitted=False)
        except UnreachableTargetError:
            if not tries:
                raise
            break
        except NothingGainedError:  # so the prediction says all of it may stay
            if not tries:
                raise
            tries.append(Try(budget, 1.0))
        else:
            found = compare_latency(
                work.known_model,
                made.result,
                work.timed.feeds,
                threads=options.threads,
                provider=options.provider,
                seconds_budget=_SECONDS,
            )
            tries.append(Try(budget, 1 / found.ratio))
            if _NEAR[0] * asked <= tries[-1].found <= _NEAR[1] * asked:
                break
        budget = min(_corrected(tries, asked), 1.0)
    fitting = [t for t in tries if t.found <= asked * _FARTHEST and t.budget < 1]
    best = min(fitting or tries, key=lambda t: abs(t.found - asked))
    if not fitting:
        raise UnreachableTargetError(
            f"the latency target cannot be reached: {best.found:.3f} of the original's time is the "
            f"closest that was found, {asked:.3f} was asked for"
        )
    return replace(
        work,
        options=replace(options, latency=best.budget, latency_ms=None),
        asked=work.asked or options,
        search=Search("latency", asked, best.found, tuple(tries)),
    )


def _corrected(tries: list[Try], asked: float) -> float:
    """The next budget: between the two tries around the target, or scaled by what it missed."""
    below = max((t for t in tries if t.found <= asked), key=lambda t: t.found, default=None)
    above = min((t for t in tries if t.found > asked), key=lambda t: t.found, default=None)
    if below is not None and above is not None and above.found > below.found:
        share = (asked - below.found) / (above.found - below.found)
        return below.budget + share * (above.budget - below.budget)
    return tries[-1].budget * asked / tries[-1].found


def _quality(work: Work) -> Work:
    """The smallest budget of multiply-adds whose model stays within the limit, by bisection."""
    options = work.options
    limit = _limit(work)
    tries: list[Try] = []

    given = (options.channels, options.params, options.macs, options.latency)
    if any(budget is not None for budget in given):
        made = _made(work, options)
        tries.append(Try(1.0, limit.of(made)))
        if tries[-1].found > limit.most:
            raise UnreachableTargetError(
                f"the budget cannot be met within {limit.name} {limit.most:g}: the model it makes "
                f"loses {tries[-1].found:.4g}"
            )
        search = Search(limit.name, limit.most, tries[-1].found, tuple(tries))
        return replace(work, search=search, recovered=made.recovered)

    low, high = 0.0, 1.0
    smallest = work
    while high - low > _FINE and len(tries) < _EVALUATIONS:
        work.progress("search", len(tries) / _EVALUATIONS)
        budget = (low + high) / 2
        found = inf
        with suppress(UnreachableTargetError, NothingGainedError):
            made = _made(work, replace(options, macs=budget))
            found = limit.of(made)
        tries.append(Try(budget, found))
        if found <= limit.most:
            high, smallest = budget, made
        else:
            low = budget
    if high == 1.0:
        finite = [t for t in tries if isfinite(t.found)]
        if not finite:
            raise UnreachableTargetError(
                f"{limit.name} {limit.most:g} cannot be met by pruning: no budget of multiply-adds "
                "gives a model with finite outputs"
            )
        closest = min(finite, key=lambda t: (t.found, t.budget))
        raise UnreachableTargetError(
            f"{limit.name} {limit.most:g} cannot be met by pruning: at {closest.budget:.2f} of the "
            f"multiply-adds the model loses {closest.found:.4g}"
        )
    (reached,) = (t.found for t in tries if t.budget == high)
    return replace(
        work,
        options=replace(options, macs=high),
        asked=work.asked or options,
        search=Search(limit.name, limit.most, reached, tuple(tries)),
        recovered=smallest.recovered,
    )


def _limit(work: Work) -> _Limit:
    options = work.options
    if options.max_drop is not None:
        metric = work.metric
        assert metric is not None  # the options see to it
        before = metric(work.known_model) if not work.quality else work.quality[0]
        return _Limit("max_drop", options.max_drop, lambda made: before - metric(made.result))
    from graphprune.damage.judge import Judge

    assert options.max_divergence is not None
    assert work.calibration is not None
    feeds = [b.feeds for b in work.calibration.judge]
    judge = Judge(work.known_model, feeds, options.threads)
    return _Limit(
        "max_divergence", options.max_divergence, lambda made: judge.damage(made.result) ** 0.5
    )


def _settle(work: Work) -> Work:
    """Keep the widths of the curves, except where those of a plainer way surely lose less.

    The damage of groups alone does not add up where much is taken: an even ratio or one threshold may
    then lose less. The judges are held-out inputs, those that regularisers are chosen by; they are few,
    so a difference counts from two standard errors on.
    """
    data, options = work.calibration, work.options
    if work.curves is None or data is None or data.random or not _has_budget(options):
        return work
    from graphprune.damage.judge import Judge, surely_less

    judge = Judge(work.known_model, [b.feeds for b in data.choose], options.threads)
    ways = {"sensitivity": work}
    for scope in ("local", "global"):
        ways[scope] = replace(work, curves=None, options=replace(options, scope=scope))
    found: dict[str, np.ndarray] = {}
    plans: set[str] = set()
    best, least = work, np.array([inf])
    for name, way in ways.items():
        work.progress("compare", len(found) / len(ways))
        try:
            made = _made(way, way.options, refitted=False)
        except (UnreachableTargetError, NothingGainedError):
            if name == "sensitivity":
                raise
            continue
        if made.known_plan.sha256 in plans:  # the same model again
            continue
        plans.add(made.known_plan.sha256)
        made = compensate_stage(made)
        found[name] = judge.each(made.result)
        if name == "sensitivity" or surely_less(found[name], least):
            best, least = replace(way, recovered=made.recovered), found[name]
    if best.curves is not None:
        return best
    note = (
        f"widths are those of --scope {best.options.scope}: on held-out inputs they lose less "
        f"({least.mean():.3g}) than those of the damage curves ({found['sensitivity'].mean():.3g})"
    )
    return replace(best, asked=options, warnings=(*work.warnings, note))


def _has_budget(options: Options) -> bool:
    return any(b is not None for b in (options.channels, options.params, options.macs))


def _made(work: Work, options: Options, *, refitted: bool = True) -> Work:
    """The model that some options make, not proven yet."""
    made = rewrite_stage(decide_stage(replace(work, options=options)))
    return compensate_stage(made) if refitted else made
