"""Cells, families and balances from class arrays, against their definitions by brute force."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from graphprune.analysis.groups import balance_of, cell_numbers, families
from graphprune.analysis.resolve import FIXED


class Movable:
    """What `cell_numbers` reads of a resolver."""

    class Classes:
        def __init__(self, count: int) -> None:
            self.count = count

    def __init__(self, count: int, stays: tuple[int, ...] = ()) -> None:
        self.classes = self.Classes(count)
        self.movable = np.ones(count, bool)
        self.movable[list(stays)] = False


def test_classes_with_the_same_places_are_one_cell() -> None:
    arrays = [np.array([[0, 1, 2, 3]]), np.array([[0, 1]]), np.array([[2, 2, 3, 3]])]
    cells = cell_numbers(Movable(6, stays=(5,)), arrays)
    assert cells[0] == cells[1]
    assert cells[2] == cells[3]
    assert cells[0] != cells[2]
    assert cells[4] == FIXED, "it stands nowhere"
    assert cells[5] == FIXED, "it has to stay"


@pytest.mark.parametrize("seed", range(20))
def test_cells_are_the_classes_of_equal_signature(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 7
    arrays = [
        rng.integers(-1, count, (rng.integers(1, 4), rng.integers(1, 6)))
        for _ in range(rng.integers(1, 4))
    ]
    cells = cell_numbers(Movable(count), arrays)
    signatures = [
        tuple(
            tuple(sorted((row, row.count(number)) for row in {tuple(r) for r in rows.tolist()}))
            for rows in arrays
        )
        for number in range(count)
    ]
    present = [any(number in rows for rows in arrays) for number in range(count)]
    for a, b in combinations(range(count), 2):
        if present[a] and present[b]:
            assert (cells[a] == cells[b]) == (signatures[a] == signatures[b])
    assert [c != FIXED for c in cells] == present


def test_rows_of_different_content_join_cells_to_a_family() -> None:
    cells = np.array([0, 0, 1, 1, 2, 2, 3])
    arrays = [
        np.array([[0, 1], [2, 3]]),
        np.array([[4, 5]]),
        np.array([[6, FIXED], [FIXED, FIXED]]),
    ]
    family = families(cells, arrays)
    assert family[0] == family[1]
    assert len({int(family[0]), int(family[2]), int(family[3])}) == 3


def test_families_join_through_a_common_cell() -> None:
    cells = np.arange(5)
    arrays = [np.array([[0], [1]]), np.array([[1], [2]]), np.array([[3, 4]])]
    family = families(cells, arrays)
    assert family[0] == family[1] == family[2]
    assert len(set(family.tolist())) == 3


def kept_of(rows: np.ndarray, stays: np.ndarray) -> list[int]:
    return [int(sum(c == FIXED or stays[c] for c in row)) for row in rows]


@pytest.mark.parametrize("seed", range(30))
def test_a_balance_says_how_many_each_row_keeps(seed: int) -> None:
    """`fixed + counts @ kept` is the length of a row, for any units that stay."""
    rng = np.random.default_rng(seed)
    blocks, inner = int(rng.integers(2, 4)), int(rng.integers(2, 5))
    rows = np.arange(blocks * inner).reshape(blocks, inner)
    rows = np.concatenate([rows, rng.permuted(rows, axis=1)[:, : rng.integers(0, inner)]], axis=1)
    rows = np.concatenate([rows, np.full((blocks, 2), FIXED)], axis=1)
    rows[0, -1] = rows[0, 0]  # one row has less pinned, one class twice
    cells = cell_numbers(Movable(blocks * inner), [rows])
    own = np.unique(cells)
    balance = balance_of(rows, cells, own)
    assert balance is not None
    stays = rng.random(blocks * inner) < 0.6
    kept = np.array([stays[cells == c].sum() for c in own])
    lengths = set((balance.fixed + balance.counts @ kept).tolist())
    assert lengths == set(kept_of(rows, stays))


def test_rows_that_always_keep_the_same_are_no_constraint() -> None:
    cells = np.array([0, 0, 0, 0])
    assert balance_of(np.array([[0, 1, 2], [0, 1, 2]]), cells, np.array([0])) is None
    assert balance_of(np.array([[0, 1, 2], [2, 0, 1]]), cells, np.array([0])) is None
    cells = np.array([0, 1])
    assert balance_of(np.array([[0, 1], [1, 0]]), cells, np.array([0, 1])) is None
    assert balance_of(np.array([[0, 0], [1, 1]]), cells, np.array([0, 1])) is not None
