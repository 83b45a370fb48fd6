"""From classes that leave to the plan: which indices of which axis of which tensor stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.resolve import FIXED, Resolved
from graphprune.analysis.site import Site
from graphprune.cut import Cut
from graphprune.errors import GraphpruneError
from graphprune.labels import Factor
from graphprune.plan import GroupChoice, InitializerCut, Plan, Unpruned


def plan_from_removed(
    graph: DependencyGraph,
    removed: np.ndarray,
    *,
    source_sha256: str = "",
    choices: Sequence[GroupChoice] = (),
    unpruned: Sequence[Unpruned] = (),
    binding: Mapping[str, int] | None = None,
) -> Plan:
    """The plan in which exactly the classes marked in `removed` leave.

    Args:
        graph: The analysis.
        removed: bool for each class; must respect the balances of every group.
        source_sha256: Hash of the model.
        choices: What was decided for each group, for the reader of the plan.
        unpruned: What was left, and why.
        binding: Sizes of dynamic dimensions during the analysis.

    Raises:
        GraphpruneError: `removed` breaks a balance (an error of the caller).
    """
    if (removed & ~graph.resolver.movable).any():
        raise GraphpruneError("a class that has to stay was removed: this is a bug of graphprune")
    for group in graph.groups:
        stay = ~removed[group.units]
        kept = np.array([stay[cell].sum() for cell in group.cells])
        for balance in group.balances:
            if np.unique(balance.fixed + balance.counts @ kept).size > 1:
                raise GraphpruneError(
                    f"blocks of '{group.name}' would keep different numbers: "
                    "this is a bug of graphprune"
                )
    tensors: dict[str, tuple[Cut, ...]] = {}
    initializers: list[InitializerCut] = []
    for site in graph.sites:
        cuts = site_cuts(site, graph.resolved(site), removed)
        if not cuts:
            continue
        if site.is_weight:
            initializers.append(InitializerCut(site.name, site.node, site.input, cuts))
        else:
            tensors[site.name] = cuts
    statistics = {}
    for item in graph.statistics:
        for factor in item.factors:
            resolved = graph.resolver.resolve(factor)
            if resolved is None or resolved.removal not in item.axes:
                continue
            leaving = _leaving(resolved, removed)
            if leaving.any() and not leaving.all():  # of nothing there are no statistics
                statistics[item.node] = item.axes
    return Plan(
        source_sha256=source_sha256,
        groups=tuple(choices),
        tensors=tensors,
        initializers=tuple(initializers),
        statistics_nodes=statistics,
        unpruned=tuple(unpruned),
        binding=dict(binding or {}),
    )


def _leaving(resolved: Resolved, removed: np.ndarray) -> np.ndarray:
    return np.where(resolved.classes == FIXED, False, removed[resolved.classes])


def site_cuts(site: Site, factors: Sequence[Resolved], removed: np.ndarray) -> tuple[Cut, ...]:
    """The cuts of one site."""
    masks: dict[int, tuple[tuple[int, ...], np.ndarray]] = {}
    for factor in factors:
        mask = (factor.axes, ~_leaving(factor, removed))
        known = masks.get(factor.removal)
        # Two factors remove from one axis where one of them gave up its inner axis: a group's
        # outputs leave one by one, or with its inputs as a whole.
        masks[factor.removal] = mask if known is None else _both(known, mask)
    cuts = []
    for axis, (axes, keep) in sorted(masks.items()):
        if keep.all():
            continue
        for position, index in enumerate(axes[:-1]):
            if index in masks and len(masks[index][0]) == 1:  # the index axis is cut as well
                keep = np.compress(masks[index][1], keep, axis=position)
        if not keep.size:  # nothing is left of an index axis
            continue
        rows = keep.reshape(-1, keep.shape[-1])
        counts = rows.sum(axis=1)
        if (counts != counts[0]).any():
            raise GraphpruneError(
                f"rows of '{site.name}' would keep different numbers along axis {axis}: "
                "this is a bug of graphprune"
            )
        blocks: tuple[int, ...] = axes[:-1]
        if (rows == rows[0]).all():
            kept, blocks = np.flatnonzero(rows[0]), ()
        else:
            kept = np.nonzero(rows)[1].reshape(*keep.shape[:-1], int(counts[0]))
        cuts.append(Cut(axis, keep.shape[-1], kept.astype(np.int64), blocks, axis in site.dynamic))
    return tuple(cuts)


def _both(
    a: tuple[tuple[int, ...], np.ndarray], b: tuple[tuple[int, ...], np.ndarray]
) -> tuple[tuple[int, ...], np.ndarray]:
    """What stays by both of two masks over (index axes, the same removal axis)."""
    axes = (*dict.fromkeys((*a[0][:-1], *b[0][:-1])), a[0][-1])
    first, second = (Factor(own, keep).over(axes) for own, keep in (a, b))
    return axes, first & second
