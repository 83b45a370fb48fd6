"""Why something can or cannot be pruned: the path of couplings that decides it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from graphprune.analysis.coarse import axis_of, coarse_graph, place
from graphprune.errors import UsageError

if TYPE_CHECKING:
    from graphprune.analysis.dependency import DependencyGraph
    from graphprune.analysis.site import Site


@dataclass(frozen=True)
class Step:
    """One place on the path, and the node that couples it with the next."""

    place: str
    node: str
    op: str


@dataclass(frozen=True)
class Finding:
    """One axis of what was asked for.

    Attributes:
        place: Tensor or initializer and axis.
        prunable: Whether anything of it can leave.
        groups: The groups that run through it.
        reason: Why the rest (or all) of it stays; empty where all of it may leave.
        node: The node that decides that.
        path: How the decision gets from that node to here.
    """

    place: str
    prunable: bool
    groups: tuple[str, ...]
    reason: str
    node: str
    path: tuple[Step, ...]


@dataclass(frozen=True)
class Explanation:
    """What was asked for and what was found for each of its axes."""

    name: str
    findings: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for machines."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        for found in self.findings:
            if found.prunable:
                lines.append(f"{found.place}: can be pruned, in {', '.join(found.groups)}")
            else:
                lines.append(f"{found.place}: stays")
            if found.reason:
                part = "part of it stays" if found.prunable else "because"
                lines.append(f"  {part}: {found.reason} (node {found.node})")
            for step in found.path:
                lines.append(f"    {step.place}  --{step.op} {step.node}--")
        if not self.findings:
            lines.append(f"{self.name}: none of its axes carries channels of a weight")
        return "\n".join(lines)


def explain(graph: DependencyGraph, name: str) -> Explanation:
    """Look up a group, node, tensor, initializer or layer (a module's path, or its beginning).

    Raises:
        UsageError: The model has nothing of that name.
    """
    sites = [s for s in graph.sites if name in (s.name, s.node, s.owner)]
    sites = sites or [s for s in graph.sites if s.owner.startswith(f"{name}.")]
    group = graph.by_name.get(name)
    if group is not None and not sites:
        sites = [m.site for m in group.members][:1]
    if not sites:
        known = any(name in (x.node, *x.reads, *x.writes) for x in graph.links)
        pinned = any(u.node == name for u in graph.unpruned)
        if not known and not pinned:
            raise UsageError(
                f"the model has no tracked layer, node, tensor or initializer '{name}': "
                "graphprune inspect lists the groups and their members"
            )
        return Explanation(name, ())
    coarse = coarse_graph(graph)
    found = []
    for site in sites:
        for factor in site.factors:
            axis = axis_of(graph, factor)
            found.append(_finding(graph, coarse, site, axis, factor.labels))
    return Explanation(name, tuple(found))


def _finding(
    graph: DependencyGraph, coarse: nx.Graph[Any], site: Site, axis: int, labels: np.ndarray
) -> Finding:
    resolver = graph.resolver
    classes = np.unique(resolver.classes.of[labels])
    movable = classes[resolver.movable[classes]]
    groups = [g.name for g in graph.groups if np.isin(movable, g.units).any()]
    here = place(site, axis)
    reason, node = "", ""
    path: tuple[Step, ...] = ()
    stuck = classes[~resolver.movable[classes]]
    if stuck.size:
        reason, node = why(graph, stuck)
        path = _path(graph, coarse, here, node, int(stuck[0]))
    return Finding(here, bool(movable.size), tuple(groups), reason, node, path)


def why(graph: DependencyGraph, classes: np.ndarray) -> tuple[str, str]:
    """(reason, node) for classes that stay."""
    pins = graph.resolver.classes.pins[classes]
    known = pins[pins >= 0]
    if known.size:
        pin = graph.pins[int(known.min())]
        return pin.reason, pin.node
    for number in classes.tolist():
        whole = graph.resolver.whole.get(number)
        if whole is not None:
            return f"it is all that there is of '{whole.name}'", whole.node
    return "no weight stands behind it", ""


def _path(
    graph: DependencyGraph, coarse: nx.Graph[Any], start: str, node: str, number: int
) -> tuple[Step, ...]:
    """The shortest way through places that share the class, to the node that pinned it."""
    of = graph.resolver.classes.of
    inside = {
        place(s, axis_of(graph, f))
        for s in graph.sites
        for f in s.factors
        if (of[f.labels] == number).any()
    }
    walk = coarse.subgraph(inside)
    near = {
        place(s, axis_of(graph, f))
        for s in graph.sites
        for f in s.factors
        if s.node == node or s.name == node
    }
    near |= {
        n
        for x in graph.links
        if x.node == node
        for n, data in walk.nodes(data=True)
        if data["tensor"] in x.reads
    }
    goals = near & set(walk)
    if start not in walk or not goals:
        return ()
    paths = nx.single_source_shortest_path(walk, start)
    reached = sorted((len(paths[g]), g) for g in goals if g in paths)
    if not reached:
        return ()
    way = paths[reached[0][1]]
    steps = []
    for one, other in pairwise(way):
        edge = walk.edges[one, other]
        steps.append(Step(one, edge["node"], edge["op"]))
    return tuple(steps)
