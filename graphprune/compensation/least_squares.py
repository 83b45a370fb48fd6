"""Ridge regression from streamed normal equations, with the regulariser chosen on other rows.

    min_W  |Y - X W - 1 b|^2 + lam |W - W0|^2

The penalty pulls towards the weights that are there, W0: with `lam` to infinity nothing changes
but the bias. `lam` is relative to the mean diagonal of the covariance of X. He et al. 2017 (channel
pruning) and CORP / GRAIL solve the same problem with W0 = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LAMBDAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_LEAST_GAIN = 1e-3
"""A refit stays where it takes at least this share of the error on the rows held out."""
_EXACT = 1e-12
"""Below this share of the target's energy an error is rounding."""


class Moments:
    """Sums over rows of x x^T, x y^T, x, y and y y, in float64, for each of g groups.

    Args:
        groups: Independent problems (the groups of a convolution).
        inputs: Columns of X in each.
        outputs: Columns of Y in each.
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.count = 0
        self.xx = np.zeros((groups, inputs, inputs))
        self.xy = np.zeros((groups, inputs, outputs))
        self.x = np.zeros((groups, inputs))
        self.y = np.zeros((groups, outputs))
        self.yy = 0.0

    def add(self, x: Array, y: Array) -> None:
        """Count in `x` `(g, rows, inputs)` and `y` `(g, rows, outputs)`."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        turned = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.xx += turned @ x
        self.xy += turned @ y
        self.x += x.sum(1)
        self.y += y.sum(1)
        self.yy += float((y * y).sum())

    def error(self, weights: Array, bias: Array) -> float:
        """Mean over rows of the squared error of `x W + b`."""
        quadratic = (weights * (self.xx @ weights)).sum() - 2 * (weights * self.xy).sum()
        through = (weights.transpose(0, 2, 1) @ self.x[:, :, None])[:, :, 0]
        constant = (2 * bias * (through - self.y)).sum() + self.count * (bias * bias).sum()
        return max(0.0, float(quadratic + constant + self.yy)) / max(self.count, 1)


@dataclass(frozen=True, eq=False)
class Fit:
    """What came out.

    Attributes:
        weights: `(g, inputs, outputs)`.
        bias: `(g, outputs)`.
        lam: The relative regulariser; inf where only the bias moved.
        before: Relative squared error on the held-out rows with the weights that were there.
        after: The same with these.
    """

    weights: Array
    bias: Array
    lam: float
    before: float
    after: float


def refit(
    fit: Moments, held_out: Moments, weights: Array, bias: Array, *, biased: bool = True
) -> Fit | None:
    """The best weights by the error on held-out rows; None where none are better than what is.

    Args:
        fit: Of the rows to fit.
        held_out: Of rows to choose by.
        weights: `(g, inputs, outputs)`, those that are there.
        bias: `(g, outputs)`, the same.
        biased: Whether a bias may be set.
    """
    n = max(fit.count, 1)
    mean_x, mean_y = fit.x / n, fit.y / n
    if not biased:
        mean_x, mean_y = np.zeros_like(mean_x), np.zeros_like(mean_y)
    scale = held_out.yy / max(held_out.count, 1)
    before = held_out.error(weights, bias)
    if scale == 0 or fit.count == 0 or before <= _EXACT * scale:
        return None
    covariance = fit.xx / n - mean_x[:, :, None] * mean_x[:, None, :]
    right = fit.xy / n - mean_x[:, :, None] * mean_y[:, None, :] - covariance @ weights
    diagonal = np.einsum("gii->gi", covariance).mean(1)
    eye = np.eye(covariance.shape[1])
    best: Fit | None = None
    for lam in (*LAMBDAS, np.inf):
        found = weights
        if np.isfinite(lam):
            ridge = lam * diagonal + 1e-12 * (diagonal.max(initial=0.0) or 1.0)
            found = weights + np.linalg.solve(covariance + ridge[:, None, None] * eye, right)
        constant = mean_y - np.einsum("gi,gio->go", mean_x, found) if biased else bias
        error = held_out.error(found, constant)
        if best is None or error < best.after * scale:
            best = Fit(found, constant, float(lam), before / scale, error / scale)
    assert best is not None
    return best if best.after < best.before * (1 - _LEAST_GAIN) else None
