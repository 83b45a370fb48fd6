"""Deviation of two arrays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphprune.certify.compare import TOLERANCES, Deviation, deviation

ONE = np.array([1.0, -4.0, 2.0], dtype=np.float32)


def test_error_is_relative_to_the_largest_magnitude() -> None:
    found = deviation(ONE, ONE + np.float32(0.5))
    assert (found.max_abs, found.scale, found.max_rel) == (0.5, 4.0, 0.125)
    assert found.mean_abs == 0.5
    assert found.within(0.125)
    assert not found.within(0.124)


@pytest.mark.parametrize(
    ("want", "got", "flaw"),
    [
        (ONE, ONE.astype(np.float64), "type float64 instead of float32"),
        (ONE, ONE[:2], "shape [2] instead of [3]"),
        (ONE, np.array([1, np.nan, 2], np.float32), "NaN or Inf where the original has none"),
        (np.array([1, np.inf], np.float32), np.array([1, 2], np.float32), "no NaN or Inf where"),
        (np.array([1, np.inf], np.float32), np.array([1, -np.inf], np.float32), "no NaN or Inf"),
        (np.array([1, np.nan], np.float32), np.array([1, np.inf], np.float32), "no NaN or Inf"),
        ([ONE], [ONE, ONE], "a sequence of another length"),
        (None, ONE, "one is missing"),
    ],
)
def test_what_cannot_be_compared_is_never_within(want, got, flaw: str) -> None:
    found = deviation(want, got)
    assert flaw in found.flaw
    assert not found.within(1e9)


def test_equal_places_without_a_number_are_fine() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 3.0, 1.0], dtype=np.float32)
    found = deviation(odd, odd.copy())
    assert found.within(0.0)
    assert found.not_finite
    assert found.scale == 3.0


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_, np.int8])
def test_integers_are_exact(dtype) -> None:
    a = np.array([0, 1, 1], dtype=dtype)
    b = np.array([0, 1, 0], dtype=dtype)
    assert deviation(a, a.copy()).within(0.0)
    assert not deviation(a, b).within(1e9)
    assert deviation(a, b).max_abs == 1.0


def test_large_integers_do_not_lose_their_last_digit() -> None:
    a = np.array([2**62, 1], dtype=np.int64)
    found = deviation(a, a + np.array([1, 0]))
    assert found.max_abs == 1.0
    assert not found.within(1.0)


def test_strings() -> None:
    a = np.array(["a", "b"], dtype=object)
    assert deviation(a, a.copy()).within(0.0)
    assert not deviation(a, a[::-1]).within(1e9)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros(3, np.float32), "nearly zero"),
        (np.full(3, 1e-15, np.float32), "nearly zero"),
        (np.array([1, 1 + 1e-7], np.float32), "nearly constant"),
        (np.array([5, 5, 5]), "nearly constant"),
        (np.zeros(0, np.float32), "empty"),
        (np.array([7.0], np.float32), ""),
        (ONE, ""),
        (np.array([1, 2]), ""),
    ],
)
def test_what_proves_nothing(array, why: str) -> None:
    assert deviation(array, array.copy()).lifeless == why


def test_narrow_floats_are_compared_as_wide_ones() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16):
        found = deviation(np.array([1, 2], dtype), np.array([1, 2.5], dtype))
        assert found.max_abs == 0.5
        assert found.max_rel == 0.25


def test_tolerances_grow_with_coarser_types() -> None:
    whole = [t.whole for t in TOLERANCES.values()]
    assert whole == sorted(whole)
    assert all(t.local < t.whole for t in TOLERANCES.values())
    assert Deviation(0.1, 0.0).max_rel == np.inf
