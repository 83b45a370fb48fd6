"""Meeting a budget from below, tightly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphprune.analysis.groups import Group
from graphprune.errors import UnreachableTargetError
from graphprune.selection.widths import Grid, choices, counts_for, uniform

Counts = dict[str, tuple[int, ...]]


def meet_budget(
    groups: Sequence[Group],
    ratios: Callable[[float], Mapping[str, float]],
    fixed: Mapping[str, tuple[int, ...]],
    scores: Mapping[str, np.ndarray],
    grid: Grid,
    cost: Callable[[Counts], float],
    target: float,
    what: str,
) -> Counts:
    """Units kept of every group so that `cost` is at most `target` and as close as the grid lets.

    Bisects one ratio for all groups, then gives back steps to single groups, those whose next units
    score highest first, while the budget holds.

    Args:
        groups: What the budget decides.
        ratios: A ratio -> the ratio of each group (local: the same for all; global: a threshold).
        fixed: Counts of groups that have a ratio of their own.
        scores: Scores of each group's units.
        grid: Alignment.
        cost: Cost of an allocation.
        target: Absolute budget.
        what: Its name, for the message.

    Raises:
        UnreachableTargetError: Even the least that can stay costs more.
    """

    def at(ratio: float) -> Counts:
        wanted = ratios(ratio)
        return {**fixed, **{g.name: counts_for(g, wanted[g.name], grid) for g in groups}}

    best: Counts | None = None
    least = at(0.0)
    if cost(least) > target:
        raise UnreachableTargetError(
            f"the {what} target cannot be reached: {cost(least):,.0f} is the least that can stay, "
            f"{target:,.0f} was asked for"
        )
    low, high = 0.0, 1.0
    best = least
    if cost(at(1.0)) <= target:
        return at(1.0)
    for _ in range(24):
        middle = (low + high) / 2
        found = at(middle)
        if cost(found) <= target:
            best, low = found, middle
        else:
            high = middle
    return _give_back(groups, best, scores, grid, cost, target)


def _give_back(
    groups: Sequence[Group],
    counts: Counts,
    scores: Mapping[str, np.ndarray],
    grid: Grid,
    cost: Callable[[Counts], float],
    target: float,
) -> Counts:
    options = {g.name: choices(g, grid) for g in groups if uniform(g)}
    by_name = {g.name: g for g in groups}

    def next_step(name: str) -> int | None:
        larger = [n for n in options[name] if n > counts[name][0]]
        return larger[0] if larger else None

    def gain(name: str) -> float:
        group, present = by_name[name], counts[name][0]
        step = next_step(name)
        if step is None:
            return -1.0
        order = np.sort(scores[name][group.cells[0]])[::-1]
        return float(order[present:step].mean())

    active = [n for n in options if next_step(n) is not None]
    while active:
        active.sort(key=lambda n: (-gain(n), n))
        name = active[0]
        step = next_step(name)
        assert step is not None
        trial = {**counts, name: (step,) * len(by_name[name].cells)}
        if cost(trial) <= target:
            counts = trial
            if next_step(name) is None:
                active.remove(name)
        else:
            active.remove(name)
    return counts
