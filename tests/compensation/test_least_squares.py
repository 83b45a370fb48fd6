"""Ridge regression from streamed sums."""

from __future__ import annotations

import numpy as np
import pytest
from regression_rows import RNG, moments, problem

from graphprune.compensation.least_squares import refit


def test_what_is_linear_is_found_again() -> None:
    x, y, weights, bias = problem(400)
    found = refit(
        moments(x[:, :300], y[:, :300]), moments(x[:, 300:], y[:, 300:]), 0 * weights, 0 * bias
    )
    assert found is not None
    np.testing.assert_allclose(found.weights, weights, atol=1e-3)
    np.testing.assert_allclose(found.bias, bias, atol=1e-2)
    assert found.after < 1e-6 < found.before


def test_good_weights_stay() -> None:
    x, y, weights, bias = problem(400)
    parts = moments(x[:, :300], y[:, :300]), moments(x[:, 300:], y[:, 300:])
    assert refit(*parts, weights, bias) is None


def test_few_noisy_rows_are_not_believed() -> None:
    """Six rows for five inputs: the regulariser chosen on other rows keeps the weights near."""
    x, y, weights, bias = problem(206, 2.0)
    fit, held = moments(x[:, :6], y[:, :6]), moments(x[:, 6:], y[:, 6:])
    found = refit(fit, held, weights, bias)
    if found is not None:
        assert found.after < found.before
        assert found.lam >= 1e-2


@pytest.mark.parametrize("biased", [True, False])
def test_few_rows_are_enough_for_the_scale_of_all_outputs(biased: bool) -> None:
    """Ten rows for 40 inputs cannot say more: the weights that are there, times one number."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1, 500, 40))
    weights = rng.normal(size=(1, 40, 12))
    y = 1.4 * x @ weights + 0.3 * rng.normal(size=(1, 500, 12))
    fit, held = moments(x[:, :10], y[:, :10]), moments(x[:, 10:], y[:, 10:])
    found = refit(fit, held, weights, np.zeros((1, 12)), biased=biased)
    assert found is not None
    assert found.after < 0.05 * found.before


def test_without_a_bias() -> None:
    x, y, weights, _ = problem(400)
    zero = np.zeros((2, 3))
    parts = moments(x[:, :300], y[:, :300]), moments(x[:, 300:], y[:, 300:])
    found = refit(*parts, 0 * weights, zero, biased=False)
    assert found is not None
    assert not found.bias.any()
    best = np.linalg.lstsq(x[0, :300], y[0, :300], rcond=None)[0]
    np.testing.assert_allclose(found.weights[0], best, atol=2e-2)


def test_dead_inputs_do_no_harm() -> None:
    x, y, weights, bias = problem(400)
    x[0, :, 2] = 0
    x[1] = 0
    parts = moments(x[:, :300], y[:, :300]), moments(x[:, 300:], y[:, 300:])
    found = refit(*parts, weights, bias)
    assert found is None or np.isfinite(found.weights).all()


def test_few_rows_are_joined_by_those_that_chose() -> None:
    x, y, weights, bias = problem(60, 0.5)
    found = refit(
        moments(x[:, :30], y[:, :30]), moments(x[:, 30:], y[:, 30:]), 0 * weights, 0 * bias
    )
    assert found is not None
    design = np.concatenate([x[0], np.ones((60, 1))], 1)
    best = np.linalg.lstsq(design, y[0], rcond=None)[0]
    np.testing.assert_allclose(found.weights[0], best[:5], atol=5e-2)


def test_many_outputs_share_a_regulariser_and_each_is_fitted() -> None:
    x = RNG.normal(size=(1, 400, 8))
    weights = RNG.normal(size=(1, 8, 300))
    y = x @ weights + 0.1 * RNG.normal(size=(1, 400, 300))
    fit, held = moments(x[:, :200], y[:, :200]), moments(x[:, 200:], y[:, 200:])
    alone = held.only(np.array([3, 250]))
    whole = held.error(weights, np.zeros((1, 300)))
    part = alone.error(weights[:, :, [3, 250]], np.zeros((1, 2)))
    np.testing.assert_allclose(part, whole[:, [3, 250]], rtol=1e-6)
    found = refit(fit, held, 0 * weights, np.zeros((1, 300)))
    assert found is not None
    errors = ((found.weights - weights) ** 2).mean((0, 1))
    assert errors.shape == (300,)
    assert errors.max() < 1e-3


@pytest.mark.parametrize("noise", [0.01, 3.0])
@pytest.mark.parametrize("first", [1e-5, 1e-2, 1.0])
def test_threads_change_nothing(first: float, noise: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 90, 20))
    y = x @ rng.normal(size=(1, 20, 12)) + noise * rng.normal(size=(1, 90, 12))

    def found(jobs: int) -> tuple[np.ndarray, np.ndarray, float]:
        parts = moments(x[:, :40], y[:, :40]), moments(x[:, 40:], y[:, 40:])
        fit = refit(*parts, np.zeros((1, 20, 12)), np.zeros((1, 12)), first=first, jobs=jobs)
        assert fit is not None
        return fit.weights, fit.bias, fit.lam

    for one, two in zip(found(1), found(2), strict=True):
        np.testing.assert_array_equal(one, two)
