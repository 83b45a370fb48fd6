"""What leaves as a linear function of what stays, by ridge regression from moments."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_RIDGE = 1e-3
"""Relative to the mean second moment of what stays."""


def estimate(
    mean: Array, covariance: Array, kept: Array, gone: Array, *, centred: bool
) -> tuple[Array, Array]:
    """A `(gone, kept)` and b `(gone,)` of `x_gone = A x_kept + b`.

    Args:
        mean: Of all channels, `(channels,)`.
        covariance: Of all channels, `(channels, channels)`.
        kept: Channels that stay.
        gone: Channels that leave.
        centred: Whether there may be a constant; without one the line goes through the origin.
    """
    moments = covariance if centred else covariance + np.outer(mean, mean)
    inner = moments[np.ix_(kept, kept)]
    ridge = _RIDGE * float(np.diagonal(inner).mean()) + 1e-12
    matrix = np.linalg.solve(inner + ridge * np.eye(len(kept)), moments[np.ix_(kept, gone)]).T
    constant = mean[gone] - matrix @ mean[kept] if centred else np.zeros(len(gone))
    return matrix, constant
