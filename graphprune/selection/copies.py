"""Groups whose removal would make the model larger, because their weights are read elsewhere too.

Every use of a weight is cut for itself. Where a weight is used several times and only some uses are
shortened, or each in its own way, the shortened copies stand beside the whole one. Small as they
are, they are more than there was: a group that stores more than it frees is left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from math import prod

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.analysis.planning import site_cuts
from graphprune.analysis.site import Site
from graphprune.cut import pruned_shape
from graphprune.plan import Unpruned
from graphprune.selection.cost import CostModel
from graphprune.selection.select import Selection


def leave_growing(
    graph: DependencyGraph,
    selection: Selection,
    cost: CostModel,
    wanted: Collection[str] = (),
) -> Selection:
    """The selection without the groups that store more parameters than they free.

    Groups that cut the same weight are judged one by one and together; the choice after which least
    is stored is made, until none makes it less.

    Args:
        graph: The analysis.
        selection: What is to leave.
        cost: Knows which initializers are no parameters, and which are read without tracking.
        wanted: Groups that the user named: they are not left.
    """
    store = _Store(graph, cost)
    while True:
        chosen = {c.name for c in selection.choices}.difference(wanted)
        best: tuple[int, list[Group], np.ndarray] | None = None
        for groups in store.suspects(selection.removed, chosen):
            removed = _without(selection.removed, groups)
            names = {m.site.name for g in groups for m in g.members if m.site.is_weight}
            less = store.parameters(names, selection.removed) - store.parameters(names, removed)
            if less > 0 and (best is None or less > best[0]):
                best = less, groups, removed
        if best is None:
            return selection
        selection = _left(selection, *best)


def _without(removed: np.ndarray, groups: Iterable[Group]) -> np.ndarray:
    removed = removed.copy()
    for group in groups:
        removed[group.units] = False
    return removed


def _left(selection: Selection, less: int, groups: list[Group], removed: np.ndarray) -> Selection:
    reason = (
        f"its weights are read elsewhere as well: shortened copies would take {less} parameters "
        "more than they free; --group-ratio prunes it all the same"
    )
    names = {group.name for group in groups}
    return replace(
        selection,
        removed=removed,
        choices=tuple(c for c in selection.choices if c.name not in names),
        left=(*selection.left, *(Unpruned(n, reason, n) for n in sorted(names))),
        counts={
            **selection.counts,
            **{g.name: tuple(int(c.size) for c in g.cells) for g in groups},
        },
    )


class _Store:
    """The parameters that are stored of each initializer, uses that keep the same counted once."""

    def __init__(self, graph: DependencyGraph, cost: CostModel) -> None:
        self._graph = graph
        self._whole = cost.whole
        self._uses: dict[str, list[Site]] = {}
        for site in graph.sites:
            if site.is_weight and site.name not in cost.uncounted:
                self._uses.setdefault(site.name, []).append(site)
        self._groups: dict[str, list[Group]] = {}
        for group in graph.groups:
            for name in {m.site.name for m in group.members if m.site.is_weight}:
                self._groups.setdefault(name, []).append(group)

    def suspects(self, removed: np.ndarray, chosen: Collection[str]) -> list[list[Group]]:
        """The chosen groups that cut an initializer of which more is stored than there was."""
        found: dict[tuple[str, ...], list[Group]] = {}
        for name, uses in self._uses.items():
            if len(uses) == 1 and name not in self._whole:
                continue
            groups = [g for g in self._groups.get(name, ()) if g.name in chosen]
            if groups and self.parameters([name], removed) > prod(uses[0].shape):
                for several in [*([g] for g in groups), groups]:
                    found[tuple(g.name for g in several)] = several
        return list(found.values())

    def parameters(self, names: Iterable[str], removed: np.ndarray) -> int:
        """Elements of all copies of some initializers."""
        total = 0
        for name in names:
            uses = self._uses.get(name, [])
            copies: dict[tuple[object, ...], int] = {}
            for site in uses:
                cuts = site_cuts(site, self._graph.resolved(site), removed)
                content = tuple((c.axis, c.blocks, c.kept.shape, c.kept.tobytes()) for c in cuts)
                copies[content] = prod(pruned_shape(site.shape, cuts))
            if uses and name in self._whole:
                copies[()] = prod(uses[0].shape)
            total += sum(copies.values())
        return total
