"""Units of which pruning of single weights left nothing, and the plan by which they leave.

A unit (channel, neuron, head) is empty where everything that makes it is zero, weights, biases and
norms, or everything that reads it. That the others compute the same without it does not follow (a
sigmoid makes 0.5 of nothing): every plan is tried out, and a group that fails is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group, Member
from graphprune.analysis.planning import plan_from_removed
from graphprune.plan import GroupChoice, Plan
from graphprune.selection.criteria import WeightOf, criterion_of

_Part = Sequence[tuple[Group, np.ndarray]]


@dataclass(frozen=True)
class EmptyGroup:
    """Empty units of one group: its name, kind, size, the units, and whether they can leave."""

    name: str
    kind: str
    size: int
    units: tuple[int, ...]
    leave: bool
    why: str = ""


@dataclass(frozen=True, eq=False)
class Empty:
    """All empty units of a model, and the plan that removes those that can leave; None: none."""

    groups: tuple[EmptyGroup, ...]
    plan: Plan | None


def find_empty(
    graph: DependencyGraph,
    weight: WeightOf,
    *,
    held: Callable[[Member], bool],
    reads: Callable[[Member], bool],
    same: Callable[[Plan], bool],
    sha256: str,
    binding: Mapping[str, int] | None = None,
) -> Empty:
    """Find the units of which nothing is left.

    Groups are tried all at once; where outputs would change, each alone, and then together those
    that passed. One unit of a cell always stays: a layer of width 0 is for the user to ask for.

    Args:
        graph: The analysis.
        weight: Contents by name; one is asked for at a time and not kept.
        held: Whether a weight counts: its contents are known, and zeros in it silence a unit.
        reads: Whether a member sums over the units; otherwise it makes them.
        same: Whether the model computes the same without what a plan removes.
        sha256: Hash of the model, for plans.
        binding: Sizes of dynamic dimensions during the analysis, for plans.
    """
    found: list[tuple[Group, np.ndarray, str]] = []
    for group in graph.groups:
        members = [m for m in group.members if m.site.is_weight and held(m)]
        units = _empty_in(group, members, weight, reads)
        if units.size:
            found.append((group, units, _obstacle(group, units)))

    def plan_of(part: _Part) -> Plan:
        return _plan(graph, part, sha256, binding)

    chosen = _passing(
        [(group, units) for group, units, why in found if not why],
        lambda part: same(plan_of(part)),
    )
    leaving = {group.name for group, _ in chosen}
    groups = tuple(
        EmptyGroup(
            group.name,
            group.kind,
            group.size,
            tuple(int(u) for u in units),
            group.name in leaving,
            why or ("" if group.name in leaving else "outputs would change"),
        )
        for group, units, why in found
    )
    return Empty(groups, plan_of(chosen) if chosen else None)


def _empty_in(
    group: Group, members: Sequence[Member], weight: WeightOf, reads: Callable[[Member], bool]
) -> np.ndarray:
    """Empty units of a group, without the one of each cell that has to stay."""
    made, read = np.ones(group.size, bool), np.ones(group.size, bool)
    makers = takers = 0
    for member in members:
        zero = _zero(group, member, weight(member.site.name))
        if reads(member):
            read &= zero
            takers += 1
        else:
            made &= zero
            makers += 1
    stay = np.ones(group.size, bool)
    if makers:
        stay &= ~made
    if takers and not group.statistics:
        stay &= ~read
    for cell in group.cells:
        if not stay[cell].any():
            stay[cell[0]] = True
    return np.flatnonzero(~stay)


def _zero(group: Group, member: Member, array: np.ndarray) -> np.ndarray:
    """Units of which this weight holds nothing but zeros (or nothing at all)."""
    measure = criterion_of("l1")
    assert measure is not None
    sums, present = measure(group, member, array)
    zero = np.ones(group.size, bool)
    zero[present] = sums == 0
    return zero


def _obstacle(group: Group, units: np.ndarray) -> str:
    """Why units of a group cannot leave by its own constraints; empty where they can."""
    stay = np.ones(group.size, bool)
    stay[units] = False
    kept = np.array([stay[cell].sum() for cell in group.cells])
    for balance in group.balances:
        if np.unique(balance.fixed + balance.counts @ kept).size > 1:
            return "blocks of it would keep different numbers"
    return ""


def _passing(pairs: _Part, same: Callable[[_Part], bool]) -> _Part:
    """Those groups that can leave together."""
    if not pairs or same(pairs):
        return pairs
    if len(pairs) == 1:
        return []
    alone = [pair for pair in pairs if same([pair])]
    # Each within float error of the original, they need not be so together.
    return alone if len(alone) < 2 or (len(alone) < len(pairs) and same(alone)) else []


def _plan(
    graph: DependencyGraph, part: _Part, sha256: str, binding: Mapping[str, int] | None
) -> Plan:
    removed = np.zeros(graph.resolver.classes.count, bool)
    choices = []
    for group, units in part:
        removed[group.units[units]] = True
        kept = tuple(int(k) for k in np.setdiff1d(np.arange(group.size), units))
        members = tuple((m.site.name, m.axis) for m in group.members)
        choices.append(GroupChoice(group.name, group.kind, group.size, kept, (), members))
    plan = plan_from_removed(graph, removed, source_sha256=sha256, choices=choices, binding=binding)
    return replace(plan, unpruned=graph.unpruned)
