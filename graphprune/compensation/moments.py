"""Sums over rows of inputs and outputs of a layer, from which least squares are solved."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BLOCK = 64
"""Rows of a matrix that are changed at a time."""


class Moments:
    """Sums over rows of x x^T, x y^T, x, y and y y for each of g groups.

    Products of one batch are taken in float32 around the first batch's mean, which loses nothing
    that a regulariser of 1e-5 would show, and summed in float64.

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
        self.yy = np.zeros((groups, outputs))
        self.origin: tuple[Array, Array] | None = None
        self._products = [np.empty(a.shape, np.float32) for a in (self.xx, self.xy)]
        """Room for those of one batch: to ask the system for it each time takes longer than they do."""

    def add(self, x: Array, y: Array) -> None:
        """Count in `x` `(g, rows, inputs)` and `y` `(g, rows, outputs)`."""
        if not x.shape[1]:
            return
        x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
        if self.origin is None:
            self.origin = x.mean(1), y.mean(1)
        x, y = x - self.origin[0][:, None], y - self.origin[1][:, None]
        turned = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.xx += np.matmul(turned, x, out=self._products[0])
        self.xy += np.matmul(turned, y, out=self._products[1])
        self.x += x.sum(1, dtype=np.float64)
        self.y += y.sum(1, dtype=np.float64)
        self.yy += np.einsum("gro,gro->go", y, y, dtype=np.float64)

    def __iadd__(self, other: Moments) -> Moments:
        """Count in the rows of another, which is used up: it takes this one's origin."""
        if self.origin is None or other.origin is None:
            return other if self.origin is None else self
        other._move(*self.origin)
        self.count += other.count
        for name in ("xx", "xy", "x", "y", "yy"):
            sums = getattr(self, name)
            sums += getattr(other, name)
        return self

    def _move(self, x: Array, y: Array) -> None:
        """Take the sums around another origin."""
        assert self.origin is not None
        a = self.origin[0].astype(np.float64) - x
        b = self.origin[1].astype(np.float64) - y
        n = self.count
        self.xx += self.x[:, :, None] * a[:, None] + a[:, :, None] * (self.x + n * a)[:, None]
        self.xy += self.x[:, :, None] * b[:, None] + a[:, :, None] * self.y[:, None]
        self.xy += n * a[:, :, None] * b[:, None]
        self.yy += 2 * self.y * b + n * b * b
        self.x, self.y = self.x + n * a, self.y + n * b
        self.origin = x, y

    def only(self, columns: Array) -> Moments:
        """Of some outputs. It shares the sums of x."""
        part = copy(self)
        part.xy, part.y, part.yy = self.xy[:, :, columns], self.y[:, columns], self.yy[:, columns]
        if self.origin is not None:
            part.origin = self.origin[0], self.origin[1][:, columns]
        return part

    def centre(self) -> tuple[Array, Array]:
        """Means of x and y over the rows, `(g, inputs)` and `(g, outputs)`."""
        if self.origin is None:
            return self.x, self.y
        return self.x / self.count + self.origin[0], self.y / self.count + self.origin[1]

    def normal(self, *, biased: bool) -> tuple[Array, Array]:
        """Mean of x x^T and x y^T: around the means where there is a bias, else around zero."""
        n = max(self.count, 1)
        x, y = self.x / n, self.y / n
        xx, xy = np.empty_like(self.xx), np.empty_like(self.xy)
        means = [(-x, x, y)]
        if not biased:
            mean_x, mean_y = self.centre()
            means.append((mean_x, mean_x, mean_y))
        for i in range(0, xx.shape[1], _BLOCK):  # a whole outer product would not stay in a cache
            rows = np.s_[:, i : i + _BLOCK]
            np.divide(self.xx[rows], n, out=xx[rows])
            np.divide(self.xy[rows], n, out=xy[rows])
            for scale, a, b in means:
                some = scale[rows][:, :, None]
                xx[rows] += some * a[:, None]
                xy[rows] += some * b[:, None]
        return xx, xy

    def energy(self) -> Array:
        """Mean square of each output, `(g, outputs)`."""
        n = max(self.count, 1)
        _, mean = self.centre()
        return np.asarray(self.yy / n - (self.y / n) ** 2 + mean**2)

    def error(self, weights: Array, bias: Array) -> Array:
        """Mean over rows of the squared error of `x W + b`, of each output: `(g, outputs)`."""
        n = max(self.count, 1)
        if self.origin is not None:
            through = (self.origin[0][:, None] @ weights)[:, 0]
            bias = bias + through - self.origin[1]
        squares = (weights * (self.xx @ weights - 2 * self.xy)).sum(1) + self.yy
        through = (self.x[:, None] @ weights)[:, 0]
        constant = 2 * bias * (through - self.y) + n * bias * bias
        return np.asarray(np.maximum(squares + constant, 0.0) / n)
