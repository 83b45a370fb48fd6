"""Which entries of a statistics node's input stay, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.certify.masks import joint, masks, surplus
from graphprune.cut import Cut

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Entries:
    """The first input of a statistics node, and which of its entries stay.

    Attributes:
        shape: Its dims in the original.
        held: Cuts whose indices hold at this binding: removed entries are masked.
        dropped: Cuts along dynamic axes at another binding: removed entries are zero, where they
            lie is not known, only how many.
    """

    shape: tuple[int, ...]
    held: tuple[Cut, ...]
    dropped: tuple[Cut, ...]

    def mask(self) -> Array | None:
        """True where an entry stays, broadcasting; None where that is not known or all stay."""
        parts = masks(self.held, self.shape)
        return joint(parts) if parts else None

    def surplus(self, axes: Sequence[int]) -> Array:
        """Counted / kept entries over `axes` for the held cuts."""
        return surplus(self.held, self.shape, axes)

    def ratio(self, axes: Sequence[int]) -> float:
        """Counted / kept entries over `axes` for all cuts; blocks keep equally many each."""
        cuts = (*self.held, *self.dropped)
        return float(np.prod([c.size / max(c.count, 1) for c in cuts if c.axis in axes]))

    def unseen(self, axes: Sequence[int]) -> float:
        """Counted / kept entries over `axes` for the dropped cuts."""
        return float(np.prod([c.size / max(c.count, 1) for c in self.dropped if c.axis in axes]))
