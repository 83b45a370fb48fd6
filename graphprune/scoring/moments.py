"""Criteria of single channels: each is a statistic of what a reader reads times its weights.

- `activation`: E[x^2] |W_:j|^2, the energy that leaves a reader's output where nothing is refitted.
- `wanda`: |x_j|_2 sum |W_:j| (Sun et al. 2024, in the structured form of FLAP's comparison).
- `flap`: Var(x_j) |W_:j|^2; what never varies is a bias (An et al. 2023, fluctuation-based).
- `apoz`: share of activations that are not zero (Hu et al. 2016); the zeros are those of ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphprune.scoring.readers import Reader
from graphprune.scoring.statistics import Statistics

Array = np.ndarray[Any, Any]
Readers = Sequence[tuple[Reader, Statistics]]


def activation(size: int, readers: Readers) -> Array:
    """Mean energy of each unit in the outputs of its readers, relative to all units'."""
    return _summed(size, readers, lambda r, s: s.power * r.energy)


def wanda(size: int, readers: Readers) -> Array:
    """Norm of each unit's channels times the absolute weights that read them."""
    return _summed(size, readers, lambda r, s: np.sqrt(s.power) * r.absolute)


def flap(size: int, readers: Readers) -> Array:
    """Variance of each unit's channels times the squared weights that read them."""
    return _summed(size, readers, lambda r, s: s.variance * r.energy)


def apoz(size: int, readers: Readers) -> Array | None:
    """Share of non-zero activations of each unit; None where nothing is ever exactly zero."""
    if not any(s.zeros[r.units >= 0].any() for r, s in readers):
        return None
    total, times = np.zeros(size), np.zeros(size)
    for reader, statistics in readers:
        here = reader.units >= 0
        alive = (1 - statistics.zero_share)[here]
        total += np.bincount(reader.units[here], weights=alive, minlength=size)
        times += np.bincount(reader.units[here], minlength=size)
    return total / np.maximum(times, 1)


def _summed(size: int, readers: Readers, of: Callable[[Reader, Statistics], Array]) -> Array:
    """Sum over readers, each relative to its own total, so that no layer outvotes another."""
    result = np.zeros(size)
    for reader, statistics in readers:
        values = of(reader, statistics)
        here = reader.units >= 0
        sums = np.bincount(reader.units[here], weights=values[here], minlength=size)
        result += sums / (float(values.sum()) or 1.0)
    return result
