"""Activations that are kept between two stops: in memory as far as that goes, then in temporary files.

The files have no names, so that nothing is left of them however a process ends. One is written once and
read as often as its batch goes on, which is cheaper than computing what is in it again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]

FILES = 256
"""Files that one shelf has open, at most: a process may open about a thousand."""


@dataclass(frozen=True, eq=False)
class _Stored:
    """An array, or the file that holds it."""

    nbytes: int
    held: Array | IO[bytes]

    @property
    def where(self) -> str:
        return "memory" if isinstance(self.held, np.ndarray) else "disk"

    def read(self) -> Array:
        if isinstance(self.held, np.ndarray):
            return self.held
        self.held.seek(0)
        found: Array = np.load(self.held)
        return found

    def drop(self) -> None:
        if not isinstance(self.held, np.ndarray):
            self.held.close()


class Shelf:
    """Arrays by name, batch by batch.

    Args:
        memory: Bytes to keep in memory, at most.
        disk: Bytes to keep in temporary files beside, at most. They go with `close`.
    """

    def __init__(self, memory: int, disk: int) -> None:
        self._left = {"memory": memory, "disk": disk, "files": FILES}
        self._stored: dict[int, dict[str, _Stored]] = {}

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
                left["files"] += stored.where == "disk"
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
        for kept in self._stored.values():
            _drop(kept.values())
        self._stored.clear()

    def _store(self, array: Array, left: dict[str, int]) -> _Stored | None:
        size = array.nbytes
        if size <= left["memory"]:
            left["memory"] -= size
            return _Stored(size, array)
        if size > left["disk"] or array.dtype.hasobject or not left["files"]:
            return None
        file = None
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 (open for as long as it is kept)
            np.save(file, array)
            file.flush()
        except OSError:  # a full disk is no room
            if file is not None:
                with suppress(OSError):
                    file.close()
            return None
        left["files"] -= 1
        left["disk"] -= size
        return _Stored(size, file)


def _drop(stored: Iterable[_Stored]) -> None:
    for each in stored:
        each.drop()
