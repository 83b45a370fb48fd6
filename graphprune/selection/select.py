"""From groups and scores to the units that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.plan import GroupChoice, Unpruned
from graphprune.selection.budget import meet_budget
from graphprune.selection.cost import CostModel
from graphprune.selection.criteria import WeightOf, scores
from graphprune.selection.ratios import Policy, global_ratios, local_ratios, split
from graphprune.selection.widths import Grid, counts_for, grid_of, kept_units, none_of

Counts = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Budget:
    """How much stays: one of the three, as a fraction of the original; None: only own ratios."""

    channels: float | None = None
    params: float | None = None
    macs: float | None = None


@dataclass(frozen=True, eq=False)
class Selection:
    """What stays.

    Attributes:
        removed: Class -> whether it leaves.
        choices: For each group that is cut, the units that stay and all scores.
        left: Groups that were not cut, and why.
        counts: Units kept of each cell of each group.
    """

    removed: np.ndarray
    choices: tuple[GroupChoice, ...]
    left: tuple[Unpruned, ...]
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def select(
    graph: DependencyGraph,
    weight: WeightOf,
    budget: Budget,
    policy: Policy,
    cost: Callable[[], CostModel],
    *,
    criterion: str = "l2",
    scope: str = "local",
    align: int | str = "auto",
    seed: int = 0,
    scored: Callable[[Sequence[str]], Mapping[str, np.ndarray]] | None = None,
) -> Selection:
    """Choose the units that stay.

    Args:
        graph: The analysis.
        weight: Contents of initializers.
        budget: How much stays.
        policy: What the user said about single groups.
        cost: Makes the cost model; called for `params` and `macs` budgets only.
        criterion: How units are scored (see `criteria`).
        scope: `local`: the same ratio for every group; `global`: one threshold over all units.
        align: Grid of physical widths.
        seed: Of the random criterion.
        scored: Scores from outside for the named groups, in place of the criterion's.

    Raises:
        UsageError: Unknown criterion.
        UnreachableTargetError: The budget cannot be met.
    """
    free, own, left = split(graph.groups, policy)
    grid = grid_of(align)
    by_name = graph.by_name
    used = [*free, *(by_name[n] for n in own)]
    if scored is None:
        values = scores(used, weight, criterion, seed)
    else:
        values = dict(scored([g.name for g in used]))
    fixed: Counts = {
        n: counts_for(by_name[n], r, grid) if r > 0 else none_of(by_name[n]) for n, r in own.items()
    }

    def ratios(ratio: float) -> dict[str, float]:
        if scope == "global" and ratio < 1:
            return global_ratios(free, values, ratio)
        return local_ratios(free, ratio)

    counts = _counts(free, fixed, budget, ratios, values, grid, graph, cost)
    asked = dict(own)
    if budget.channels is not None:
        asked |= ratios(budget.channels)
    removed = np.zeros(graph.resolver.classes.count, bool)
    chosen: list[GroupChoice] = []
    for group in graph.groups:
        if group.name not in counts:
            continue
        kept = kept_units(group, values[group.name], counts[group.name])
        if kept.size == group.size:
            reason = _why_whole(group, asked.get(group.name))
            left.append(Unpruned(group.name, reason, group.name))
            continue
        gone = np.ones(group.size, bool)
        gone[kept] = False
        removed[group.units[gone]] = True
        chosen.append(_choice(group, kept, values[group.name]))
    return Selection(removed, tuple(chosen), tuple(left), counts)


def _why_whole(group: Group, ratio: float | None) -> str:
    if ratio is None:
        return "the budget is met without it"
    if ratio >= 1:
        return "all of it was to stay"
    if ratio <= 0:
        return "without it, blocks of one tensor would keep different numbers of channels"
    return (
        f"of the widths that --align allows, all of its {group.size} units are nearest to "
        f"{ratio:.3g} of them"
    )


def _counts(
    free: Sequence[Group],
    fixed: Counts,
    budget: Budget,
    ratios: Callable[[float], Mapping[str, float]],
    scored: Mapping[str, np.ndarray],
    grid: Grid,
    graph: DependencyGraph,
    cost: Callable[[], CostModel],
) -> Counts:
    if budget.channels is not None:
        wanted = ratios(budget.channels)
        return {**fixed, **{g.name: counts_for(g, wanted[g.name], grid) for g in free}}
    if budget.params is None and budget.macs is None:
        return fixed
    model = cost()
    which = 0 if budget.params is not None else 1
    fraction = budget.params if budget.params is not None else budget.macs
    assert fraction is not None
    whole = model({})[which]
    return meet_budget(
        free,
        ratios,
        fixed,
        scored,
        grid,
        lambda counts: model(counts)[which],
        fraction * whole,
        ("parameter", "MAC")[which],
    )


def _choice(group: Group, kept: np.ndarray, scored: np.ndarray) -> GroupChoice:
    members = dict.fromkeys((m.site.name, m.axis) for m in group.members)
    return GroupChoice(
        name=group.name,
        kind=group.kind,
        size=group.size,
        kept=tuple(int(i) for i in kept),
        scores=tuple(float(s) for s in scored),
        members=tuple(members),
    )
