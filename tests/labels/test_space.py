"""Creating, equating, pinning and solving labels; equalities against a plain union-find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.labels.space import PINNED, LabelSpace, one_piece, unique


def test_fresh_labels_are_new_and_dense() -> None:
    space = LabelSpace()
    a, b = space.fresh(4), space.fresh((2, 3))
    assert a.dtype == b.dtype == np.int32
    assert b.shape == (2, 3)
    assert sorted([*a, *b.reshape(-1)]) == list(range(1, 11))
    assert PINNED not in a


def test_nothing_equated_leaves_every_label_alone() -> None:
    space = LabelSpace()
    labels = space.fresh(5)
    classes = space.solve()
    assert classes.count == 6
    assert np.unique(classes.of[labels]).size == 5
    assert classes.pinned.tolist().count(True) == 1, "the pinned label itself"


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 11), min_size=3, max_size=3), st.integers(0, 2)),
        max_size=8,
    )
)
def test_classes_are_the_connected_pieces(steps: list[tuple[list[int], int]]) -> None:
    space = LabelSpace()
    labels = np.concatenate([[PINNED], space.fresh(11)])
    parent = list(range(12))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for numbers, shift in steps:
        other = np.roll(numbers, shift)
        space.equate(labels[numbers], labels[other])
        for a, b in zip(numbers, other, strict=True):
            parent[find(a)] = find(int(b))
    classes = space.solve()
    for a in range(12):
        assert classes.pinned[classes.of[a]] == (find(a) == find(PINNED))
        for b in range(1, 12):
            if find(a) != find(PINNED):
                assert (classes.of[a] == classes.of[b]) == (find(a) == find(b))


def test_equate_broadcasts_and_says_whether_it_was_news() -> None:
    space = LabelSpace()
    grid, row = space.fresh((3, 4)), space.fresh(4)
    assert space.equate(grid, row)
    assert not space.equate(row, row)
    assert not space.equate(row, row.copy())
    of = space.solve().of
    assert (of[grid] == of[row]).all()
    assert np.unique(of[row]).size == 4


def test_equating_with_the_pinned_label_pins_with_a_reason() -> None:
    space = LabelSpace()
    space.node = "add"
    labels = space.fresh(3)
    space.equate(labels, np.array([PINNED, PINNED, labels[2]]))
    classes = space.solve()
    assert classes.pinned[classes.of[labels]].tolist() == [True, True, False]
    pin = space.pins[classes.pins[classes.of[labels[0]]]][1]
    assert pin.node == "add"
    assert "fixed size" in pin.reason


def test_the_first_pin_of_a_class_is_the_one_that_is_named() -> None:
    space = LabelSpace()
    a, b = space.fresh(2), space.fresh(2)
    for node, labels in (("late", b), ("early", a)):
        space.node = node
        space.pin(labels, f"because of {node}")
    space.equate(a, b)
    classes = space.solve()
    assert {space.pins[i][1].node for i in classes.pins[classes.of[a]]} == {"late"}
    assert classes.pins[classes.of[PINNED]] == -1


def test_pinning_the_pinned_or_nothing_is_no_event() -> None:
    space = LabelSpace()
    space.pin(np.array([PINNED, PINNED]), "again")
    space.pin(np.zeros(0, np.int32), "nothing")
    assert space.pins == []


def test_weak_labels_are_told_apart() -> None:
    space = LabelSpace()
    strong, weak = space.fresh(2), space.fresh(3, weak=True)
    assert space.weak(weak)
    assert not space.weak(strong)
    assert not space.weak(np.concatenate([strong, weak]))
    assert space.weak(np.array([PINNED]))
    assert space.weak(space.fresh(2, weak=True)), "made after the first question"


def test_producers_are_the_calls_that_made_labels() -> None:
    space = LabelSpace()
    a, _, c = space.fresh(3), space.fresh(4, weak=True), space.fresh((2, 2))
    assert len(space.producers(a)) == len(space.producers(a[:1])) == 1
    assert space.producers(a) != space.producers(c)
    assert space.producers(np.concatenate([a, c[0]])) == space.producers(a) | space.producers(c)
    assert space.producers(np.array([PINNED])) == set()
    assert space.producers(space.fresh(2, weak=True)) == set()


@given(st.lists(st.integers(-3, 9), max_size=20))
def test_unique_is_numpys(numbers: list[int]) -> None:
    array = np.array(numbers, np.int32)
    assert unique(array).tolist() == np.unique(array).tolist()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 1, 2, 2], [5, 6, 5, 6], True),  # every block meets every inner index
        ([1, 1, 2, 2], [5, 5, 6, 6], False),  # the same partition
        ([1, 2, 3], [4, 5, 6], False),
        ([1, 2, 3], [4, 4, 4], False),  # one of them is a single class already
        ([1, 2, 1, 3], [4, 4, 5, 5], True),
        ([1, 2, 1, 3], [4, 5, 4, 6], False),
    ],
)
def test_whether_two_labellings_bind_each_other_completely(
    a: list[int], b: list[int], expected: bool
) -> None:
    assert one_piece(np.array(a), np.array(b)) is expected
