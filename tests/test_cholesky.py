"""LAPACK through its addresses gives what numpy gives, and leaves Python's lock alone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from graphprune.cholesky import Cholesky


def positive(n: int) -> np.ndarray:
    rows = np.random.default_rng(n).normal(size=(3 * n, n))
    return rows.T @ rows / n


@pytest.mark.parametrize("n", [1, 2, 7, 150])
@pytest.mark.parametrize("count", [1, 5])
def test_solve(n: int, count: int) -> None:
    matrix, right = positive(n), np.random.default_rng(1).normal(size=(n, count))
    before = right.copy()
    factor = Cholesky(matrix.copy())
    for _ in range(2):  # the factor stays
        np.testing.assert_allclose(matrix @ factor.solve(right), right, atol=1e-9)
    assert np.array_equal(right, before)
    # any layout of the right side
    wide = np.asfortranarray(right)
    np.testing.assert_array_equal(factor.solve(wide), factor.solve(right))


@pytest.mark.parametrize("n", [1, 2, 7, 150])
def test_inverse(n: int) -> None:
    matrix = positive(n)
    inverse = Cholesky(matrix.copy()).inverse()
    np.testing.assert_allclose(inverse @ matrix, np.eye(n), atol=1e-9)
    assert np.array_equal(inverse, inverse.T)


def test_what_is_not_positive_definite_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        Cholesky(np.diag([1.0, -1.0, 1.0]))
    with pytest.raises(np.linalg.LinAlgError):
        Cholesky(np.ones((3, 3)) - 1e-3 * np.eye(3))


def test_other_threads_go_on() -> None:
    matrix = positive(1500)
    stop = threading.Event()
    longest = [0.0]

    def beat() -> None:
        last = time.perf_counter()
        while not stop.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            longest[0], last = max(longest[0], now - last), now

    thread = threading.Thread(target=beat)
    started = time.perf_counter()
    thread.start()
    for _ in range(3):
        Cholesky(matrix.copy())
    took = (time.perf_counter() - started) / 3
    stop.set()
    thread.join()
    assert longest[0] < took / 2 + 0.02
