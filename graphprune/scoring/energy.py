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


class _Precision:
    """The inverse of a covariance from which channels are taken away, one by one.

    Columns are worked out when they are needed (left-looking), so that taking away one of n channels
    costs n x (channels gone) and not n x n.
    """

    def __init__(self, statistics: Statistics) -> None:
        variance = statistics.variance
        self.floor = _SHRINK * (float(variance.mean()) or 1.0)
        covariance = statistics.covariance
        self.inverse: Array | None = None
        if covariance is not None:
            n = len(covariance)
            self.inverse = np.linalg.inv(covariance + self.floor * np.eye(n))
            self.diagonal = np.diagonal(self.inverse).copy()
            self.gone = np.zeros((n, n), order="F")
        else:  # too wide: as if channels were independent
            self.diagonal = 1 / (variance + self.floor)
        self.count = 0
        self.left = np.ones(self.diagonal.size, bool)

    def residual(self) -> Array:
        """Variance of each channel that the others do not explain; 0 for those that left."""
        rest = 1 / np.maximum(self.diagonal, 1e-30) - self.floor
        return np.where(self.left, np.maximum(rest, 0), 0)

    def take(self, j: int) -> None:
        """Channel `j` leaves."""
        self.left[j] = False
        if self.inverse is None:
            return
        column = self.inverse[:, j] - self.gone[:, : self.count] @ self.gone[j, : self.count]
        if column[j] <= 0:  # explained altogether: nothing else changes
            return
        column /= np.sqrt(column[j])
        self.gone[:, self.count] = column
        self.count += 1
        self.diagonal -= column**2


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
