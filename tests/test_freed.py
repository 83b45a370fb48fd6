"""What was freed goes back to the system, where the C library has a call for it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from graphprune import freed
from graphprune.freed import give_back


def resident() -> int:
    """Bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_blocks_leave_the_process() -> None:
    if freed._malloc_trim() is None:
        pytest.skip("another C library")
    np.ones(31 << 17)  # 31 MB, freed: from here on blocks of that size come from the heap
    blocks = [np.ones(1 << 17) for _ in range(200)]  # 1 MB each
    before = resident()
    del blocks[::2]
    give_back()
    assert resident() < before - (60 << 20)
    assert all(block[-1] == 1 for block in blocks)


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed, "_malloc_trim", lambda: None)
    give_back()
