"""Sums over rows say what the rows say, however they came."""

from __future__ import annotations

import numpy as np
from regression_rows import moments, problem


def test_the_error_is_that_of_the_rows() -> None:
    x, y, weights, bias = problem(50, 0.3)
    direct = ((x @ (weights + 1) + bias[:, None] - 2 - y) ** 2).sum(1) / 50
    np.testing.assert_allclose(moments(x, y).error(weights + 1, bias - 2), direct, rtol=1e-4)


def test_sums_of_two_parts_are_those_of_all_rows() -> None:
    """Each part has an origin of its own."""
    x, y, weights, bias = problem(60, 0.3)
    whole = moments(x, y)
    both = moments(x[:, :20], y[:, :20])
    both += moments(x[:, 20:] + 0, y[:, 20:])
    for biased in (False, True):
        for one, two in zip(both.normal(biased=biased), whole.normal(biased=biased), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(both.error(weights, bias), whole.error(weights, bias), rtol=1e-3)
    np.testing.assert_allclose(both.energy(), (y**2).mean(1), rtol=1e-4)


def test_some_outputs_alone() -> None:
    x, y, weights, bias = problem(50, 0.3)
    whole = moments(x, y)
    columns = np.array([0, 2])
    part = whole.only(columns)
    np.testing.assert_allclose(
        part.error(weights[:, :, columns] + 1, bias[:, columns]),
        whole.error(weights + 1, bias)[:, columns],
        rtol=1e-6,
    )
