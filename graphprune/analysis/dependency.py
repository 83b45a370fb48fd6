"""The dependency graph of a model: groups, members, constraints, and what stays and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.analysis.groups import (
    Balance,
    Group,
    Member,
    Width,
    balance_of,
    cell_numbers,
    families,
)
from graphprune.analysis.ops import SPATIAL, TRUNK_NORMS
from graphprune.analysis.resolve import FIXED, Resolved, Resolver
from graphprune.analysis.site import Link, Residual, Site, Statistic
from graphprune.labels import Algebra, Pin, unique
from graphprune.plan import Plan, Unpruned

if TYPE_CHECKING:
    import networkx as nx

    from graphprune.analysis.explain import Explanation


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """Everything the later stages need to know of a model; knows no ONNX or torch type.

    Attributes:
        groups: What can be pruned, in graph order.
        unpruned: What cannot, with the node that decides it and the reason.
        sites: All places that carry labels.
        statistics: Nodes whose statistics run over channels that may leave.
        links: What each node connects (for the coarse picture).
        resolver: Labels in terms of classes.
        pins: Why labels had to stay, in the order in which that was found.
    """

    groups: tuple[Group, ...]
    unpruned: tuple[Unpruned, ...]
    sites: tuple[Site, ...]
    statistics: tuple[Statistic, ...]
    links: tuple[Link, ...]
    resolver: Resolver
    pins: tuple[Pin, ...]

    @cached_property
    def by_name(self) -> dict[str, Group]:
        """Groups by their names, which are unique."""
        return {g.name: g for g in self.groups}

    def resolved(self, site: Site) -> list[Resolved]:
        """What can leave at a site."""
        found = (self.resolver.resolve(f) for f in site.factors)
        return [r for r in found if r is not None]

    def to_networkx(self) -> nx.Graph[Any]:
        """The coarse picture: nodes are prunable (tensor, axis) pairs, edges the couplings."""
        from graphprune.analysis.coarse import coarse_graph

        return coarse_graph(self)

    def explain(self, name: str) -> Explanation:
        """Why a node, tensor, initializer or group can or cannot be pruned."""
        from graphprune.analysis.explain import explain

        return explain(self, name)

    def to_json(self) -> dict[str, Any]:
        """Groups, members and reasons, for machines."""
        return {
            "groups": [
                {
                    "name": g.name,
                    "kind": g.kind,
                    "size": g.size,
                    "trunk": g.trunk,
                    "members": [
                        {
                            "name": m.site.name,
                            "node": m.site.node,
                            "op": m.site.op,
                            "axis": m.axis,
                            "weight": m.site.is_weight,
                        }
                        for m in g.members
                    ],
                    "constraints": {
                        "balanced": [
                            {"counts": b.counts.tolist(), "fixed": b.fixed.tolist()}
                            for b in g.balances
                        ],
                        "statistics": list(g.statistics),
                    },
                }
                for g in self.groups
            ],
            "unpruned": [{"node": u.node, "reason": u.reason} for u in self.unpruned],
        }


def build(
    alg: Algebra,
    sites: Sequence[Site],
    statistics: Sequence[Statistic],
    residuals: Sequence[Residual],
    links: Sequence[Link],
) -> DependencyGraph:
    """Solve the labels and form the groups."""
    resolver = Resolver(alg.space, sites)
    per_site = [
        (site, [r for r in map(resolver.resolve, site.factors) if r is not None]) for site in sites
    ]
    rows_of: dict[int, np.ndarray] = {}
    for _, found in per_site:
        for resolved in found:
            rows_of.setdefault(id(resolved), resolved.rows)
    for resolved in resolver.balanced(alg.balances):
        rows_of.setdefault(id(resolved), resolved.rows)
    arrays = list(rows_of.values())
    cells = cell_numbers(resolver, arrays)
    family_of_cell = families(cells, arrays)
    family = np.full(cells.shape, FIXED)
    family[cells != FIXED] = family_of_cell[cells[cells != FIXED]]

    balances: dict[int, list[np.ndarray]] = {}
    for rows in arrays:
        if rows.shape[0] > 1:
            present = rows[rows != FIXED]
            for number in unique(family[present]):
                balances.setdefault(int(number), []).append(rows)
    members: dict[int, list[Member]] = {}
    through_families: dict[int, list[int]] = {}
    for site, found in per_site:
        for resolved in found:
            numbers = through_families.get(id(resolved))
            if numbers is None:
                present = resolved.classes[resolved.classes != FIXED]
                numbers = unique(family[present]).tolist()
                through_families[id(resolved)] = numbers
            for number in numbers:
                members.setdefault(number, []).append(Member(site, resolved))
    alone = {key for key, numbers in through_families.items() if len(numbers) == 1}

    of = resolver.classes.of
    first = np.full(resolver.classes.count, np.iinfo(np.int64).max)
    np.minimum.at(first, of, np.arange(of.size))
    by_family = np.lexsort((first, family))
    starts = np.searchsorted(family[by_family], np.arange(family.max(initial=-1) + 2))
    stats = _families_of(statistics, resolver, family)
    joined = _families_of(residuals, resolver, family)
    kinds = _kinds(alg, resolver, family)
    groups = []
    names: set[str] = set()
    for number, own_members in sorted(members.items(), key=lambda kv: kv[1][0].site.order):
        units = by_family[starts[number] : starts[number + 1]]
        own = unique(cells[units])
        limits = [
            balance_of(_only(rows, family, number), cells, own) for rows in balances.get(number, [])
        ]
        through = [s for s in stats.get(number, []) if _over(s, resolver, family, number)]
        kind = _kind(kinds.get(number), own_members, number in joined)
        groups.append(
            Group(
                name=_unique(_name(own_members), names),
                kind=kind,
                units=units,
                cells=tuple(np.flatnonzero(cells[units] == c) for c in own),
                balances=_distinct(b for b in limits if b is not None),
                widths=_widths([m for m in own_members if id(m.resolved) in alone], cells, own),
                members=tuple(own_members),
                statistics=tuple(s.node for s in through),
                trunk=number in joined and any(s.op in TRUNK_NORMS for s in through),
            )
        )
    return DependencyGraph(
        groups=tuple(groups),
        unpruned=_unpruned(resolver, sites, alg),
        sites=tuple(sites),
        statistics=tuple(statistics),
        links=tuple(links),
        resolver=resolver,
        pins=tuple(pin for _, pin in alg.space.pins),
    )


def _only(rows: np.ndarray, family: np.ndarray, number: int) -> np.ndarray:
    """Rows with the classes of other families counted as staying (they keep their own balance)."""
    inside = (rows != FIXED) & (family[rows] == number)
    if ((rows != FIXED) & ~inside).any():
        return np.where(inside, rows, FIXED)
    return rows


def _families_of(
    items: Sequence[Any], resolver: Resolver, family: np.ndarray
) -> dict[int, list[Any]]:
    result: dict[int, list[Any]] = {}
    for item in items:
        numbers: set[int] = set()
        for factor in item.factors:
            resolved = resolver.resolve(factor)
            if resolved is not None:
                present = resolved.classes[resolved.classes != FIXED]
                numbers.update(unique(family[present]).tolist())
        for number in sorted(numbers):
            result.setdefault(number, []).append(item)
    return result


def _over(item: Statistic, resolver: Resolver, family: np.ndarray, number: int) -> bool:
    """Whether the statistic runs over an axis from which the family is removed."""
    for factor in item.factors:
        resolved = resolver.resolve(factor)
        if resolved is not None and resolved.removal in item.axes:
            present = resolved.classes[resolved.classes != FIXED]
            if (family[present] == number).any():
                return True
    return False


def _kinds(alg: Algebra, resolver: Resolver, family: np.ndarray) -> dict[int, str]:
    kinds: dict[int, str] = {}
    for labels, kind in alg.hints:
        for number in unique(family[resolver.classes.of[labels]]).tolist():
            kinds.setdefault(number, kind)
    return kinds


def _kind(hint: str | None, members: Sequence[Member], joined: bool) -> str:
    if hint == "head" or (hint is not None and not joined):
        return hint
    if joined:
        return "residual"
    ops = {m.site.op for m in members if m.site.is_weight}
    return "channel" if ops & SPATIAL or not ops else "neuron"


def _name(members: Sequence[Member]) -> str:
    lead = next((m.site for m in members if m.site.is_weight), members[0].site)
    return lead.owner or lead.node


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}#{number}"
    taken.add(candidate)
    return candidate


def _distinct(balances: Any) -> tuple[Balance, ...]:
    seen: dict[bytes, Balance] = {}
    for balance in balances:
        seen.setdefault(balance.counts.tobytes() + balance.fixed.tobytes(), balance)
    return tuple(seen.values())


def _widths(members: Sequence[Member], cells: np.ndarray, own: np.ndarray) -> tuple[Width, ...]:
    """Widths of initializer axes on which nothing but this group's cells `own` can leave."""
    column = {int(c): i for i, c in enumerate(own)}
    counts_of: dict[int, tuple[tuple[int, ...], int]] = {}
    result: dict[tuple[str, int, int, tuple[int, ...], int], Width] = {}
    for member in members:
        if not member.site.is_weight:
            continue
        found = counts_of.get(id(member.resolved))
        if found is None:
            row = member.resolved.rows[0]
            classes, times = np.unique(row[row != FIXED], return_counts=True)
            counts = [0] * own.size
            numbers, first = np.unique(cells[classes], return_index=True)
            for number, at in zip(numbers.tolist(), first.tolist(), strict=True):
                counts[column[number]] = int(times[at])
            found = tuple(counts), int((row == FIXED).sum())
            counts_of[id(member.resolved)] = found
        key = (member.site.op, len(member.site.shape), member.axis, *found)
        result.setdefault(key, Width(member.site, member.axis, *found))
    return tuple(result.values())


