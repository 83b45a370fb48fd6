"""Rows of small regression problems, and their sums."""

from __future__ import annotations

import numpy as np

from graphprune.compensation.moments import Moments

RNG = np.random.default_rng(0)


def moments(x: np.ndarray, y: np.ndarray) -> Moments:
    sums = Moments(x.shape[0], x.shape[2], y.shape[2])
    for part in range(0, x.shape[1], 7):
        sums.add(x[:, part : part + 7], y[:, part : part + 7])
    return sums


def problem(rows: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x = RNG.normal(1.0, 1.0, (2, rows, 5))
    weights, bias = np.arange(30.0).reshape(2, 5, 3) / 10, np.arange(6.0).reshape(2, 3)
    y = x @ weights + bias[:, None] + noise * RNG.normal(size=(2, rows, 3))
    return x, y, weights, bias
