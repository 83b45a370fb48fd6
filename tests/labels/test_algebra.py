"""The primitives that need one tensor only: materialise, tie, reduce, balance, distinct, pin."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.labels import PINNED, Algebra, Factor, Labels


def classes(alg: Algebra, labels: np.ndarray) -> np.ndarray:
    return alg.space.solve().of[labels]


def pinned(alg: Algebra, labels: np.ndarray) -> np.ndarray:
    solved = alg.space.solve()
    return solved.pinned[solved.of[labels]]


def joint(alg: Algebra, *sizes: int) -> Factor:
    """A factor over all axes 0, 1, ... with labels of its own everywhere."""
    return Factor(tuple(range(len(sizes))), alg.space.fresh(sizes))


def test_factors_name_their_axes() -> None:
    factor = Factor((2, 0, 1), np.zeros((3, 4, 5), np.int32))
    assert factor.removal == 1
    assert factor.index == (2, 0)
    assert factor.renamed({0: 7, 1: 8, 2: 9}).axes == (9, 7, 8)


def test_over_puts_labels_into_a_larger_space() -> None:
    labels = np.arange(6).reshape(2, 3)
    factor = Factor((3, 1), labels)
    assert factor.over((1, 3)).tolist() == labels.T.tolist()
    assert factor.over((0, 1, 2, 3)).shape == (1, 3, 1, 2)
    assert factor.over((3, 1)).tolist() == labels.tolist()


def test_labels_find_their_factors() -> None:
    a, b = Factor((1,), np.zeros(4, np.int32)), Factor((0, 2), np.zeros((2, 3), np.int32))
    t = Labels((2, 4, 3), (a, b))
    assert t.rank == 3
    assert t.on(1) is a
    assert t.on(2) is b
    assert t.on(0) is None
    assert [t.tracked(i) for i in range(3)] == [True, True, True]
    assert t.with_factors((a,)).tracked(0) is False


def test_a_weight_gets_labels_on_every_axis_with_a_size() -> None:
    alg = Algebra()
    t = alg.materialise(Labels((4, 1, 3), weight=True))
    assert [f.axes for f in t.factors] == [(0,), (2,)]
    assert [f.labels.size for f in t.factors] == [4, 3]
    assert not t.weight
    same = Labels((4,), (Factor((0,), alg.space.fresh(4)),))
    assert alg.materialise(same) is same


def test_tie_along_an_index_axis_makes_all_rows_lose_the_same() -> None:
    alg = Algebra()
    factor = joint(alg, 3, 4)
    tied = alg.tie(factor, 0, "")
    assert tied is not None
    assert tied.axes == (1,)
    found = classes(alg, factor.labels)
    assert (found == found[0]).all()
    assert np.unique(found).size == 4


def test_tie_along_the_removal_axis_leaves_whole_blocks() -> None:
    alg = Algebra()
    factor = joint(alg, 3, 4)
    tied = alg.tie(factor, 1, "")
    assert tied is not None
    assert tied.axes == (0,)
    found = classes(alg, factor.labels)
    assert (found == found[:, :1]).all()
    assert np.unique(found).size == 3


def test_tie_of_a_sole_axis_pins_for_the_reason() -> None:
    alg = Algebra()
    alg.space.node = "softmax"
    factor = joint(alg, 5)
    assert alg.tie(factor, 0, "it is a softmax") is None
    assert pinned(alg, factor.labels).all()
    assert alg.space.pins[0][1].reason == "it is a softmax"
    assert alg.space.pins[0][1].node == "softmax"


def test_tie_across_several_axes() -> None:
    alg = Algebra()
    first, second = joint(alg, 3, 4), Factor((2,), alg.space.fresh(5))
    t = alg.tie_across(Labels((3, 4, 5), (first, second)), [0, 2], "a window")
    assert [f.axes for f in t.factors] == [(1,)]
    assert pinned(alg, second.labels).all()
    assert not pinned(alg, first.labels).any()
    untracked = Labels((3,))
    assert alg.tie_across(untracked, [0], "") is untracked


def test_tie_index_gives_one_set_for_all() -> None:
    alg = Algebra()
    tied = alg.tie_index(joint(alg, 2, 3, 4))
    assert tied.axes == (2,)
    assert tied.labels.shape == (4,)
    assert np.unique(classes(alg, tied.labels)).size == 4


def test_a_sum_drops_what_it_sums_over() -> None:
    alg = Algebra()
    factor = joint(alg, 5)
    assert alg.reduce([factor], [0]) == ()
    assert not pinned(alg, factor.labels).any()
    assert alg.balances == []


def test_a_sum_over_an_index_axis_ties_the_rows() -> None:
    alg = Algebra()
    factor = joint(alg, 3, 4)
    (left,) = alg.reduce([factor], [0])
    assert left.axes == (1,)
    found = classes(alg, factor.labels)
    assert (found == found[0]).all()


def test_a_sum_inside_blocks_that_stay_takes_whole_blocks_or_balances() -> None:
    whole = Algebra(blocks=True)
    factor = joint(whole, 3, 4)
    (left,) = whole.reduce([factor], [1])
    assert left.axes == (0,)
    assert np.unique(classes(whole, factor.labels)).size == 3

    inside = Algebra(blocks=False)
    factor = joint(inside, 3, 4)
    assert inside.reduce([factor], [1]) == ()
    assert np.unique(classes(inside, factor.labels)).size == 12
    (balance,) = inside.balances
    assert (balance[:, :4] == factor.labels).all()
    assert (balance[:, 4:] == PINNED).all(), "rows that stay cannot be emptied"

    over = Algebra(blocks=False)
    factor = joint(over, 3, 4)
    assert len(over.reduce([factor], [1], blocks=True)) == 1, "an op may overrule the mode"


def test_a_sum_over_blocks_and_inside_them_is_a_plain_sum() -> None:
    for blocks in (True, False):
        alg = Algebra(blocks=blocks)
        factor = joint(alg, 3, 4)
        assert alg.reduce([factor], [0, 1]) == ()
        assert np.unique(classes(alg, factor.labels)).size == 12


def test_factors_of_other_axes_pass_a_sum() -> None:
    alg = Algebra()
    kept, gone = Factor((0,), alg.space.fresh(3)), Factor((1,), alg.space.fresh(4))
    assert alg.reduce([kept, gone], [1]) == (kept,)


def test_of_two_factors_of_one_axis_the_weak_one_vanishes() -> None:
    for order in (1, -1):
        alg = Algebra()
        strong = Factor((0,), alg.space.fresh(4))
        weak = Factor((0,), alg.space.fresh(4, weak=True))
        assert alg.distinct([strong, weak][::order]) == (strong,)
        assert not pinned(alg, strong.labels).any()
        assert pinned(alg, weak.labels).all(), "a weight may have adopted them"


def test_two_factors_over_the_same_axes_are_one() -> None:
    alg = Algebra()
    a, b = Factor((0,), alg.space.fresh(4)), Factor((0,), alg.space.fresh(4))
    (left,) = alg.distinct([a, b])
    assert left is a
    assert (classes(alg, a.labels) == classes(alg, b.labels)).all()
    assert np.unique(classes(alg, a.labels)).size == 4


def test_two_removals_that_would_bind_each_other_leave_the_larger_free() -> None:
    """Three blocks of four on one axis: by block and by place inside it."""
    alg = Algebra()
    alg.space.node = "merge"
    blocks = Factor((0,), np.repeat(alg.space.fresh(3), 4))
    places = Factor((0,), np.tile(alg.space.fresh(4), 3))
    (left,) = alg.distinct([blocks, places])
    assert left is places
    assert pinned(alg, blocks.labels).all()
    assert not pinned(alg, places.labels).any()
    assert alg.space.pins[0][1].node == "merge"


def test_of_two_different_removals_of_one_axis_the_larger_stays() -> None:
    alg = Algebra()
    small, large = Factor((1,), alg.space.fresh(4)), Factor((0, 1), alg.space.fresh((3, 4)))
    for order in ([small, large], [large, small]):
        assert alg.distinct(order) == (large,)
    assert pinned(alg, small.labels).all()
    assert not pinned(alg, large.labels).any()


def test_factors_come_out_by_axis() -> None:
    alg = Algebra()
    a, b = Factor((2,), alg.space.fresh(2)), Factor((0,), alg.space.fresh(2))
    assert alg.distinct([a, b]) == (b, a)
    assert alg.distinct([]) == ()


def test_balances_are_noted_for_views_with_rows() -> None:
    alg = Algebra()
    factor = joint(alg, 2, 3)
    alg.balance(factor)
    alg.balance(Factor((0,), alg.space.fresh(4)))
    assert len(alg.balances) == 1
    assert alg.balances[0] is factor.labels


@pytest.mark.parametrize("many", [True, False])
def test_pin_takes_one_factor_or_several(many: bool) -> None:
    alg = Algebra()
    a, b = joint(alg, 3), joint(alg, 2)
    alg.pin([a, b] if many else a, "because")
    assert pinned(alg, a.labels).all()
    assert pinned(alg, b.labels).all() == many