def _unpruned(resolver: Resolver, sites: Sequence[Site], alg: Algebra) -> tuple[Unpruned, ...]:
    """Weights of which nothing can leave along a tracked axis, with the reason."""
    result: dict[tuple[str, str, str], Unpruned] = {}
    for site in sites:
        if not site.strong:
            continue
        for factor in site.factors:
            classes = resolver.classes.of[factor.labels]
            if resolver.movable[classes].any():
                continue
            classes = unique(classes)
            pins = resolver.classes.pins[classes]
            known = pins[pins >= 0]
            if known.size:
                pin = alg.space.pins[int(known.min())][1]
                node, reason = pin.node, pin.reason
            else:
                whole = next(
                    (resolver.whole[int(c)] for c in classes if int(c) in resolver.whole), None
                )
                node = whole.node if whole else site.node
                name = whole.name if whole else site.name
                reason = f"it is all that there is of '{name}'"
            item = Unpruned(node, reason, f"{site.name}[{factor.removal}]")
            result.setdefault((node, reason, site.name), item)
    return tuple(result.values())


def groups_at(graph: DependencyGraph, plan: Plan, node: str) -> list[str]:
    """Groups of the plan that run through what a node reads or writes."""
    cut = {g.name for g in plan.groups}
    near = {t for x in graph.links if x.node == node for t in (*x.reads, *x.writes)}
    return [
        g.name
        for g in graph.groups
        if g.name in cut and any(m.site.node == node or m.site.name in near for m in g.members)
    ]
