"""Cuts: arrays shortened along several axes, and along axes whose blocks keep different indices."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graphprune.cut import Cut, pruned_shape, take


@st.composite
def cut_arrays(draw: st.DrawFn) -> tuple[np.ndarray, list[Cut], np.ndarray]:
    """An array, cuts of it (plain, and one with blocks), and a mask of what stays."""
    rank = draw(st.integers(1, 4))
    shape = [draw(st.integers(1, 5)) for _ in range(rank)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = np.arange(np.prod(shape)).reshape(shape)
    alive = np.ones(shape, bool)
    cuts = []
    axes = rng.permutation(rank).tolist()
    plain = axes[: draw(st.integers(0, rank))]
    for axis in plain:
        kept = np.sort(rng.permutation(shape[axis])[: rng.integers(1, shape[axis] + 1)])
        cuts.append(Cut(axis, shape[axis], kept))
        mask = np.zeros(shape[axis], bool)
        mask[kept] = True
        alive &= mask.reshape([-1 if a == axis else 1 for a in range(rank)])
    free = [a for a in range(rank) if a not in plain]
    if free and rank > 1:
        axis = free[0]
        blocks = [a for a in rng.permutation(rank).tolist() if a != axis][: rng.integers(1, rank)]
        rows = [
            len(next((c.kept for c in cuts if c.axis == b), np.arange(shape[b]))) for b in blocks
        ]
        count = int(rng.integers(1, shape[axis] + 1))
        kept = np.stack(
            [np.sort(rng.permutation(shape[axis])[:count]) for _ in range(int(np.prod(rows)))]
        ).reshape(*rows, count)
        cuts.append(Cut(axis, shape[axis], kept, tuple(blocks)))
        mask = np.zeros(shape, bool)
        for index in np.ndindex(*rows):
            place: list[object] = [slice(None)] * rank
            for b, i in zip(blocks, index, strict=True):
                full = next((c.kept for c in cuts if c.axis == b), np.arange(shape[b]))
                place[b] = int(full[i])
            for k in kept[index]:
                place[axis] = int(k)
                mask[tuple(place)] = True
        alive &= mask
    rng.shuffle(cuts)
    return array, cuts, alive


@given(cut_arrays())
def test_take_keeps_what_the_cuts_name_in_order(case) -> None:
    array, cuts, alive = case
    found = take(array, cuts)
    assert found.shape == pruned_shape(array.shape, cuts)
    axis = next((c.axis for c in cuts if c.blocks), 0)  # fibres along it are cut one by one
    expected = np.moveaxis(array, axis, -1)[np.moveaxis(alive, axis, -1)]
    assert np.moveaxis(found, axis, -1).reshape(-1).tolist() == expected.tolist()


def test_cuts_by_two_block_axes_in_any_order() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    kept = np.array([[[0, 1], [2, 3], [0, 3]], [[1, 2], [0, 2], [1, 3]]])
    straight = Cut(2, 4, kept, (0, 1)).take(array)
    turned = Cut(2, 4, kept.transpose(1, 0, 2), (1, 0)).take(array)
    assert (straight == turned).all()
    assert straight[1, 2].tolist() == array[1, 2, [1, 3]].tolist()
    first = Cut(0, 2, np.moveaxis(np.array([[0], [1], [0]]), 0, 0)[:, :1], (1,)).take(array)
    assert first.shape == (1, 3, 4)
    assert first[0, 1].tolist() == array[1, 1].tolist()


def test_dynamic_axes_scale_with_the_binding() -> None:
    cut = Cut(0, 8, np.arange(6), dynamic=True)
    assert pruned_shape((8, 5), [cut]) == (6, 5)
    assert pruned_shape((12, 5), [cut]) == (9, 5)
    assert cut.count == 6
