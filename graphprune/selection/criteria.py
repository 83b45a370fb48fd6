"""Scores without data: how much each unit of a group matters, from weights alone.

A unit is scored over all the weights it runs through: in every initializer the norm of its slice,
divided by the mean over the group's units there (so that a layer of large weights does not outvote
the others), averaged over the initializers, and divided by the group's mean. Scores of different
groups are therefore comparable up to the group's spread (Torch-Pruning's group magnitude, DepGraph,
CVPR'23).

Sources: L1 (Li et al., ICLR'17), FPGM (He et al., CVPR'19), BN scale (Liu et al., ICCV'17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphprune.analysis.groups import Group, Member
from graphprune.analysis.ops import BATCH_NORMS
from graphprune.errors import UsageError
from graphprune.options import DATA_CRITERIA, norm_order

WeightOf = Callable[[str], np.ndarray]
"""Contents of an initializer by name."""

_FPGM_LIMIT = 1 << 26
_PIECE = 1 << 20


def scores(
    groups: Sequence[Group], weight: WeightOf, criterion: str = "l2", seed: int = 0
) -> dict[str, np.ndarray]:
    """Group name -> score of each unit (larger stays).

    Raises:
        UsageError: Unknown criterion.
    """
    measure = criterion_of(criterion)
    result = {}
    for group in groups:
        if measure is None:
            rng = np.random.default_rng([seed, *group.name.encode()])
            values = rng.permutation(group.size).astype(np.float64) + 1
        else:
            values = _aggregate(group, weight, measure, criterion)
        mean = values.mean()
        result[group.name] = values / mean if mean > 0 else values
    return result


Measure = Callable[[Group, Member, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Weight of a member -> values of the units present in it, and their numbers."""


def criterion_of(name: str) -> Measure | None:
    """The measure of a criterion; None for `random`. Raises UsageError: unknown criterion."""
    order = norm_order(name)
    if order is not None:
        return _norm(order)
    if name in DATA_CRITERIA:
        raise UsageError(
            f"criterion '{name}' needs calibration inputs of an ONNX model; for a torch module there "
            "is scores=GradientScores(...)"
        )
    return {"random": None, "fpgm": _distances, "bn-scale": _norm(1)}[name]


def _norm(p: float) -> Measure:
    """The Lp norm of each unit's slice."""

    def measure(group: Group, member: Member, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = power_sums(array, member.resolved.axes, p).reshape(-1)
        units = units_at(group, member)
        here = np.flatnonzero(units >= 0)
        total = np.bincount(units[here], weights=sums[here], minlength=group.size)
        present = np.flatnonzero(np.bincount(units[here], minlength=group.size))
        return total[present] ** (1 / p), present

    return measure


def power_sums(array: np.ndarray, axes: Sequence[int], p: float) -> np.ndarray:
    """Sum of |w|^p over all axes but `axes`, which the result has in this order.

    Taken piece by piece along the first axis: of a weight that lies in a file only a piece is in
    memory at a time.
    """
    rest = tuple(a for a in range(array.ndim) if a not in axes)
    order = sorted(axes)
    total = np.zeros([array.shape[a] for a in order])
    step = max(1, _PIECE // max(1, array.size // max(1, array.shape[0])))
    for start in range(0, array.shape[0], step):
        piece = np.abs(array[start : start + step].astype(np.float64))
        powers = (piece if p == 1 else piece**p).sum(axis=rest)
        if 0 in axes:
            total[start : start + step] = powers
        else:
            total += powers
    return np.transpose(total, [order.index(a) for a in axes])


def _distances(group: Group, member: Member, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, present = unit_rows(group, member, array)
    return _median_distance(rows), present


def _median_distance(rows: np.ndarray) -> np.ndarray:
    """Sum of the distances to all others: what is near the geometric median is redundant."""
    squared = (rows**2).sum(axis=1)
    total = np.zeros(len(rows))
    step = max(1, _FPGM_LIMIT // max(1, len(rows)))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        distance = squared[start : start + step, None] + squared[None] - 2 * part @ rows.T
        total[start : start + step] = np.sqrt(np.maximum(distance, 0)).sum(axis=1)
    return total


def _aggregate(group: Group, weight: WeightOf, measure: Measure, criterion: str) -> np.ndarray:
    members = [m for m in group.members if m.site.is_weight and m.site.strong]
    if criterion == "bn-scale":
        scales = [m for m in members if m.site.op in BATCH_NORMS and m.site.input == 1]
        members = scales or members
        if not scales:
            measure = _norm(2)
    else:
        members = [m for m in members if len(m.site.shape) > 1] or members
    total = np.zeros(group.size)
    times = np.zeros(group.size)
    for member in members:
        values, present = measure(group, member, weight(member.site.name))
        mean = values.mean() if values.size else 0.0
        if mean > 0:
            total[present] += values / mean
            times[present] += 1
    return total / np.maximum(times, 1) if total.any() else np.ones(group.size)


def unit_rows(group: Group, member: Member, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slices of a weight that belong to each unit: [units present, elements], their numbers."""
    resolved = member.resolved
    axes = resolved.axes
    rest = [a for a in range(array.ndim) if a not in axes]
    flat = np.transpose(array, [*axes, *rest]).reshape(resolved.classes.size, -1)
    units = units_at(group, member)
    where = np.flatnonzero(units >= 0)
    order = where[np.argsort(units[where], kind="stable")]
    present, counts = np.unique(units[order], return_counts=True)
    data = flat[order].astype(np.float64)
    if (counts == counts[0]).all():
        return data.reshape(present.size, -1), present
    width = int(counts.max())
    padded = np.zeros((present.size, width, data.shape[1]))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    within = np.arange(order.size) - np.repeat(starts, counts)
    padded[np.repeat(np.arange(present.size), counts), within] = data
    return padded.reshape(present.size, -1), present


def units_at(group: Group, member: Member) -> np.ndarray:
    """Unit of the group at each place of a member's axes, flat; -1 where there is none."""
    classes = member.resolved.classes.reshape(-1)
    unit_of = np.full(int(max(group.units.max(), classes.max())) + 1, -1)
    unit_of[group.units] = np.arange(group.size)
    return np.where(classes >= 0, unit_of[classes], -1)
