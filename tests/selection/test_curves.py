"""Damage curves: never more units and more damage, exact at their points, finite everywhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.selection.curves import Curve

fractions = st.floats(0.01, 0.99)
damages = st.one_of(st.floats(0, 1e12), st.just(math.inf), st.just(math.nan))
points = st.lists(st.tuples(fractions, damages), min_size=1, max_size=8, unique_by=lambda p: p[0])


@given(points, st.lists(st.floats(0, 1.2), min_size=2, max_size=20))
def test_more_units_are_never_worse(pairs: list[tuple[float, float]], at: list[float]) -> None:
    curve = Curve(*map(tuple, zip(*pairs, strict=True)))
    found = [curve.at(f) for f in sorted(at)]
    assert all(math.isfinite(d) and d >= 0 for d in found)
    assert all(a >= b * (1 - 1e-9) for a, b in itertools.pairwise(found))
    assert curve.at(1.0) == 0


@given(points)
def test_points_count_as_the_worst_of_all_wider_ones(pairs: list[tuple[float, float]]) -> None:
    curve = Curve(*map(tuple, zip(*pairs, strict=True)))
    for kept, _ in pairs:
        wider = [1e9 if math.isnan(d) else min(d, 1e9) for k, d in pairs if k >= kept]
        assert curve.at(kept) == pytest.approx(max(wider), rel=1e-6, abs=2e-9)


def test_between_points_the_logarithm_is_straight() -> None:
    curve = Curve((0.75, 0.25), (1e-4, 1e-2))
    assert curve.kept == (0.25, 0.75)
    assert curve.at(0.5) == pytest.approx(1e-3)
    assert curve.at(0.375) == pytest.approx(10**-2.5)


def test_above_the_last_point_the_damage_itself_is_straight() -> None:
    curve = Curve((0.25, 0.75), (1e-2, 4e-4))
    assert curve.at(0.875) == pytest.approx(2e-4)


def test_below_the_first_it_goes_on_as_steeply() -> None:
    curve = Curve((0.25, 0.5), (1e-1, 1e-2))
    assert curve.at(0.125) == pytest.approx(10**-0.5)
    assert Curve((0.5,), (0.2,)).at(0.1) == pytest.approx(0.2)


def test_without_points_there_is_no_damage() -> None:
    assert Curve((), ()).at(0.5) == 0


def test_a_model_that_gives_no_numbers_is_the_worst_not_the_end_of_arithmetic() -> None:
    curve = Curve((0.25, 0.5, 0.75), (math.nan, math.inf, 1e-3))
    values = [curve.at(f) for f in np.linspace(0, 1, 41)]
    assert np.isfinite(values).all()
    assert curve.at(0.5) == curve.at(0.1) > 1e6
    assert curve.at(0.6) > curve.at(0.7) > curve.at(0.75) == pytest.approx(1e-3)
