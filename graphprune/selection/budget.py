"""Meeting a budget from below, tightly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphprune.analysis.groups import Group
from graphprune.errors import UnreachableTargetError
from graphprune.selection.widths import Grid, counts_for, kept_units, next_counts

Counts = dict[str, tuple[int, ...]]
"""Group name -> units kept of each cell."""

Cost = Callable[[Counts], float]
"""What an allocation costs: parameters, multiply-adds, milliseconds."""

_HALVINGS = 24


def meet_budget(
    groups: Sequence[Group],
    ratios: Callable[[float], Mapping[str, float]],
    fixed: Mapping[str, tuple[int, ...]],
    scores: Mapping[str, np.ndarray],
    grid: Grid,
    cost: Cost,
    target: float,
    what: str,
) -> Counts:
    """Units kept of every group so that `cost` is at most `target` and as close as the grid lets.

    Bisects one ratio for all groups, then gives back steps to single groups, those whose next units
    score highest first, until no step of any group fits.

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

    best = at(0.0)
    least = cost(best)
    if least > target:
        raise UnreachableTargetError(
            f"the {what} target cannot be reached: {shown(least)} is the least that can stay, "
            f"{shown(target)} was asked for"
        )
    everything = at(1.0)
    if cost(everything) <= target:
        return everything
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
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
    cost: Cost,
    target: float,
) -> Counts:
    """One step after the other, the most valuable first, as long as any fits."""
    steps: dict[str, tuple[tuple[int, ...], float]] = {}

    def look(group: Group) -> None:
        """The next larger width of a group, and the mean score of what would come back."""
        steps.pop(group.name, None)
        present = counts[group.name]
        larger = next_counts(group, present, grid)
        if larger is not None:
            scored = scores[group.name]
            back = np.setdiff1d(
                kept_units(group, scored, larger), kept_units(group, scored, present)
            )
            steps[group.name] = larger, float(scored[back].mean())

    for group in groups:
        look(group)
    by_name = {g.name: g for g in groups}
    while steps:
        name = min(steps, key=lambda n: (-steps[n][1], n))
        trial = {**counts, name: steps[name][0]}
        if cost(trial) <= target:
            counts = trial
            look(by_name[name])
        else:  # it will not fit later either: the others only grow
            del steps[name]
    return counts


def shown(cost: float) -> str:
    """A number of parameters, or of milliseconds."""
    return f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"
