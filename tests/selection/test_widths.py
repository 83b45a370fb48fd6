"""How many units stay: the grid, and integer programmes against brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from graphprune.analysis.groups import Balance, Group, Width
from graphprune.analysis.site import Site
from graphprune.selection.widths import (
    choices,
    counts_for,
    grid_of,
    kept_units,
    next_counts,
    uniform,
)


def site(size: int, op: str = "Conv", axis: int = 0) -> Site:
    shape = (size, 8) if axis == 0 else (8, size)
    return Site("w", "node", op, 1, shape, (), frozenset(), True, 0)


def width(counts: Sequence[int], fixed: int, size: int, op: str = "Conv") -> Width:
    return Width(site(size, op), 0, tuple(counts), fixed)


def family(
    sizes: Sequence[int],
    balances: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]] = (),
    widths: Sequence[Width] = (),
) -> Group:
    """A group of cells of the given sizes; balances are (counts of each row, fixed of each row)."""
    ends = np.cumsum([0, *sizes])
    cells = tuple(np.arange(a, b) for a, b in pairwise(ends))
    limits = tuple(Balance(np.array(c), np.array(f)) for c, f in balances)
    return Group("g", "channel", np.arange(ends[-1]), cells, limits, tuple(widths), (), (), False)


def legal(group: Group, counts: Sequence[int]) -> bool:
    kept = np.array(counts)
    return all(len(set((b.fixed + b.counts @ kept).tolist())) == 1 for b in group.balances)


FINE = grid_of(1)


@pytest.mark.parametrize(
    ("size", "step"), [(7, 1), (8, 4), (15, 4), (16, 16), (63, 16), (64, 16), (2048, 16)]
)
def test_auto_takes_blocks_that_fit_the_width(size: int, step: int) -> None:
    assert grid_of("auto")(width([1], 0, size)) == step
    assert grid_of("auto")(width([1], 0, size, op="BatchNormalization")) == 1
    assert grid_of(5)(width([1], 0, size)) == 5
    assert grid_of(5)(width([1], 0, size, op="Add")) == 1


@pytest.mark.parametrize(
    ("size", "per_unit", "fixed", "align", "expected"),
    [
        (32, 1, 0, 8, [8, 16, 24, 32]),
        (30, 1, 0, 8, [8, 16, 24, 30]),  # the original, off the grid, is always allowed
        (12, 64, 0, 16, list(range(1, 13))),  # heads of 64 channels are on it whatever their number
        (12, 4, 0, 16, [4, 8, 12]),
        (12, 6, 0, 16, [8, 12]),
        (6, 3, 2, 8, [2, 6]),  # 2 + 3 n on the grid of 8: n = 2
        (3, 1, 0, 8, [3]),  # nothing smaller is on the grid
    ],
)
def test_choices_lie_on_the_grid(
    size: int, per_unit: int, fixed: int, align: int, expected: list[int]
) -> None:
    group = family([size], widths=[width([per_unit], fixed, size * per_unit + fixed)])
    assert choices(group, grid_of(align)) == expected
    assert choices(group, FINE) == list(range(1, size + 1))


def test_two_widths_share_the_coarser_grid() -> None:
    group = family([24], widths=[width([1], 0, 24), width([2], 4, 52)])
    assert choices(group, grid_of(4)) == [4, 8, 12, 16, 20, 24]
    assert choices(group, grid_of(8)) == [24]  # n and 4 + 2 n are never both multiples of 8


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.62, 0.9, 0.99])
@pytest.mark.parametrize("align", [1, 4, 8])
def test_inner_widths_round_down_and_residual_widths_up_unless_that_is_far(
    ratio: float, align: int
) -> None:
    inner = family([40], widths=[width([1], 0, 40)])
    options = choices(inner, grid_of(align))
    wanted = 40 * ratio
    below = max((n for n in options if n <= wanted), default=options[0])
    above = min(n for n in options if n >= wanted)
    for group, first, second in (
        (inner, below, above),
        (replace(inner, kind="residual"), above, below),
    ):
        (found,) = counts_for(group, ratio, grid_of(align))
        assert found in (first, second)
        assert found == first or abs(second - wanted) < abs(first - wanted)
        if abs(first - wanted) < 2:
            assert found == first


def test_a_ratio_of_one_keeps_everything() -> None:
    group = family([30, 7], [([[1, 1], [2, 0]], [0, 3])])
    assert counts_for(group, 1.0, grid_of(16)) == (30, 7)


def test_equal_rows_keep_equal_numbers() -> None:
    """Four rows of eight channels, each a cell: a grouped convolution."""
    rows = np.eye(4, dtype=int).tolist()
    group = family([8] * 4, [(rows, [0] * 4)], [width([1] * 4, 0, 32)])
    assert uniform(group)
    assert counts_for(group, 0.5, grid_of(8)) == (4, 4, 4, 4)
    assert counts_for(group, 0.4, FINE) == (3, 3, 3, 3)
    assert choices(group, grid_of(8)) == [2, 4, 6, 8]


FAMILIES = {
    "odd sizes": family([9, 15], [([[1, 0], [0, 1]], [6, 0])]),
    "no common divisor": family([5, 7, 11], [([[2, 0, 0], [0, 3, 0]], [11, 0])]),
    "unequal pinned rows": family([8, 11], [([[1, 0], [0, 1]], [3, 0])]),
    "three rows": family([6, 7, 8], [([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [2, 1, 0])]),
    "two balances": family(
        [6, 8, 10], [([[1, 0, 0], [0, 1, 0]], [2, 0]), ([[1, 0, 1], [0, 2, 0]], [0, 0])]
    ),
    "a cell in both rows": family([4, 6, 6], [([[1, 1, 0], [1, 0, 1]], [0, 0])]),
    "multiplicity": family([6, 12], [([[2, 0], [0, 1]], [0, 0])]),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.7, 0.95])
def test_programmes_find_the_least_deviation(name: str, ratio: float) -> None:
    group = FAMILIES[name]
    sizes = [c.size for c in group.cells]

    def deviation(counts: Sequence[int]) -> float:
        return sum(abs(c - ratio * s) / s for c, s in zip(counts, sizes, strict=True))

    everything = [c for c in product(*(range(1, s + 1) for s in sizes)) if legal(group, c)]
    best = min(map(deviation, everything))
    found = counts_for(group, ratio, FINE)
    assert legal(group, found)
    assert all(1 <= c <= s for c, s in zip(found, sizes, strict=True))
    assert deviation(found) == pytest.approx(best, abs=1e-6)


def test_the_originals_of_all_families_are_legal() -> None:
    for group in FAMILIES.values():
        assert legal(group, [c.size for c in group.cells])
        assert not uniform(group)


def test_programmes_keep_widths_on_the_grid() -> None:
    """Rows of 16 + pinned 8 and of 24; both widths multiples of 8."""
    widths = [width([1, 0], 8, 24), width([0, 1], 0, 24)]
    group = family([16, 24], [([[1, 0], [0, 1]], [8, 0])], widths)
    for ratio in (0.1, 0.4, 0.6, 0.8):
        a, b = counts_for(group, ratio, grid_of(8))
        assert 8 + a == b
        assert b % 8 == 0


def test_a_grid_that_cannot_be_met_is_given_up() -> None:
    """7 + a is always odd where a balance asks a to be even."""
    group = family([8, 4], [([[1, 0], [0, 2]], [0, 0])], [width([1, 0], 7, 15)])
    a, b = counts_for(group, 0.5, grid_of(2))
    assert (a, b) == (4, 2)


def test_next_counts_walk_through_all_choices() -> None:
    group = family([40], widths=[width([1], 0, 40)])
    walked, now = [], counts_for(group, 0.0, grid_of(8))
    while now is not None:
        walked.append(now[0])
        now = next_counts(group, now, grid_of(8))
    assert walked == [8, 16, 24, 32, 40]


@pytest.mark.parametrize("name", FAMILIES)
def test_next_counts_of_a_family_grow_legally_to_the_whole(name: str) -> None:
    group = FAMILIES[name]
    now: tuple[int, ...] | None = counts_for(group, 0.0, FINE)
    last = 0
    while now is not None:
        assert legal(group, now)
        assert sum(now) > last
        last, present = sum(now), now
        now = next_counts(group, now, FINE)
    assert present == tuple(c.size for c in group.cells)


def test_the_best_of_every_cell_stay_and_ties_go_to_the_lower_number() -> None:
    group = family([4, 3])
    scores = np.array([0.5, 0.9, 0.5, 0.1, 2.0, 2.0, 3.0])
    assert kept_units(group, scores, (2, 2)).tolist() == [0, 1, 4, 6]
    assert kept_units(group, scores, (4, 1)).tolist() == [0, 1, 2, 3, 6]
