"""Residual energy: what a refit of the readers could not bring back.

Units are taken away one by one, the cheapest first, and the layers that read them are refitted in
closed form each time (optimal brain surgeon, as in OBC, Frantar and Alistarh 2022, and ZipLM, Kurtic
et al. 2023). So of two alike channels only the first to leave is cheap, and what took over for
others is dear. With P the inverse covariance of the channels that are still there, W the refitted
weights of what reads them and J the channels of a unit, its leaving

    adds tr(W_J^T (P_JJ)^-1 W_J) to the squared error,    W -= P_:J (P_JJ)^-1 W_J

Of W only G = W W^T is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.cholesky import Cholesky
from graphprune.scoring.readers import Reader
from graphprune.scoring.statistics import Statistics

Array = np.ndarray[Any, Any]

_SHRINK = 3e-3
"""Added to the variance of each channel at least, relative: the scale of a channel means nothing here."""

_PART = 0.06
"""Of the pull by which correlations err least: with much more, channels that are alike would not look
alike (twins in tests/compensation/test_fold_states.py)."""

_LEAST = 1e-6
"""Of the mean variance: less is taken for that of a channel that never varies."""

_BLOCK = 128
_GONE = -2
"""Unit of a channel that left; -1 are those of no unit, which stay."""


def added_variance(statistics: Statistics) -> Array:
    """What is added to the variance of each channel before covariances are inverted, `(channels,)`.

    Few vectors of many channels have correlations by chance, and a refit that relied on them would
    not bring back what it seems to. So correlations are pulled towards none, by a part of the oracle
    approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010).
    """
    variance, covariance = statistics.variance, statistics.covariance
    assert covariance is not None
    variance = np.maximum(variance, _LEAST * (float(variance.mean()) or 1.0))
    size = len(variance)
    squares = float((covariance**2 / np.outer(variance, variance)).sum())
    pull = (1 - 2 / size) * squares + size**2
    stay = (statistics.count + 1 - 2 / size) * (squares - size) - pull
    share = pull / stay if stay > pull else 1.0
    return np.asarray(variance * max(_PART * share, _SHRINK))


def _inverse(matrix: Array) -> Array:
    """Of a symmetric positive definite matrix."""
    try:
        return Cholesky(matrix.copy()).inverse()
    except np.linalg.LinAlgError:  # not so definite, by rounding
        return np.asarray(np.linalg.inv(matrix))


@dataclass(eq=False)
class _Alike:
    """Units of as many channels each, with their own blocks of P and G.

    Attributes:
        units: `(n,)`.
        rows: Their channels, as rows of the matrices: `(n, channels of each)`.
        precision: Blocks of P, `(n, channels of each, channels of each)`.
        gram: Blocks of G, the same.
    """

    units: Array
    rows: Array
    precision: Array
    gram: Array

    def costs(self, every: Array) -> Array:
        """What each adds to the error when it leaves; what the shrinkage added is not counted."""
        floor = every[self.rows]
        if self.rows.shape[1] == 1:
            cost = self.gram[:, 0, 0] * (1 / self.precision[:, 0, 0] - floor[:, 0])
        else:
            rest = np.linalg.inv(self.precision) - floor[:, :, None] * np.eye(self.rows.shape[1])
            cost = np.einsum("uij,uji->u", self.gram, rest)
        return np.maximum(cost, 0)

    def subtract(self, column: Array, share: Array, half: Array) -> None:
        """A channel took its part of P and G, given at `rows`."""
        self.precision -= column[:, :, None] * column[:, None, :]
        both = share[:, :, None] * half[:, None, :]
        self.gram -= both + both.transpose(0, 2, 1)

    def forget(self, unit: int) -> None:
        """A unit that leaves costs nothing any more."""
        at = int(np.searchsorted(self.units, unit))
        if at < self.units.size and self.units[at] == unit:
            self.precision[at] = np.eye(self.rows.shape[1])
            self.gram[at] = 0

    def moved(self, stay: Array) -> _Alike:
        """With the rows that they have where only some, sorted, stay; without units that left."""
        here = np.isin(self.rows[:, 0], stay)
        rows = np.searchsorted(stay, self.rows[here])
        return _Alike(self.units[here], rows, self.precision[here], self.gram[here])


class _Input:
    """An activation whose channels leave, and the layers that read it, all refitted each time.

    What a channel takes from P and G are columns; they are subtracted a block at a time, as matrix
    products, and rows of channels that left are dropped then.

    Args:
        readers: What reads it, with the same unit at each channel.
        statistics: Of the activation, with covariances.
    """

    def __init__(self, readers: Sequence[Reader], statistics: Statistics) -> None:
        variance, covariance = statistics.variance, statistics.covariance
        assert covariance is not None
        self._floor = added_variance(statistics)
        self._precision = _inverse(covariance + np.diag(self._floor))
        self._gram = sum(
            (r.gram() / _total(r, variance) for r in readers), np.zeros_like(covariance)
        )
        self._units = readers[0].units.copy()  # of each row
        self._alike = list(self._grouped())
        widest = max((a.rows.shape[1] for a in self._alike), default=0)
        self._pending = np.zeros((3, _BLOCK + widest, variance.size))
        self._count = 0

    def _grouped(self) -> Iterator[_Alike]:
        order = np.argsort(self._units, kind="stable")
        units, first, counts = np.unique(self._units[order], return_index=True, return_counts=True)
        for count in np.unique(counts[units >= 0]):
            some = (units >= 0) & (counts == count)
            rows = order[first[some][:, None] + np.arange(count)]
            at = rows[:, :, None], rows[:, None, :]
            yield _Alike(units[some], rows, self._precision[at], self._gram[at])

    def costs(self, size: int) -> Array:
        """What each of `size` units adds to the error when it leaves; 0 for those that left."""
        result = np.zeros(size)
        for alike in self._alike:
            result[alike.units] = alike.costs(self._floor)
        return result

    def take(self, unit: int) -> None:
        """A unit leaves."""
        gone = np.flatnonzero(self._units == unit)
        for row in gone:
            self._take(int(row))
        for alike in self._alike:
            alike.forget(unit)
        self._units[gone] = _GONE
        if self._count >= _BLOCK:
            self._subtract()

    def _take(self, row: int) -> None:
        columns, shares, halves = self._pending[:, : self._count]
        column = self._precision[row] - columns[:, row] @ columns  # symmetric
        weight = self._gram[row] - shares[:, row] @ halves - halves[:, row] @ shares
        share = column / column[row]
        half = weight - 0.5 * weight[row] * share
        column /= np.sqrt(column[row])
        self._pending[:, self._count] = column, share, half
        self._count += 1
        for alike in self._alike:
            alike.subtract(column[alike.rows], share[alike.rows], half[alike.rows])

    def _subtract(self) -> None:
        stay = np.flatnonzero(self._units != _GONE)
        square = np.ix_(stay, stay)
        columns, shares, halves = self._pending[:, : self._count, stay]
        self._precision = self._precision[square]
        self._precision -= columns.T @ columns
        self._gram = self._gram[square]
        self._gram -= np.vstack([shares, halves]).T @ np.vstack([halves, shares])
        self._units = self._units[stay]
        self._floor = self._floor[stay]
        self._alike = [alike.moved(stay) for alike in self._alike]
        self._pending = self._pending[:, :, : stay.size]
        self._count = 0


def residual_energy(size: int, readers: Sequence[tuple[Reader, Statistics]]) -> Array:
    """What each of `size` units costs when it leaves, never less than those that left before it.

    Args:
        size: Units of the group.
        readers: The layers that read it, with the statistics of what they read. Where there is no
            covariance (too wide), channels count as independent of each other.
    """
    gone = np.zeros(size)
    together: dict[tuple[int, bytes], list[Reader]] = {}
    for reader, statistics in readers:
        if statistics.covariance is None:
            gone += _independent(size, reader, statistics.variance)
            continue
        together.setdefault((id(statistics), reader.units.tobytes()), []).append(reader)
    known = {id(statistics): statistics for _, statistics in readers}
    inputs = [_Input(found, known[key]) for (key, _), found in together.items()]
    result = np.zeros(size)
    highest = 0.0
    for step in range(size):
        cost = gone + sum(i.costs(size) for i in inputs)
        unit = int(cost.argmin())
        gone[unit] = np.inf
        highest = max(highest, float(cost[unit]))
        result[unit] = highest * (1 + 1e-9 * step)  # later ones stay first
        for read in inputs:
            read.take(unit)
    return result


def _independent(size: int, reader: Reader, variance: Array) -> Array:
    share = variance * reader.energy / _total(reader, variance)
    units = np.where(reader.units >= 0, reader.units, size)
    return np.bincount(units, weights=share, minlength=size + 1)[:-1]


def _total(reader: Reader, variance: Array) -> float:
    """The energy of what a reader makes, were its inputs independent of each other."""
    return float((variance * reader.energy).sum()) or 1.0
