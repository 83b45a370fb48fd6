"""From groups and scores to the units that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.plan import GroupChoice, Unpruned
from graphprune.selection.allocate import allocate
from graphprune.selection.budget import Cost, Counts, meet_budget
from graphprune.selection.cost import CostModel
from graphprune.selection.criteria import WeightOf, scores
from graphprune.selection.curves import Curves
from graphprune.selection.ratios import Policy, global_ratios, local_ratios, split
from graphprune.selection.widths import counts_for, grid_of, kept_units, none_of


@dataclass(frozen=True)
class Budget:
    """How much stays, as fractions of the original: channels, or all of the others that are given.

    With none only own ratios count.
    """

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    latency: float | None = None

    @property
    def of_model(self) -> bool:
        """Whether it is about the whole model, not about each group."""
        return any(b is not None for b in (self.params, self.macs, self.latency))


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
    curves: Curves | None = None,
    latency: Callable[[], Cost] | None = None,
) -> Selection:
    """Choose the units that stay.

    Args:
        graph: The analysis.
        weight: Contents of initializers.
        budget: How much stays.
        policy: What the user said about single groups.
        cost: Makes the cost model; called where a budget needs it.
        criterion: How units are scored (see `criteria`).
        scope: `local`: the same ratio for every group; `global`: one threshold over all units.
        align: Grid of physical widths.
        seed: Of the random criterion.
        scored: Scores from outside for the named groups, in place of the criterion's.
        curves: Damage of each group alone: widths are then those of least summed damage, and
            `scope` does not matter.
        latency: Makes a function from counts to predicted milliseconds, for a `latency` budget.

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

    target = _target(free, budget, cost, latency, everything=curves is not None)
    if target is None:
        wanted = {} if budget.channels is None else ratios(budget.channels)
        counts = {**fixed, **{g.name: counts_for(g, wanted[g.name], grid) for g in free if wanted}}
    elif curves is not None:
        counts = allocate(free, curves, fixed, grid, *target)
    else:
        counts = meet_budget(free, ratios, fixed, values, grid, *target)
    asked = dict(own)
    if budget.channels is not None and curves is None:
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


def _target(
    free: Sequence[Group],
    budget: Budget,
    cost: Callable[[], CostModel],
    latency: Callable[[], Cost] | None,
    *,
    everything: bool,
) -> tuple[Cost, float, str] | None:
    """The cost that has to fall, to what, and its name; None where ratios say all.

    Several budgets are one: the worst share of its target that any of them takes.
    """
    goals: list[tuple[Cost, float, str]] = []
    if budget.channels is not None and everything:
        units = sum(g.size for g in free)
        names = [g.name for g in free]

        def kept(counts: Counts) -> float:
            return float(sum(sum(counts[n]) for n in names))

        goals.append((kept, budget.channels * units, "channel"))
    if budget.params is not None or budget.macs is not None:
        model = cost()
        for which, fraction in enumerate((budget.params, budget.macs)):
            if fraction is not None:
                goals.append(_costs(model, which, fraction))
    if budget.latency is not None:
        assert latency is not None
        predicted = latency()
        goals.append((predicted, budget.latency * predicted({}), "latency"))
    if len(goals) < 2:
        return goals[0] if goals else None
    name = " and ".join(name for _, _, name in goals)
    return lambda counts: max(of(counts) / most for of, most, _ in goals), 1.0, name


def _costs(model: CostModel, which: int, fraction: float) -> tuple[Cost, float, str]:
    return lambda c: model(c)[which], fraction * model({})[which], ("parameter", "MAC")[which]


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
