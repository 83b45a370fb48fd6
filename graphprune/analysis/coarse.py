"""The coarse picture: a networkx graph that a person can query, draw and walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

if TYPE_CHECKING:
    from graphprune.analysis.dependency import DependencyGraph
    from graphprune.analysis.site import Site
    from graphprune.labels import Factor


def place(site: Site, axis: int) -> str:
    """Name of the node for one axis of a site; each use of an initializer is its own."""
    if site.is_weight:
        return f"{site.name}[{axis}] @ {site.node}"
    return f"{site.name}[{axis}]"


def axis_of(graph: DependencyGraph, factor: Factor) -> int:
    """The axis that gets shorter: that of the blocks where whole blocks leave."""
    resolved = graph.resolver.resolve(factor)
    return factor.removal if resolved is None else resolved.removal


def coarse_graph(graph: DependencyGraph) -> nx.Graph[Any]:
    """Nodes are tracked (tensor, axis) pairs, edges the couplings with the op that made them.

    Node attributes: `kind` (`activation` or `weight`), `tensor`, `axis`, `op`, `size` and `group`
    (names of the groups that run through it, joined by `, `; empty where all of it stays). Edge
    attributes: `node` and `op` of the coupling. Two places are joined where they belong to one op
    and share channels that leave together.
    """
    result: nx.Graph[Any] = nx.Graph()
    of = graph.resolver.classes.of
    group_of = np.full(graph.resolver.classes.count, -1)
    for number, group in enumerate(graph.groups):
        group_of[group.units] = number
    classes: dict[str, set[int]] = {}
    places: dict[str, list[str]] = {}
    uses: dict[str, list[str]] = {}
    for site in graph.sites:
        for factor in site.factors:
            axis = axis_of(graph, factor)
            name = place(site, axis)
            found = np.unique(of[factor.labels])
            classes.setdefault(name, set()).update(found.tolist())
            movable = found[graph.resolver.movable[found]]
            groups = [graph.groups[g].name for g in np.unique(group_of[movable]) if g >= 0]
            result.add_node(
                name,
                kind="weight" if site.is_weight else "activation",
                tensor=site.name,
                axis=axis,
                op=site.op,
                group=", ".join(groups),
                size=site.shape[axis],
            )
            if site.is_weight:
                uses.setdefault(site.node, []).append(name)
            else:
                places.setdefault(site.name, []).append(name)
    for link in graph.links:
        here = [p for t in link.writes for p in places.get(t, [])]
        around = [p for t in link.reads for p in places.get(t, [])] + uses.get(link.node, [])
        for i, one in enumerate(around + here):
            for other in (around + here)[i + 1 :]:
                if one != other and classes[one] & classes[other]:
                    result.add_edge(one, other, node=link.node, op=link.op)
    return result
