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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def test_memory_first_then_disk_then_no_room(folder: Path) -> None:
    kept = Shelf(400, 800)
    assert kept.put(0, {"a": array(100)})
    assert (kept.used("memory"), kept.used("disk"), files(folder)) == (400, 0, [])
    assert kept.put(1, {"a": array(100, 1), "b": array(100, 2)})
    assert (kept.used("memory"), kept.used("disk"), len(files(folder))) == (400, 800, 2)
    assert not kept.put(2, {"a": array(1)})
    assert kept.get(2) == {}
    np.testing.assert_array_equal(kept.get(0)["a"], array(100))
    np.testing.assert_array_equal(kept.get(1)["b"], array(100, 2))
    kept.close()
    assert list(folder.iterdir()) == []


def test_what_is_replaced_makes_room_and_what_stays_is_not_written_again(folder: Path) -> None:
    kept = Shelf(0, 800)
    assert kept.put(0, {"a": array(100), "b": array(100, 1)})
    before = {p.name for p in files(folder)}
    assert kept.put(0, {"b": array(100, 1), "c": array(100, 2)})
    after = {p.name for p in files(folder)}
    assert len(before & after) == 1
    assert len(after) == 2
    assert set(kept.get(0)) == {"b", "c"}
    np.testing.assert_array_equal(kept.get(0)["b"], array(100, 1))
    kept.close()


def test_without_room_nothing_changes(folder: Path) -> None:
    kept = Shelf(0, 500)
    assert kept.put(0, {"a": array(100)})
    assert not kept.put(0, {"b": array(20), "c": array(200)})
    assert set(kept.get(0)) == {"a"}
    assert len(files(folder)) == 1
    assert kept.put(0, {"b": array(120)})  # the room that `b` was given is free again
    kept.close()


def test_a_full_disk_is_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, values: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(shelf.np, "save", full)
    kept = Shelf(0, 1000)
    assert not kept.put(0, {"a": array(10)})
    assert kept.get(0) == {}
    assert files(folder) == []
    kept.close()


def test_what_is_no_array_or_holds_objects_is_not_written(folder: Path) -> None:
    kept = Shelf(0, 1000)
    assert not kept.put(0, {"a": [array(1)]})  # type: ignore[dict-item]
    assert not kept.put(0, {"a": np.array(["x"], object)})
    assert Shelf(100, 0).put(0, {"a": np.array(["x"], object)})
