from __future__ import annotations

import pytest

from graphprune.report import numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(0, "0"), (64, "64"), (999, "999"), (1000, "1.00 k"), (272_474, "272 k")],
        *[(999_600, "1.00 M"), (31_240_000, "31.2 M"), (4.1e9, "4.10 G"), (-1200, "-1.20 k")],
    ],
)
def test_count(value, expected):
    assert numbers.count(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(12, "12 B"), (292_000, "292 kB"), (1_105_000, "1.10 MB")]
)
def test_size(value, expected):
    assert numbers.size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0432, "0.043 ms"),
        (0.4321, "0.43 ms"),
        (12.34, "12.3 ms"),
        (999.7, "1.00 s"),
        (2e3, "2.00 s"),
    ],
)
def test_duration(value, expected):
    assert numbers.duration(value) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(100, 26, "-74 %"), (1000, 985, "-1.5 %"), (10, 12, "+20 %"), (5, 5, "unchanged"), (0, 1, "")],
)
def test_change(before, after, expected):
    assert numbers.change(before, after) == expected


def test_times_and_plural():
    assert numbers.times(2.314) == "2.31x"
    assert numbers.times(12.44) == "12.4x"
    assert numbers.plural(1, "group") == "1 group"
    assert numbers.plural(1200, "group") == "1,200 groups"
