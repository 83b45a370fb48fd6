"""A plan for one form of a model, translated to another: torch module, ONNX export, export of another
kind. What both forms share is the names of weights; everything else follows from the analysis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.analysis.resolve import FIXED, Resolved
from graphprune.analysis.site import Site
from graphprune.cut import Cut
from graphprune.errors import UsageError
from graphprune.labels import Factor
from graphprune.plan import GroupChoice, Plan

Origins = Mapping[str, tuple[str, tuple[int, ...]]]
"""Initializer -> the weight of the source that it is the transpose of, and which axis each one is."""


def transfer(
    plan: Plan,
    graph: DependencyGraph,
    *,
    source_sha256: str,
    origins: Origins | None = None,
    aliases: Mapping[str, str] | None = None,
    binding: Mapping[str, int] | None = None,
) -> Plan:
    """The plan that removes from the model of `graph` what `plan` removes from its own.

    Args:
        plan: Of another form of the same model.
        graph: The analysis of this form.
        source_sha256: Hash of this form.
        origins: Transposed weights of this form.
        aliases: Other names of a weight (tied ones) -> the name that `graph` knows.
        binding: Sizes of dynamic dimensions in `graph`.

    Raises:
        UsageError: The plan is for another model: names or sizes do not fit, what it removes cannot
            leave here, or a group of it runs through no weight that is known here by its name.
    """
    origins, aliases = origins or {}, aliases or {}
    places: dict[str, list[Site]] = {}
    for site in graph.sites:
        if site.is_weight:
            places.setdefault(origins.get(site.name, (site.name, ()))[0], []).append(site)
    removed = np.zeros(graph.resolver.classes.count, bool)
    kept = np.zeros_like(removed)
    found: set[str] = set()
    for use in plan.initializers:
        name, order = plan.origins.get(use.initializer, (use.initializer, ()))
        name = aliases.get(name, name)
        for site in places.get(name, ()):
            mine = origins.get(site.name, ("", ()))[1]
            found.add(use.initializer)
            for cut in use.cuts:
                moved = _moved(_moved(cut, order), _inverse(mine))
                _mark(graph, site, moved, removed, kept)
    _check_groups(plan, found)
    if (removed & kept).any():
        raise UsageError(
            "the plan keeps and removes the same channels here: it was made for another model, or uses of "
            "one tensor keep different channels in it, which this form cannot do"
        )
    choices = tuple(_choices(graph, removed))
    made = plan_from_removed(
        graph, removed, source_sha256=source_sha256, choices=choices, binding=binding
    )
    names = {use.initializer for use in made.initializers}
    own = {n: origin for n, origin in origins.items() if n in names}
    return replace(made, unpruned=plan.unpruned, origins=own)


def _moved(cut: Cut, order: tuple[int, ...]) -> Cut:
    """The cut of a transposed weight in terms of the axes of the weight itself."""
    if not order:
        return cut
    return replace(cut, axis=order[cut.axis], blocks=tuple(order[b] for b in cut.blocks))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(a) for a in range(len(order)))


def _mark(
    graph: DependencyGraph, site: Site, cut: Cut, removed: np.ndarray, kept: np.ndarray
) -> None:
    if cut.axis >= len(site.shape) or site.shape[cut.axis] != cut.size:
        has = site.shape[cut.axis] if cut.axis < len(site.shape) else 0
        raise UsageError(
            f"the plan cuts axis {cut.axis} of '{site.name}', which has {has} elements here and "
            f"not {cut.size}: it was made for another model"
        )
    for factor in graph.resolved(site):
        if factor.removal == cut.axis:
            classes, stays = _beside(factor, cut, site.shape)
            gone = classes[~stays]
            if (gone == FIXED).any():
                break
            removed[gone] = True
            kept[classes[stays & (classes != FIXED)]] = True
            return
    raise UsageError(
        f"the plan removes channels of '{site.name}' along axis {cut.axis} that cannot leave here: "
        "it was made for another model"
    )


def _beside(factor: Resolved, cut: Cut, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Classes of the axis, and whether each stays, over the index axes of both."""
    keep = np.zeros((*cut.kept.shape[:-1], cut.size), bool)
    np.put_along_axis(keep, cut.kept, True, axis=-1)
    axes = (*dict.fromkeys((*factor.axes[:-1], *cut.blocks)), cut.axis)
    if any(keep.shape[i] != shape[b] for i, b in enumerate(cut.blocks)):
        raise UsageError("a plan with blocks inside cut blocks cannot be translated")
    classes = Factor(factor.axes, factor.classes).over(axes)
    stays = Factor((*cut.blocks, cut.axis), keep).over(axes)
    both = np.broadcast_arrays(classes, stays)
    return both[0], both[1]


def _check_groups(plan: Plan, found: set[str]) -> None:
    """Every group of the plan must have been met, or part of it would silently stay."""
    if not found:
        raise UsageError(
            "the plan names no weight of this model: it was made for another model, or for an export "
            "whose names were lost (torch.onnx.export(..., optimize=False) keeps them)"
        )
    for group in plan.groups:
        if len(group.kept) < group.size and not any(name in found for name, _ in group.members):
            raise UsageError(
                f"no weight of group '{group.name}' is known here by its name: export with "
                "torch.onnx.export(..., optimize=False), which keeps names"
            )


def _choices(graph: DependencyGraph, removed: np.ndarray) -> Iterator[GroupChoice]:
    for group in graph.groups:
        stays = ~removed[group.units]
        if not stays.all():
            members = dict.fromkeys((m.site.name, m.axis) for m in group.members)
            units = tuple(int(i) for i in np.flatnonzero(stays))
            yield GroupChoice(group.name, group.kind, group.size, units, (), tuple(members))
