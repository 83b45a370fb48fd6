"""Residual energy: what a refit of the readers could not bring back.

`(S^-1)_jj^-1 |W_:j|^2`, the part of channel j that the other channels that are still there do not
explain, as it comes out of each layer that reads it (optimal brain surgeon, as in OBC, Frantar and
Alistarh 2022, and ZipLM, Kurtic et al. 2023). Units are taken away one by one, the cheapest first,
so that of two alike channels only the first to leave is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphprune.cholesky import Cholesky
from graphprune.scoring.readers import Reader
from graphprune.scoring.statistics import Statistics

Array = np.ndarray[Any, Any]

_SHRINK = 1e-3
_BLOCK = 64


def _inverse(matrix: Array) -> Array:
    """Of a symmetric positive definite matrix."""
    try:
        return Cholesky(matrix.copy()).inverse()
    except np.linalg.LinAlgError:  # not so definite, by rounding
        return np.asarray(np.linalg.inv(matrix))


class _Precision:
    """The inverse of a covariance from which channels are taken away, one by one.

    What each channel takes with it is a column; columns are subtracted from the inverse a block at a
    time, as one matrix product, and rows of channels that left are dropped then.

    Args:
        size: Units of the group.
        reader: What reads the channels.
        statistics: Of what it reads.
    """

    def __init__(self, size: int, reader: Reader, statistics: Statistics) -> None:
        self._size = size
        variance = statistics.variance
        total = float((variance * reader.energy).sum()) or 1.0
        self._floor = _SHRINK * (float(variance.mean()) or 1.0)
        covariance = statistics.covariance
        self._inverse: Array | None = None
        self._diagonal = 1 / (variance + self._floor)  # too wide: as if channels were independent
        if covariance is not None:
            self._inverse = _inverse(covariance + self._floor * np.eye(len(covariance)))
            self._diagonal = np.diagonal(self._inverse).copy()
        self._rows = np.arange(variance.size)  # channel of each row that is still there
        self._left = np.ones(variance.size, bool)
        self._units = np.where(reader.units >= 0, reader.units, size)  # beyond: of no unit
        self._shares = reader.energy / total
        self._pending = np.zeros((_BLOCK, variance.size))
        self._count = 0

    def costs(self) -> Array:
        """What of each unit the other channels do not explain; of no meaning for units that left."""
        rest = 1 / np.maximum(self._diagonal, 1e-30)
        rest -= self._floor
        np.maximum(rest, 0, out=rest)
        rest *= self._shares
        return np.bincount(self._units, weights=rest, minlength=self._size + 1)[:-1]

    def take(self, channel: int) -> None:
        """A channel leaves."""
        row = int(np.searchsorted(self._rows, channel))
        self._left[row] = False
        if self._inverse is None:
            return
        pending = self._pending[: self._count]
        column = self._inverse[row] - pending[:, row] @ pending  # symmetric
        if column[row] <= 0:  # explained altogether: nothing else changes
            return
        column /= np.sqrt(column[row])
        self._pending[self._count] = column
        self._count += 1
        self._diagonal -= column**2
        if self._count == _BLOCK:
            self._subtract()

    def _subtract(self) -> None:
        assert self._inverse is not None
        stay = np.flatnonzero(self._left)
        pending = self._pending[:, stay]
        self._inverse = self._inverse[np.ix_(stay, stay)] - pending.T @ pending
        for name in ("_rows", "_left", "_units", "_shares", "_diagonal"):
            setattr(self, name, getattr(self, name)[stay])
        self._pending = np.zeros((_BLOCK, stay.size))
        self._count = 0


def residual_energy(size: int, readers: Sequence[tuple[Reader, Statistics]]) -> Array:
    """What each of `size` units costs when it leaves, never less than those that left before it.

    Args:
        size: Units of the group.
        readers: The layers that read it, with the statistics of what they read.
    """
    precisions = [_Precision(size, reader, statistics) for reader, statistics in readers]
    columns = [[np.flatnonzero(r.units == u) for u in range(size)] for r, _ in readers]
    gone = np.zeros(size)
    result = np.zeros(size)
    highest = 0.0
    for step in range(size):
        cost = gone.copy()
        for precision in precisions:
            cost += precision.costs()
        unit = int(cost.argmin())
        gone[unit] = np.inf
        highest = max(highest, float(cost[unit]))
        result[unit] = highest * (1 + 1e-9 * step)  # later ones stay first
        for precision, of in zip(precisions, columns, strict=True):
            for j in of[unit]:
                precision.take(int(j))
    return result
