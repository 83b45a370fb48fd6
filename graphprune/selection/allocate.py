"""Widths under a budget such that the summed damage is least.

Every group chooses one of its widths on the grid; what a choice costs the model comes from its
damage curve. It is a multiple-choice knapsack whose costs are not separable: the multiply-adds of a
layer depend on the widths of two groups. So costs are linearised around the present allocation, the
relaxed problem is solved exactly (steps along the lower convex hulls of the groups, the best ratio
of damage to saving first), and that is repeated around what came out. The best allocation that met
the budget then takes back, one by one, the steps whose damage per cost is highest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.analysis.groups import Group
from graphprune.errors import UnreachableTargetError
from graphprune.selection.budget import Cost, Counts, shown
from graphprune.selection.curves import Curves
from graphprune.selection.widths import Grid, choices, counts_for, uniform

_ROUNDS = 8
_MOST = 24
"""Widths of one group that are looked at; more are thinned out."""


@dataclass(frozen=True, eq=False)
class _Choice:
    """What a group may keep, from all to the least, and what that does to the model."""

    counts: tuple[tuple[int, ...], ...]
    damage: np.ndarray


def allocate(
    groups: Sequence[Group],
    curves: Curves,
    fixed: Counts,
    grid: Grid,
    cost: Cost,
    target: float,
    what: str,
) -> Counts:
    """Units kept of every group, of least summed damage with `cost` at most `target`.

    Args:
        groups: What the budget decides; one without a curve stays whole.
        curves: Damage of each group alone.
        fixed: Counts of groups that have a ratio of their own.
        grid: Alignment.
        cost: Cost of an allocation.
        target: Budget.
        what: Its name, for the message.

    Raises:
        UnreachableTargetError: Even the least that can stay costs more.
    """
    options = {g.name: _options(g, curves, grid) for g in groups}
    present: Counts = {**fixed, **{n: o.counts[0] for n, o in options.items()}}
    if cost(present) <= target:
        return present
    least: Counts = {**fixed, **{n: o.counts[-1] for n, o in options.items()}}
    if cost(least) > target:
        raise UnreachableTargetError(
            f"the {what} target cannot be reached: {shown(cost(least))} is the least that can stay, "
            f"{shown(target)} was asked for"
        )
    best, worst = least, _damage(options, least)
    goal = target  # of the linearised problem: corrected by what it turned out to miss
    seen: list[Counts] = []
    for _ in range(_ROUNDS):
        found = {**fixed, **_relaxed(options, *_linearised(options, present, cost), goal)}
        real = cost(found)
        if real <= target and (damage := _damage(options, found)) < worst:
            best, worst = found, damage
        if found in seen:
            goal *= (target / real) ** 0.5 if real > target else 1.0
            if real <= target:
                break
        seen.append(found)
        present = found
    return _give_back(options, best, cost, target)


def _options(group: Group, curves: Curves, grid: Grid) -> _Choice:
    whole = tuple(int(c.size) for c in group.cells)
    curve = curves.get(group.name)
    if curve is None:
        return _Choice((whole,), np.zeros(1))
    if uniform(group):
        widths = choices(group, grid)
        picked = np.unique(np.linspace(0, len(widths) - 1, min(_MOST, len(widths))).round())
        found = [(widths[int(i)],) * len(group.cells) for i in picked]
    else:
        ratios = np.linspace(0, 1, _MOST + 1)[1:]
        found = [counts_for(group, float(r), grid) for r in ratios]
    ordered = sorted({whole, *found}, key=lambda c: (-sum(c), c))
    damage = [curve.at(sum(c) / group.size) for c in ordered]
    return _Choice(tuple(ordered), np.maximum.accumulate(damage))


def _damage(options: Mapping[str, _Choice], counts: Counts) -> float:
    return sum(float(o.damage[o.counts.index(counts[n])]) for n, o in options.items())


def _linearised(
    options: Mapping[str, _Choice], present: Counts, cost: Cost
) -> tuple[float, dict[str, np.ndarray]]:
    """The present cost, and what every choice of a group adds to it, the others staying."""
    here = cost(present)
    return here, {
        name: np.array([cost({**present, name: c}) - here for c in choice.counts])
        for name, choice in options.items()
    }


def _relaxed(
    options: Mapping[str, _Choice], here: float, deltas: Mapping[str, np.ndarray], goal: float
) -> Counts:
    """The relaxed knapsack: hull steps by damage per saving until the linearised cost fits."""
    chosen = dict.fromkeys(options, 0)
    total = here + sum(float(delta[0]) for delta in deltas.values())
    steps: list[tuple[float, str, int, float]] = []
    for name, choice in options.items():
        delta = deltas[name]
        corners = hull(delta[0] - delta, choice.damage)
        for before, after in itertools.pairwise(corners):
            saved = float(delta[before] - delta[after])
            lost = float(choice.damage[after] - choice.damage[before])
            steps.append((lost / saved, name, after, saved))
    for _, name, after, saved in sorted(steps):
        if total <= goal:
            break
        chosen[name] = after
        total -= saved
    return {name: options[name].counts[i] for name, i in chosen.items()}


def hull(saving: np.ndarray, damage: np.ndarray) -> list[int]:
    """Corners of the lower convex hull of damage over saving, from the first choice on."""
    corners = [0]
    for i in range(1, len(saving)):
        if saving[i] <= saving[corners[-1]]:
            continue
        while len(corners) > 1 and _ratio(saving, damage, corners[-1], i) <= _ratio(
            saving, damage, corners[-2], corners[-1]
        ):
            corners.pop()
        corners.append(i)
    return corners


def _ratio(saving: np.ndarray, damage: np.ndarray, a: int, b: int) -> float:
    return float((damage[b] - damage[a]) / (saving[b] - saving[a]))


def _give_back(options: Mapping[str, _Choice], counts: Counts, cost: Cost, target: float) -> Counts:
    """Take back single steps, the most damage per cost first, as long as any fits."""
    closed: set[str] = set()
    here = cost(counts)
    while True:
        steps = []
        for name, choice in options.items():
            i = choice.counts.index(counts[name])
            if i == 0 or name in closed:
                continue
            trial = {**counts, name: choice.counts[i - 1]}
            price = cost(trial)
            if price > target:
                closed.add(name)  # it will not fit later either: the others only grow
                continue
            gain = float(choice.damage[i] - choice.damage[i - 1])
            steps.append((-gain / max(price - here, 1e-12), name, trial, price))
        if not steps:
            return counts
        _, _, counts, here = min(steps, key=lambda s: s[:2])
