"""Ridge regression from streamed normal equations, with the regulariser chosen on other rows.

    min_W  |Y - X W - 1 b|^2 + lam |W - s W0|^2

The penalty pulls towards the weights that are there, W0, times the one number s by which they fit
best: what is missing, and a norm over fewer channels, changes the scale of all outputs, which a pull
towards W0 itself would hold back. With `lam` to infinity nothing changes but s and the bias. `lam` is
relative to the mean diagonal of the covariance of X. He et al. 2017 (channel pruning) and CORP / GRAIL
solve the same problem with W0 = 0. Once `lam` is chosen, the rows it was chosen by are fitted to as
well, where rows are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphprune.cholesky import Cholesky
from graphprune.compensation.moments import Moments
from graphprune.threads import in_order

Array = np.ndarray[Any, Any]

LAMBDAS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FIRST = 1e-2
"""The regulariser that is tried first; its neighbours follow as long as they are better."""
_LEAST_GAIN = 1e-3
"""A refit stays where it takes at least this share of the error on the rows held out."""
_ENOUGH = 8
"""Rows for each weight of an output, from which on those held out would add nothing."""
_SAMPLED = 64
"""Outputs of a group by which regularisers are compared; all of them share one."""
_EXACT = 1e-12
"""Below this share of the target's energy an error is rounding."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What came out.

    Attributes:
        weights: `(g, inputs, outputs)`.
        bias: `(g, outputs)`.
        lam: The relative regulariser; inf where only the scale and the bias moved.
        before: Relative squared error on the held-out rows with the weights that were there.
        after: The same with weights of this regulariser, fitted to the other rows.
    """

    weights: Array
    bias: Array
    lam: float
    before: float
    after: float


def refit(
    fit: Moments,
    held_out: Moments,
    weights: Array,
    bias: Array,
    *,
    biased: bool = True,
    importance: Array | None = None,
    first: float = FIRST,
    jobs: int = 1,
) -> Fit | None:
    """The best weights by the error on held-out rows; None where none are better than what is.

    Args:
        fit: Of the rows to fit. Used up.
        held_out: Of rows to choose by. Used up.
        weights: `(g, inputs, outputs)`, those that are there.
        bias: `(g, outputs)`, the same.
        biased: Whether a bias may be set.
        importance: Of the squared error of each output, `(g, outputs)`; None for equal ones.
        first: The regulariser to try first: that of a layer like this one saves time.
        jobs: Threads; what is found does not depend on it.
    """
    share = np.ones_like(bias) if importance is None else importance
    scale = float((share * held_out.energy()).sum())
    before = float((share * held_out.error(weights, bias)).sum())
    if scale <= 0 or fit.count == 0 or before <= _EXACT * scale:
        return None
    ridge = _Ridge(fit, weights, bias, biased)
    columns = _spread(weights.shape[2])
    some = held_out.only(columns), share[:, columns]
    lam, solver = _best(ridge, *some, columns, first, jobs)
    found, constant = ridge.solve(solver)
    after = float((share * held_out.error(found, constant)).sum())
    if not after < before * (1 - _LEAST_GAIN):
        return None
    if fit.count < _ENOUGH * weights.shape[1]:
        fit += held_out
        ridge = _Ridge(fit, weights, bias, biased)
        found, constant = ridge.solve(ridge.solver(lam))
    return Fit(found, constant, lam, before / scale, after / scale)


def _spread(outputs: int) -> Array:
    """At most `_SAMPLED` of so many outputs, evenly."""
    return np.unique(np.linspace(0, outputs - 1, min(outputs, _SAMPLED)).round().astype(int))


def _best(
    ridge: _Ridge, held_out: Moments, share: Array, columns: Array, first: float, jobs: int
) -> tuple[float, _Solver | None]:
    """The regulariser that leaves the least error of some outputs on the rows held out."""
    lambdas = (*LAMBDAS, np.inf)
    start = lambdas.index(first)
    errors: dict[int, float] = {}
    kept: tuple[int, _Solver | None] = start, None

    def measured(i: int) -> tuple[float, _Solver | None]:
        solver = ridge.solver(lambdas[i])
        found, constant = ridge.solve(solver, columns)
        return float((share * held_out.error(found, constant)).sum()), solver

    def measure(*wanted: int) -> None:
        nonlocal kept
        for i, (error, solver) in zip(wanted, in_order(measured, wanted, jobs), strict=True):
            if error < min(errors.values(), default=np.inf):
                kept = i, solver
            errors[i] = error

    def error(i: int) -> float:
        if i not in errors:
            measure(i)
        return errors[i]

    measure(start, start - 1 if start else 1)  # both are needed in any case
    _walk_down(error, len(lambdas), start)
    return lambdas[kept[0]], kept[1]


def _walk_down(function: Callable[[int], float], count: int, start: int) -> None:
    """Look at a function of 0 .. count - 1 downhill from `start`, and at its end, which costs nothing."""
    best = start
    for step in (-1, 1):
        while 0 <= best + step < count and function(best + step) < function(best):
            best += step
    function(count - 1)


class _Ridge:
    """The normal equations of some rows, to be solved for several regularisers."""

    def __init__(self, moments: Moments, weights: Array, bias: Array, biased: bool) -> None:
        self._covariance, right = moments.normal(biased=biased)
        through = self._covariance @ weights
        scale = _multiple(weights, through, right)
        self._right = right - scale * through
        self._weights, self._bias, self._biased = scale * weights, bias, biased
        self._centre = moments.centre()
        self._scale = np.einsum("gii->gi", self._covariance).mean(1)

    def solver(self, lam: float) -> _Solver | None:
        """What solves with one regulariser; None where it is infinite."""
        if not np.isfinite(lam):
            return None
        least = 1e-12 * (self._scale.max(initial=0.0) or 1.0)
        return _solver(self._covariance, lam * self._scale + least)

    def solve(
        self, solver: _Solver | None, columns: Array | slice = slice(None)
    ) -> tuple[Array, Array]:
        """Weights and bias of some outputs."""
        found = self._weights[:, :, columns]
        if solver is not None:
            found = found + solver(self._right[:, :, columns])
        if not self._biased:
            return found, self._bias[:, columns]
        x, y = self._centre
        return found, y[:, columns] - (x[:, None] @ found)[:, 0]


def _multiple(weights: Array, through: Array, right: Array) -> float:
    """The number times which `weights` fit best; 1 where nothing comes through."""
    energy = float(np.vdot(weights, through))
    return float(np.vdot(weights, right)) / energy if energy > 0 else 1.0


_Solver = Callable[[Array], Array]


def _solver(covariance: Array, ridge: Array) -> _Solver:
    """Gives `(C + diag(ridge))^-1 right` for each group."""
    if len(covariance) > 8:
        eye = np.eye(covariance.shape[1])
        return partial(np.linalg.solve, covariance + ridge[:, None, None] * eye)
    factors = []
    for g, matrix in enumerate(covariance):
        system = matrix.copy()
        system[np.diag_indices_from(system)] += ridge[g]
        factors.append(Cholesky(system))
    return lambda right: np.stack([f.solve(r) for f, r in zip(factors, right, strict=True)])
