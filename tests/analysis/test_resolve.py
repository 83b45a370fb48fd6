"""From labels to classes: what may leave at all, and factors without axes that do not vary."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.analysis.resolve import FIXED, Resolver
from graphprune.analysis.site import Site
from graphprune.labels import Factor, LabelSpace


def site(*factors: Factor, shape: tuple[int, ...] = (8,), strong: bool = True) -> Site:
    return Site("w", "n", "Op", 1 if strong else -1, shape, factors, frozenset(), strong, 0)


def test_only_classes_with_a_weight_behind_them_may_leave() -> None:
    space = LabelSpace()
    a, b = space.fresh(4), space.fresh(4)
    weight, activation = Factor((0,), a), Factor((0,), b)
    resolver = Resolver(space, [site(weight), site(activation, strong=False)])
    assert resolver.movable[resolver.classes.of[a]].all()
    assert not resolver.movable[resolver.classes.of[b]].any()
    assert resolver.resolve(activation) is None
    found = resolver.resolve(weight)
    assert found is not None
    assert found.classes.tolist() == resolver.classes.of[a].tolist()


def test_pinned_elements_are_fixed_and_the_rest_may_leave() -> None:
    space = LabelSpace()
    a = space.fresh(5)
    space.pin(a[:2], "because")
    found = Resolver(space, [site(Factor((0,), a))]).resolve(Factor((0,), a))
    assert found is not None
    assert (found.classes[:2] == FIXED).all()
    assert np.unique(found.classes[2:]).size == 3


def test_all_pinned_is_nothing() -> None:
    space = LabelSpace()
    a = space.fresh(5)
    space.pin(a, "because")
    factor = Factor((0,), a)
    assert Resolver(space, [site(factor)]).resolve(factor) is None


def test_what_is_all_there_is_along_an_axis_has_to_stay() -> None:
    space = LabelSpace()
    a, b = space.fresh(4), space.fresh(3)
    space.equate(a, a[:1])  # one class: the axis would be empty without it
    holder = site(Factor((0,), a))
    resolver = Resolver(space, [holder, site(Factor((0,), b))])
    number = int(resolver.classes.of[a[0]])
    assert not resolver.movable[number]
    assert resolver.whole == {number: holder}
    assert resolver.resolve(Factor((0,), a)) is None
    assert resolver.resolve(Factor((0,), b)) is not None


def test_an_axis_of_one_element_stays() -> None:
    space = LabelSpace()
    factor = Factor((0,), space.fresh(1))
    assert Resolver(space, [site(factor)]).resolve(factor) is None


def test_one_row_that_is_a_single_class_keeps_that_class() -> None:
    """Two blocks of three: the first block's elements leave together, so they stay."""
    space = LabelSpace()
    a = space.fresh((2, 3))
    space.equate(a[0], a[0, :1])
    factor = Factor((0, 1), a)
    resolver = Resolver(space, [site(factor)])
    found = resolver.resolve(factor)
    assert found is not None
    assert (found.classes[0] == FIXED).all()
    assert np.unique(found.classes[1]).size == 3


@pytest.mark.parametrize("axes", [(0, 1), (3, 2)])
def test_index_axes_along_which_nothing_varies_are_dropped(axes: tuple[int, int]) -> None:
    space = LabelSpace()
    a = space.fresh((4, 6))
    space.equate(a, a[:1])
    found = Resolver(space, [site(Factor(axes, a))]).resolve(Factor(axes, a))
    assert found is not None
    assert found.axes == axes[1:]
    assert found.classes.shape == (6,)
    assert found.rows.shape == (1, 6)


def test_a_removal_axis_along_which_nothing_varies_gives_way_to_the_blocks() -> None:
    """Whole heads: every element of a head has the head's label."""
    space = LabelSpace()
    a = space.fresh((4, 6))
    space.equate(a, a[:, :1])
    factor = Factor((1, 2), a)
    found = Resolver(space, [site(factor)]).resolve(factor)
    assert found is not None
    assert found.axes == (1,)
    assert found.removal == 1
    assert found.classes.tolist() == Resolver(space, [site(factor)]).classes.of[a[:, 0]].tolist()


def test_the_middle_of_three_axes_may_be_dropped() -> None:
    space = LabelSpace()
    a = space.fresh((2, 3, 4))
    space.equate(a, a[:, :1])
    found = Resolver(space, [site(Factor((0, 1, 2), a))]).resolve(Factor((0, 1, 2), a))
    assert found is not None
    assert found.axes == (0, 2)
    assert found.classes.shape == (2, 4)


def test_rows_put_the_removal_axis_last() -> None:
    space = LabelSpace()
    a = space.fresh((2, 3, 4))
    factor = Factor((0, 1, 2), a)
    found = Resolver(space, [site(factor)]).resolve(factor)
    assert found is not None
    assert found.rows.shape == (6, 4)
    assert found.rows.tolist() == found.classes.reshape(6, 4).tolist()


def test_equal_arrays_are_resolved_once() -> None:
    space = LabelSpace()
    a = space.fresh(4)
    resolver = Resolver(space, [site(Factor((0,), a))])
    assert resolver.resolve(Factor((0,), a)) is resolver.resolve(Factor((0,), a))
    assert resolver.resolve(Factor((0,), a)) is not resolver.resolve(Factor((1,), a))


def test_balanced_arrays_are_those_whose_rows_differ() -> None:
    space = LabelSpace()
    a, b, flat = space.fresh((2, 3)), space.fresh((2, 3)), space.fresh(5)
    space.equate(b, b[:1])
    factors = [Factor((0, 1), a), Factor((0, 1), b), Factor((0,), flat)]
    resolver = Resolver(space, [site(f) for f in factors])
    (found,) = resolver.balanced([a, b, flat, np.zeros((0, 3), np.int32)])
    assert found.classes.tolist() == resolver.classes.of[a].tolist()
