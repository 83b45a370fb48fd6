"""How many units of each cell stay: ratios, rounded to widths the target likes.

Runtimes compute in blocks: a width that is not a multiple of the block costs as much as the next
one or more (docs/results/staircase.md). The physical width is aligned, not the number of units: a head of 64
channels is on the grid whatever the number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

import numpy as np

from graphprune.analysis.groups import Group, Width
from graphprune.analysis.ops import CONTRACTIONS

Grid = Callable[[Width], int]
"""The step that a physical width should be a multiple of."""

_NODES = 2000


# How far a count may be from the ratio for the sake of the direction, of a group's units. On
# efficientnet_b0, 32 of 40 residual channels ran as fast as 16 of 40.
_NEAR_BELOW, _NEAR_ABOVE = 1 / 8, 0.3


def grid_of(align: int | str) -> Grid:
    """The grid of `--align`: a number for every width, or `auto`.

    `auto`: multiples of 16 from 16 channels on, of 4 below; 16 is the vector width that onnxruntime
    pads to with AVX-512, twice that of AVX2, and 4 the least it blocks at all.
    """

    def auto(width: Width) -> int:
        if width.site.op not in CONTRACTIONS:
            return 1
        size = width.site.shape[width.axis]
        return 16 if size >= 16 else 4 if size >= 8 else 1

    def fixed(width: Width) -> int:
        return int(align) if width.site.op in CONTRACTIONS else 1

    return auto if align == "auto" else fixed


def uniform(group: Group) -> bool:
    """Whether the same number kept of every cell meets every balance."""
    sizes = {c.size for c in group.cells}
    if len(sizes) > 1:
        return False
    for balance in group.balances:
        totals = balance.counts.sum(axis=1)
        if (totals != totals[0]).any() or (balance.fixed != balance.fixed[0]).any():
            return False
    return True


def choices(group: Group, grid: Grid) -> list[int]:
    """Numbers kept of each cell that are on the grid, for a uniform group; ascending.

    The original number is always among them; where no smaller one is on the grid, it is alone.
    """
    size = group.cells[0].size
    allowed = np.ones(size + 1, bool)
    allowed[0] = False
    numbers = np.arange(size + 1)
    for width in group.widths:
        step = grid(width)
        per_unit = sum(width.counts)
        if step > 1 and per_unit and gcd(per_unit, step) < step:
            allowed &= (width.fixed + numbers * per_unit) % step == 0
    allowed[size] = True
    return [int(n) for n in np.flatnonzero(allowed)]


def counts_for(group: Group, ratio: float, grid: Grid) -> tuple[int, ...]:
    """Kept units of each cell, near `ratio` on the grid and within the balances.

    Widths inside a block round down and residual widths up, unless that is far from the ratio. What
    does not shrink with the square of the width (depthwise convolutions, activations) runs over the
    inner ones, so this is faster at equal MACs, and what every block reads keeps more.
    """
    if ratio >= 1:
        return tuple(int(c.size) for c in group.cells)
    if uniform(group):
        options = choices(group, grid)
        wanted = ratio * group.cells[0].size
        best = _rounded(options, wanted, up=group.kind == "residual")
        return (best,) * len(group.cells)
    found = _programme(group, ratio, grid) or _programme(group, ratio, lambda w: 1)
    return found or tuple(int(c.size) for c in group.cells)


def none_of(group: Group) -> tuple[int, ...]:
    """No unit stays: the whole group leaves; all stay where blocks would keep different numbers."""
    even = all((b.fixed == b.fixed[0]).all() for b in group.balances)
    return tuple(0 if even else int(c.size) for c in group.cells)


def next_counts(group: Group, present: Sequence[int], grid: Grid) -> tuple[int, ...] | None:
    """The next larger number of units that the balances and the grid allow; None at the end."""
    if uniform(group):
        larger = [n for n in choices(group, grid) if n > present[0]]
        return (larger[0],) * len(group.cells) if larger else None
    now = sum(present)
    low, high = now, group.size  # ratios in units: `low` gives no more than there is, `high` does
    best = tuple(int(c.size) for c in group.cells)
    if now >= sum(best):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        found = counts_for(group, middle / group.size, grid)
        if sum(found) > now:
            best, high = found, middle
        else:
            low = middle
    return best


def _rounded(options: Sequence[int], wanted: float, *, up: bool) -> int:
    """The neighbour of `wanted` in the preferred direction, if it is near; else the nearest."""
    below = max((n for n in options if n <= wanted), default=options[0])
    above = min((n for n in options if n >= wanted), default=options[-1])
    first, second = (above, below) if up else (below, above)
    deviation = abs(first - wanted)
    near = deviation <= (_NEAR_ABOVE if up else _NEAR_BELOW) * options[-1]
    return first if near or deviation <= abs(second - wanted) else second


def _programme(group: Group, ratio: float, grid: Grid) -> tuple[int, ...] | None:
    """Integer programme: least deviation from the ratio under balances and grid, if feasible."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    cells = len(group.cells)
    sizes = np.array([c.size for c in group.cells], float)
    wanted = ratio * sizes
    aligned = [w for w in group.widths if grid(w) > 1]
    # Variables: kept of each cell, deviation of each cell, multiples of each aligned width.
    total = 2 * cells + len(aligned)
    rows: list[np.ndarray] = []
    low: list[float] = []
    high: list[float] = []

    def add(row: np.ndarray, least: float, most: float) -> None:
        rows.append(row)
        low.append(least)
        high.append(most)

    for c in range(cells):
        for sign in (1.0, -1.0):
            row = np.zeros(total)
            row[c], row[cells + c] = sign, -1.0
            add(row, -np.inf, sign * wanted[c])
    for balance in group.balances:
        for r in range(1, len(balance.fixed)):
            row = np.zeros(total)
            row[:cells] = balance.counts[r] - balance.counts[0]
            value = float(balance.fixed[0] - balance.fixed[r])
            add(row, value, value)
    for i, width in enumerate(aligned):
        row = np.zeros(total)
        row[:cells] = width.counts
        row[2 * cells + i] = -grid(width)
        add(row, -width.fixed, -width.fixed)
    cost = np.concatenate([np.zeros(cells), np.ones(cells) / sizes, np.zeros(len(aligned))])
    upper = np.concatenate([sizes, sizes, np.full(len(aligned), np.inf)])
    lower = np.concatenate([np.ones(cells), np.zeros(cells + len(aligned))])
    integral = np.concatenate([np.ones(cells), np.zeros(cells), np.ones(len(aligned))])
    solved = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        bounds=Bounds(lower, upper),
        integrality=integral,
        options={"node_limit": _NODES},  # a limit in seconds would make results depend on the load
    )
    if solved.x is None:
        return None
    return tuple(round(n) for n in solved.x[:cells])


def kept_units(group: Group, scores: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """The best units of each cell; ties go to the lower number. Increasing order."""
    kept = []
    for cell, count in zip(group.cells, counts, strict=True):
        order = np.lexsort((cell, -scores[cell]))
        kept.append(cell[order[:count]])
    return np.sort(np.concatenate(kept))
