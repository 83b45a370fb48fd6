"""Random removals that are legal: what both audits, of ONNX and of ATen rules, take away."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.analysis.resolve import FIXED

Array = np.ndarray[Any, Any]
Rng = np.random.Generator


def random_removal(graph: DependencyGraph, rng: Rng, strength: float) -> Array:
    """Classes that leave: at `strength` 0 one unit (or the fewest that are legal) of one group, at
    1 many units of all groups."""
    removed = np.zeros(graph.resolver.classes.count, bool)
    chosen = [g for g in graph.groups if legal_widths(g, rng, 0) is not None]
    if not chosen:
        return removed
    if strength == 0:
        chosen = [chosen[int(rng.integers(len(chosen)))]]
    elif strength < 1:
        chosen = [g for g in chosen if rng.random() < 0.7] or chosen[:1]
    for group in chosen:
        kept = legal_widths(group, rng, strength)
        if kept is None:
            continue
        for cell, count in zip(group.cells, kept, strict=True):
            leaving = rng.permutation(cell)[: cell.size - count]
            removed[group.units[leaving]] = True
    return removed


def legal_widths(group: Group, rng: Rng, strength: float) -> list[int] | None:
    """How many units of each cell stay: the legal choice nearest to a random wish; None if nothing
    can leave."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = np.array([c.size for c in group.cells])
    n = sizes.size
    least = 2 if group.statistics else 1  # one channel has no variance
    floor = np.where((sizes == 1) & (n > 1), 0, np.minimum(least, sizes))
    wish = sizes - 1 if strength == 0 else rng.integers(1, np.maximum(sizes, 2))
    if sizes.sum() == 1:
        return None
    if n == 1 and not group.balances:
        return [int(max(min(least, sizes[0] - 1), min(wish[0], sizes[0] - 1)))]
    # Variables: kept k (integers), distance t >= |k - wish|; minimise sum t.
    rows, low, high = [], [], []
    for i in range(n):
        for sign in (1.0, -1.0):
            row = np.zeros(2 * n)
            row[i], row[n + i] = -sign, 1.0
            rows.append(row)
            low.append(-sign * wish[i])
            high.append(np.inf)
    for balance in group.balances:
        for r in range(1, len(balance.fixed)):
            row = np.zeros(2 * n)
            row[:n] = balance.counts[r] - balance.counts[0]
            rows.append(row)
            value = float(balance.fixed[0] - balance.fixed[r])
            low.append(value)
            high.append(value)
    for member in group.members:  # something is left of every row
        for row_classes in np.unique(member.resolved.rows, axis=0):
            row = np.zeros(2 * n)
            for i, cell in enumerate(group.cells):
                row[i] = np.isin(row_classes, group.units[cell]).sum() / cell.size
            rows.append(row)
            low.append(0.01 if row.any() and not (row_classes == FIXED).any() else 0.0)
            high.append(np.inf)
    total = np.zeros(2 * n)
    total[:n] = 1.0
    rows.append(total)
    low.append(1.0)
    high.append(float(sizes.sum() - 1))
    cost = np.concatenate([np.zeros(n), rng.uniform(0.5, 1.5, n)])
    result = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), low, high),
        bounds=Bounds(
            np.concatenate([floor, np.zeros(n)]),
            np.concatenate([sizes, np.full(n, np.inf)]),
        ),
        integrality=np.concatenate([np.ones(n), np.zeros(n)]),
    )
    if result.x is None:
        return None
    return [round(v) for v in result.x[:n].tolist()]
