"""What is kept comes back as it was, within the limits, and leaves nothing behind."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphprune.compensation import shelf
from graphprune.compensation.shelf import Shelf


def array(size: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def used(kept: Shelf) -> tuple[int, int]:
    return kept.used("memory"), kept.used("disk")


def test_memory_first_then_disk_then_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = Shelf(400, 800)
    assert kept.put(0, {"a": array(100)})
    assert used(kept) == (400, 0)
    assert kept.put(1, {"a": array(100, 1), "b": array(100, 2)})
    assert used(kept) == (400, 800)
    assert not kept.put(2, {"a": array(1)})
    assert kept.get(2) == {}
    for _ in range(2):  # a file is read as often as one likes
        np.testing.assert_array_equal(kept.get(0)["a"], array(100))
        np.testing.assert_array_equal(kept.get(1)["a"], array(100, 1))
        np.testing.assert_array_equal(kept.get(1)["b"], array(100, 2))
    assert list(tmp_path.iterdir()) == []  # the files have no names
    kept.close()
    assert used(kept) == (0, 0)


def test_what_is_replaced_makes_room_and_what_stays_is_not_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[int] = []
    save = np.save
    monkeypatch.setattr(shelf.np, "save", lambda f, a: written.append(len(a)) or save(f, a))
    kept = Shelf(0, 800)
    assert kept.put(0, {"a": array(100), "b": array(99, 1)})
    assert kept.put(0, {"b": array(99, 1), "c": array(98, 2)})
    assert written == [100, 99, 98]
    assert set(kept.get(0)) == {"b", "c"}
    np.testing.assert_array_equal(kept.get(0)["b"], array(99, 1))
    np.testing.assert_array_equal(kept.get(0)["c"], array(98, 2))
    kept.close()


def test_without_room_nothing_changes() -> None:
    kept = Shelf(0, 500)
    assert kept.put(0, {"a": array(100)})
    assert not kept.put(0, {"b": array(20), "c": array(200)})
    assert set(kept.get(0)) == {"a"}
    assert used(kept) == (0, 400)
    assert kept.put(0, {"b": array(120)})  # the room that `b` was given is free again
    kept.close()


def test_no_more_files_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "FILES", 2)
    kept = Shelf(0, 10000)
    assert kept.put(0, {"a": array(10), "b": array(10)})
    assert not kept.put(1, {"a": array(10)})
    assert kept.put(0, {"a": array(10)})
    assert kept.put(1, {"a": array(10)})
    kept.close()


def test_a_full_disk_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []

    def full(file: Any, values: Any) -> None:
        files.append(file)
        raise OSError("no space left on device")

    monkeypatch.setattr(shelf.np, "save", full)
    kept = Shelf(0, 1000)
    assert not kept.put(0, {"a": array(10)})
    assert kept.get(0) == {}
    assert all(file.closed for file in files)


def test_what_is_no_array_or_holds_objects_is_not_written() -> None:
    kept = Shelf(0, 1000)
    assert not kept.put(0, {"a": [array(1)]})  # type: ignore[dict-item]
    assert not kept.put(0, {"a": np.array(["x"], object)})
    assert Shelf(100, 0).put(0, {"a": np.array(["x"], object)})
