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

from graphprune.scoring.readers import Reader
from graphprune.scoring.statistics import Statistics

Array = np.ndarray[Any, Any]

_SHRINK = 1e-3
_BLOCK = 64


def _inverse(matrix: Array) -> Array:
    """Of a symmetric positive definite matrix."""
    from scipy.linalg.lapack import dpotrf, dpotri

    factor, failed = dpotrf(matrix, lower=1)
    if not failed:
        lower, failed = dpotri(factor, lower=1)
    if failed:  # not so definite, by rounding
        return np.asarray(np.linalg.inv(matrix))
    lower = np.tril(lower)
    return np.asarray(lower + np.tril(lower, -1).T)


class _Precision:
    """The inverse of a covariance from which channels are taken away, one by one.

    What each channel takes with it is a column; columns are subtracted from the inverse a block at a
    time, as one matrix product, and rows of channels that left are dropped then.
    """

    def __init__(self, statistics: Statistics) -> None:
        variance = statistics.variance
        self.floor = _SHRINK * (float(variance.mean()) or 1.0)
        self.left = np.ones(variance.size, bool)
        covariance = statistics.covariance
        self.inverse: Array | None = None
        self.diagonal = 1 / (variance + self.floor)  # too wide: as if channels were independent
        if covariance is not None:
            self.inverse = _inverse(covariance + self.floor * np.eye(len(covariance)))
            self.diagonal = np.diagonal(self.inverse).copy()
            self.rows = np.arange(variance.size)  # channel of each row that is still there
            self.columns = np.zeros((variance.size, _BLOCK))
            self.count = 0

    def residual(self) -> Array:
        """Variance of each channel that the others do not explain; 0 for those that left."""
        rest = 1 / np.maximum(self.diagonal, 1e-30) - self.floor
        return np.where(self.left, np.maximum(rest, 0), 0)

    def take(self, channel: int) -> None:
        """A channel leaves."""
        self.left[channel] = False
        if self.inverse is None:
            return
        row = int(np.searchsorted(self.rows, channel))
        pending = self.columns[:, : self.count]
        column = self.inverse[row] - pending @ pending[row]  # symmetric
        if column[row] <= 0:  # explained altogether: nothing else changes
            return
        column /= np.sqrt(column[row])
        self.columns[:, self.count] = column
        self.count += 1
        self.diagonal[self.rows] -= column**2
        if self.count == _BLOCK:
            self._subtract(self.columns)

    def _subtract(self, pending: Array) -> None:
        assert self.inverse is not None
        stay = self.left[self.rows]
        pending = pending[stay]
        self.inverse = self.inverse[np.ix_(stay, stay)] - pending @ pending.T
        self.rows = self.rows[stay]
        self.columns = np.zeros((self.rows.size, _BLOCK))
        self.count = 0


def residual_energy(size: int, readers: Sequence[tuple[Reader, Statistics]]) -> Array:
    """What each of `size` units costs when it leaves, never less than those that left before it.

    Args:
        size: Units of the group.
        readers: The layers that read it, with the statistics of what they read.
    """
    precisions = [_Precision(s) for _, s in readers]
    columns, weights = [], []
    for reader, statistics in readers:
        total = float((statistics.variance * reader.energy).sum()) or 1.0
        columns.append([np.flatnonzero(reader.units == u) for u in range(size)])
        weights.append(reader.energy / total)
    left = np.ones(size, bool)
    result = np.zeros(size)
    highest = 0.0
    for step in range(size):
        cost = np.zeros(size)
        for (reader, _), precision, share in zip(readers, precisions, weights, strict=True):
            here = reader.units >= 0
            own = (share * precision.residual())[here]
            cost += np.bincount(reader.units[here], weights=own, minlength=size)
        unit = int(np.where(left, cost, np.inf).argmin())
        left[unit] = False
        highest = max(highest, float(cost[unit]))
        result[unit] = highest * (1 + 1e-9 * step)  # later ones stay first
        for precision, of in zip(precisions, columns, strict=True):
            for j in of[unit]:
                precision.take(int(j))
    return result
