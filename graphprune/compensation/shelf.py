"""Activations that are kept between two stops: in memory as far as that goes, then in a temporary folder.

A file is written once and read as often as its batch goes on, which is cheaper than computing what is in
it again: about 1 GB/s, and the pages that were written last are in memory anyway.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class _Stored:
    """An array, or the file that holds it."""

    nbytes: int
    held: Array | Path

    @property
    def where(self) -> str:
        return "disk" if isinstance(self.held, Path) else "memory"

    def read(self) -> Array:
        return np.load(self.held) if isinstance(self.held, Path) else self.held


class Shelf:
    """Arrays by name, batch by batch.

    Args:
        memory: Bytes to keep in memory, at most.
        disk: Bytes to keep in a temporary folder beside, at most. It goes with `close`.
    """

    def __init__(self, memory: int, disk: int) -> None:
        self._left = {"memory": memory, "disk": disk}
        self._stored: dict[int, dict[str, _Stored]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._written = 0

    def put(self, batch: int, values: Mapping[str, Array]) -> bool:
        """Keep `values` in place of what the batch had. False, and nothing changes, without room.

        What it had under the same name is taken to be the same array.
        """
        if not all(isinstance(a, np.ndarray) for a in values.values()):
            return False
        old = self._stored.get(batch, {})
        left = dict(self._left)
        for name, stored in old.items():
            if name not in values:
                left[stored.where] += stored.nbytes
        made: dict[str, _Stored] = {}
        for name, array in values.items():
            if name in old:
                made[name] = old[name]
                continue
            new = self._store(array, left)
            if new is None:
                _drop(s for n, s in made.items() if n not in old)
                return False
            made[name] = new
        _drop(s for n, s in old.items() if n not in values)
        self._stored[batch], self._left = made, left
        return True

    def get(self, batch: int) -> dict[str, Array]:
        """What the batch has."""
        return {name: stored.read() for name, stored in self._stored.get(batch, {}).items()}

    def used(self, where: str) -> int:
        """Bytes in `memory`, or on `disk`."""
        every = (s for kept in self._stored.values() for s in kept.values())
        return sum(s.nbytes for s in every if s.where == where)

    def close(self) -> None:
        """Let go of everything."""
        self._stored.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _store(self, array: Array, left: dict[str, int]) -> _Stored | None:
        size = array.nbytes
        if size <= left["memory"]:
            left["memory"] -= size
            return _Stored(size, array)
        if size > left["disk"] or array.dtype.hasobject:
            return None
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphprune-")
        file = Path(self._folder.name, f"{self._written}.npy")
        self._written += 1
        try:
            np.save(file, array)
        except OSError:  # a full disk is no room
            file.unlink(missing_ok=True)
            return None
        left["disk"] -= size
        return _Stored(size, file)


def _drop(stored: Iterable[_Stored]) -> None:
    for each in stored:
        if isinstance(each.held, Path):
            each.held.unlink(missing_ok=True)
