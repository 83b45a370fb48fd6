"""Creating, equating and solving labels.

Equalities are collected as arrays, made unique before they are kept, and solved once by connected
components: no Python loop per channel, cost linear in the number of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PINNED = 0
"""The label of everything that has to stay; equating with it pins."""


def unique(array: np.ndarray) -> np.ndarray:
    """Sorted distinct elements. numpy.unique hashes, which takes ten times as long on labels."""
    flat = np.sort(array, axis=None)
    if flat.size < 2:
        return flat
    first = np.empty(flat.shape, bool)
    first[0] = True
    np.not_equal(flat[1:], flat[:-1], out=first[1:])
    return flat[first]


def one_piece(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether equating `a` and `b` would make one class of all: nothing could leave any more."""
    first, i = np.unique(a, return_inverse=True)
    second, j = np.unique(b, return_inverse=True)
    if first.size < 2 or second.size < 2:
        return False
    edges = (np.ones(a.size, bool), (i.reshape(-1), first.size + j.reshape(-1)))
    size = first.size + second.size
    graph = coo_array(edges, shape=(size, size))
    count, _ = connected_components(graph, directed=False)
    return bool(count == 1)


@dataclass(frozen=True)
class Pin:
    """Why some labels have to stay."""

    node: str
    reason: str


@dataclass(frozen=True, eq=False)
class Classes:
    """The solution: labels that leave together form a class.

    Attributes:
        of: Label -> class (dense numbers).
        count: Number of classes.
        pinned: Class -> whether it has to stay.
        pins: Class -> index of the first entry of `LabelSpace.pins` that holds it, or -1.
    """

    of: np.ndarray
    count: int
    pinned: np.ndarray
    pins: np.ndarray


class LabelSpace:
    """Labels, their equalities and the reasons why some of them are pinned.

    Attributes:
        node: Name of the node whose rule is running: the one that pins are blamed on.
        pins: Pinned labels and why.
    """

    def __init__(self) -> None:
        self.node = ""
        self._count = 1
        self._weak = [np.ones(1, bool)]
        self._weak_flat: np.ndarray | None = None
        self._starts: list[int] = [0]
        self._edges: list[np.ndarray] = []
        self.pins: list[tuple[np.ndarray, Pin]] = []

    def fresh(self, shape: int | tuple[int, ...], *, weak: bool = False) -> np.ndarray:
        """New labels. Weak ones stand for sizes without a weight behind them (Expand, Pad)."""
        size = int(np.prod(shape))
        start = self._count
        self._count += size
        self._starts.append(start)
        self._weak.append(np.full(size, weak))
        self._weak_flat = None
        return np.arange(start, start + size, dtype=np.int32).reshape(shape)

    def weak(self, labels: np.ndarray) -> bool:
        """Whether all of `labels` were created weak."""
        if self._weak_flat is None:
            self._weak_flat = np.concatenate(self._weak)
        return bool(self._weak_flat[labels].all())

    def producers(self, labels: np.ndarray) -> set[int]:
        """Numbers of the `fresh` calls that made `labels`, weak and pinned ones left out."""
        found = unique(np.searchsorted(self._starts, unique(labels), side="right") - 1)
        return {int(n) for n in found if n and not self._weak[n][0]}

    def equate(self, a: np.ndarray, b: np.ndarray) -> bool:
        """Elements at the same (broadcast) position leave together. True if that was news."""
        if a is b:
            return False
        a, b = np.broadcast_arrays(a, b)
        different = a != b
        if not different.any():
            return False
        low = np.minimum(a[different], b[different]).astype(np.int64)
        high = np.maximum(a[different], b[different]).astype(np.int64)
        self.pin(high[low == PINNED], "it meets something of fixed size")
        edges = (low << 32 | high)[low != PINNED]
        self._edges.append(unique(edges))
        return True

    def pin(self, labels: np.ndarray, reason: str) -> None:
        """`labels` have to stay, because of the node whose rule is running."""
        distinct = unique(labels)
        distinct = distinct[distinct != PINNED]
        if distinct.size:
            self.pins.append((distinct, Pin(self.node, reason)))

    def solve(self) -> Classes:
        """Connected components of everything that was equated."""
        edges = np.concatenate([np.zeros(0, np.int64), *self._edges])
        low, high = edges >> 32, edges & 0xFFFFFFFF
        graph = coo_array((np.ones(edges.size, bool), (low, high)), shape=(self._count,) * 2)
        count, of = connected_components(graph, directed=False)
        pinned = np.zeros(count, bool)
        pinned[of[PINNED]] = True
        pins = np.full(count, -1, np.int64)
        for i in reversed(range(len(self.pins))):
            classes = of[self.pins[i][0]]
            pinned[classes] = True
            pins[classes] = i
        return Classes(of.astype(np.int32), int(count), pinned, pins)
