"""Ratios of the original as ratios of a module that has been pruned already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.options import Options
from graphprune.selection.ratios import Policy, split


@dataclass(frozen=True, eq=False)
class Costs:
    """A module: its analysis, parameters and multiply-adds. Holds no tensor of it."""

    graph: DependencyGraph
    params: int
    macs: int


def of_present(
    options: Options,
    at: Callable[[float], float],
    whole: Costs,
    present: Costs,
) -> Options:
    """Options for one step.

    Counts are rounded once, from the original's: over many steps nothing adds up.

    Args:
        options: What stays of the original in the end.
        at: What stays in the end -> what stays after this step.
        whole: The original.
        present: The module before this step.
    """
    options = replace(options, allow_slower=True)  # a step may find nothing to do
    sizes = {g.name: g.size for g in whole.graph.groups}
    policy = Policy(
        only=options.only,
        exclude=options.exclude,
        group_ratio=options.group_ratio,
        residual=options.residual,
        heads=options.heads,
    )
    free, own, _ = split(present.graph.groups, policy)
    by_name = present.graph.by_name
    ratios = {n: _of_original(by_name[n], sizes, at(r)) for n, r in own.items()}
    if options.macs is not None:
        share = at(options.macs) * whole.macs / max(1, present.macs)
        options = replace(options, macs=min(1.0, share))
    if options.params is not None:
        share = at(options.params) * whole.params / max(1, present.params)
        options = replace(options, params=min(1.0, share))
    if options.channels is not None:
        wanted = at(options.channels)
        if options.scope == "global":
            units = sum(g.size for g in split(whole.graph.groups, policy)[0])
            wanted = min(1.0, wanted * units / max(1, sum(g.size for g in free)))
        else:
            changed = [g for g in free if sizes.get(g.name, g.size) != g.size]
            ratios |= {g.name: _of_original(g, sizes, wanted) for g in changed}
        options = replace(options, channels=wanted)
    return replace(
        options,
        heads=None if options.heads is None else at(options.heads),
        group_ratio=(*((glob, at(r)) for glob, r in options.group_ratio), *ratios.items()),
    )


def _of_original(group: Group, sizes: Mapping[str, int], ratio: float) -> float:
    """What stays of a group, if `ratio` of what it was at first is to stay."""
    return min(1.0, ratio * sizes.get(group.name, group.size) / group.size)
