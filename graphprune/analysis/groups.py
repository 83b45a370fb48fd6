"""Groups: classes that are decided together.

Classes that run through the same places the same number of times form a *cell* (the channels of
one layer). Cells bound by a constraint that rows must lose equally many form one *group*; a group
that has one cell is the common case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.analysis.resolve import FIXED, Resolved, Resolver
from graphprune.analysis.site import Site
from graphprune.labels import unique


@dataclass(frozen=True, eq=False)
class Balance:
    """Rows of one tensor that must keep equally many elements.

    `fixed[r] + sum_c counts[r, c] * kept[c]` must be the same for every row r, where `kept[c]` is
    the number of units of cell c that stay.
    """

    counts: np.ndarray
    fixed: np.ndarray


@dataclass(frozen=True, eq=False)
class Width:
    """A physical width that a group decides alone: `fixed + sum_c counts[c] * kept[c]`.

    Attributes:
        site: The initializer use it belongs to.
        axis: Its axis.
    """

    site: Site
    axis: int
    counts: tuple[int, ...]
    fixed: int


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one site that a group runs through."""

    site: Site
    resolved: Resolved

    @property
    def axis(self) -> int:
        """The axis that gets shorter."""
        return self.resolved.removal


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are decided together.

    Attributes:
        name: Unique and readable.
        kind: `channel`, `neuron`, `head`, `group`, `hidden` or `residual`.
        units: Class of each unit, in the order of the first layer.
        cells: For each cell the indices into `units`.
        balances: Constraints between cells; empty for one cell.
        widths: Physical widths that this group alone decides.
        members: Where the group runs through, in graph order.
        statistics: Nodes that take statistics over its channels.
        trunk: A residual width that runs through LayerNorm or RMSNorm.
    """

    name: str
    kind: str
    units: np.ndarray
    cells: tuple[np.ndarray, ...]
    balances: tuple[Balance, ...]
    widths: tuple[Width, ...]
    members: tuple[Member, ...]
    statistics: tuple[str, ...]
    trunk: bool

    @property
    def size(self) -> int:
        """Number of units."""
        return int(self.units.size)


def cell_numbers(resolver: Resolver, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Class -> cell, FIXED for what stays; `arrays` are the classes of all places, [rows, n]."""
    count = resolver.classes.count
    signature = np.zeros(count, np.uint64)
    mixer = np.random.default_rng(0x67_72_61_70_68)
    for rows in arrays:
        rows = np.unique(rows, axis=0) if rows.shape[0] > 1 else rows
        draws = mixer.integers(1, 2**63, size=rows.shape[0], dtype=np.uint64)
        keys = np.asarray(draws) | np.uint64(1)
        for r, row in enumerate(rows):
            np.add.at(signature, row[row != FIXED], keys[r])
    _, cells = np.unique(signature, return_inverse=True)
    return np.where(resolver.movable & (signature != 0), cells, FIXED)


def families(cells: np.ndarray, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Cell -> family: cells are joined where an array has rows of different content."""
    count = int(cells.max(initial=-1)) + 1
    left: list[np.ndarray] = []
    right: list[np.ndarray] = []
    for rows in arrays:
        if rows.shape[0] < 2:
            continue
        here = unique(cells[rows[rows != FIXED]])
        if here.size > 1:
            left.append(here[:-1])
            right.append(here[1:])
    a = np.concatenate([np.zeros(0, int), *left])
    b = np.concatenate([np.zeros(0, int), *right])
    graph = coo_array((np.ones(a.size, bool), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def balance_of(rows: np.ndarray, cells: np.ndarray, own: np.ndarray) -> Balance | None:
    """The constraint that `rows` puts on the cells `own`; None where it is always met."""
    rows = np.unique(rows, axis=0)
    fixed = (rows == FIXED).sum(axis=1)
    counts = np.zeros((rows.shape[0], own.size), np.int64)
    for r, row in enumerate(rows):
        present = row[row != FIXED]
        classes, multiplicity = np.unique(present, return_counts=True)
        numbers, first = np.unique(cells[classes], return_index=True)
        counts[r, np.searchsorted(own, numbers)] = multiplicity[first]
    pairs = np.unique(np.column_stack([counts, fixed]), axis=0)
    if len(pairs) < 2:
        return None
    return Balance(pairs[:, :-1], pairs[:, -1])
