"""From a plan to the report's groups: sizes, and the weights that left with each group."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod

from graphprune.plan import GroupChoice, InitializerCut, Plan
from graphprune.report.model import GroupReport


def group_reports(
    plan: Plan, initializers: Mapping[str, tuple[int, ...]]
) -> tuple[GroupReport, ...]:
    """One entry for each group of the plan that lost units.

    Args:
        plan: The decisions.
        initializers: Shape of each initializer of the original, by name.
    """
    saved = _savings(plan, initializers)
    return tuple(
        GroupReport(
            name=group.name,
            kind=group.kind,
            before=group.size,
            after=len(group.kept),
            members=group.members,
            kept=group.kept,
            params_saved=round(saved.get(group.name, 0.0)),
        )
        for group in plan.groups
        if len(group.kept) < group.size
    )


def _savings(plan: Plan, initializers: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Weights that leave, credited to groups; each initializer counts once.

    Halving both axes of a matrix saves three quarters, of which each axis gets the share of its
    logarithm: the only division that does not depend on the order. Groups that cut the same axis
    (behind a Concat) share its part by the units they lose.
    """
    cutters: dict[tuple[str, int], list[GroupChoice]] = {}
    for group in plan.groups:
        if len(group.kept) < group.size:
            for member in set(group.members):
                cutters.setdefault(member, []).append(group)
    first: dict[str, InitializerCut] = {}
    for use in plan.initializers:
        first.setdefault(use.initializer, use)

    saved: dict[str, float] = {}
    for name, use in first.items():
        shape = initializers.get(name)
        if shape is None or 0 in shape:
            continue
        logs = {cut.axis: -log(max(cut.count, 1e-9) / cut.size) for cut in use.cuts}
        whole = sum(logs.values())
        left = prod(cut.count / cut.size for cut in use.cuts)
        total = prod(shape) * (1 - left)
        for axis, share in logs.items():
            losing = cutters.get((name, axis), [])
            lost = {group.name: group.size - len(group.kept) for group in losing}
            for group_name, units in lost.items():
                part = total * share / whole * units / sum(lost.values()) if whole else 0.0
                saved[group_name] = saved.get(group_name, 0.0) + part
    return saved
