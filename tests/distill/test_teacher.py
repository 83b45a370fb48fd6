"""What the original said stays in memory, as far as there is room, and is what it was."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from graphprune.distill import teacher as module
from graphprune.distill.teacher import Room

SHAPES = ((3, 50), (7,), (2, 0, 4), (), (40, 5))


def arrays(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    kinds = (np.float32, np.float64)
    return [np.asarray(rng.normal(size=s)).astype(kinds[i % 2]) for i, s in enumerate(SHAPES)]


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
def test_it_gives_back_what_it_was_given(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    room = Room(1 << 20)
    for key in range(20):
        given = arrays(key)
        room.keep(key, given)
        for array in given:
            array[...] = 0  # it has copies
    for key in range(20):
        found = room.find(key)
        assert found is not None
        for one, other in zip(found, arrays(key), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    room.clear()
    assert room.find(0) is None


def test_what_has_no_room_is_left_and_smaller_ones_still_come_in() -> None:
    room = Room(3000)
    room.keep("a", [np.ones(300)])
    room.keep("b", [np.ones(300)])
    room.keep("c", [np.ones(40)])
    assert room.find("a") is not None
    assert room.find("b") is None
    assert room.find("c") is not None
    room.clear()
    room.keep("b", [np.ones(300)])
    assert room.find("b") is not None


def test_large_blocks_hold_it_all() -> None:
    """What an array needs beside its bytes would scatter over the heap."""
    room = Room(1 << 30)
    for key in range(300):
        room.keep(key, [np.ones((100, 1000), np.float32)])
    assert len(room._blocks) == 2
    (one,), (other,) = room.find(0) or [], room.find(1) or []
    assert other.ctypes.data - one.ctypes.data == 400_000
