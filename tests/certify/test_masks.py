"""Masks from cuts: against brute force over every entry."""

from __future__ import annotations

import numpy as np
import pytest
from certify_case import cut
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.certify.masks import MisfitError, fitting, joint, masks, surplus, zeroed
from graphprune.cut import take


def marked(shape, cuts) -> np.ndarray:
    """Brute force: an entry stays if its own number is among what `take` keeps."""
    index = np.arange(int(np.prod(shape))).reshape(shape)
    return np.isin(index, take(index, cuts))


@st.composite
def shapes_and_cuts(draw):
    shape = tuple(draw(st.lists(st.integers(2, 4), min_size=3, max_size=4)))
    cuts = []
    for axis, size in enumerate(shape):
        if draw(st.booleans()):
            kept = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size))
            cuts.append(cut(axis, size, sorted(kept)))
    plain = {c.axis: c.count for c in cuts}
    free = [a for a in range(len(shape)) if a not in plain]
    if free and draw(st.booleans()):
        axis = draw(st.sampled_from(free))
        block = draw(st.sampled_from([a for a in range(len(shape)) if a != axis]))
        rows, k = plain.get(block, shape[block]), draw(st.integers(1, shape[axis]))
        picks = st.permutations(range(shape[axis])).map(lambda p: sorted(p[:k]))
        cuts.append(cut(axis, shape[axis], [draw(picks) for _ in range(rows)], blocks=(block,)))
    return shape, tuple(cuts)


@given(shapes_and_cuts())
@settings(max_examples=200, deadline=None)
def test_masks_mark_what_take_keeps(case) -> None:
    shape, cuts = case
    held, dropped = fitting(cuts, shape, planned=True)
    assert not dropped
    parts = masks(held, shape)
    mask = joint(parts) if parts else np.ones((1,) * len(shape), dtype=bool)
    assert np.array_equal(np.broadcast_to(mask, shape), marked(shape, cuts))
    array = np.random.default_rng(0).standard_normal(shape)
    zeros = zeroed(array, held)
    assert np.array_equal(zeros, np.where(marked(shape, cuts), array, 0.0))
    assert np.array_equal(take(zeros, cuts), take(array, cuts))


@given(shapes_and_cuts(), st.data())
@settings(max_examples=100, deadline=None)
def test_surplus_turns_a_mean_into_the_mean_over_what_is_kept(case, data) -> None:
    shape, cuts = case
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    array = np.random.default_rng(1).standard_normal(shape) + 2.0
    stays = marked(shape, cuts)
    got = np.where(stays, array, 0.0).mean(axis=axes, keepdims=True) * surplus(cuts, shape, axes)
    count = stays.sum(axis=axes, keepdims=True)
    want = np.where(stays, array, 0.0).sum(axis=axes, keepdims=True) / np.maximum(count, 1)
    assert np.allclose(got, want)


def test_independent_cuts_stay_vectors() -> None:
    parts = masks([cut(0, 4, [1]), cut(2, 5, [0, 3])], (4, 3, 5))
    assert sorted(p.shape for p in parts) == [(1, 1, 5), (4, 1, 1)]


def test_dynamic_cuts_hold_at_the_planned_sizes_only() -> None:
    plain, moving = cut(1, 3, [0, 2]), cut(0, 8, [0, 1, 4, 5], dynamic=True)
    inner = cut(2, 2, [[0], [1], [0], [1]], blocks=(0,))
    assert fitting([plain, moving, inner], (8, 3, 2), planned=True)[1] == ()
    held, dropped = fitting([plain, moving, inner], (12, 3, 2), planned=False)
    assert held == (plain,)
    assert set(dropped) == {moving, inner}
    # The same length at another binding is an accident: rows are others.
    assert fitting([moving], (8, 3, 2), planned=False) == ((), (moving,))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (cut(3, 4, [0]), "axis 3"),
        (cut(0, 5, [0]), "is 4 long"),
        (cut(0, 4, [0, 4]), "outside"),
        (cut(0, 4, [2, 1]), "increasing order"),
        (cut(0, 4, [1, 1]), "increasing order"),
        (cut(0, 4, [[0], [1]], blocks=(1,)), "in .3,. blocks"),
        (cut(0, 4, [0, 1], blocks=(1,)), "1-d indices"),
        (cut(0, 4, [[0]], blocks=(0,)), "blocks"),
    ],
)
def test_cuts_that_do_not_fit(bad, message: str) -> None:
    with pytest.raises(MisfitError, match=message):
        fitting([bad], (4, 3), planned=True)
