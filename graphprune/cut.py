"""One axis of one tensor, shortened to the indices that stay: what a plan is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Cut:
    """One axis of one tensor, shortened to the indices that stay.

    Attributes:
        axis: The shortened axis (non-negative).
        size: Its length in the original, at the binding the plan was made with.
        kept: int64 indices in increasing order. Shape `(k,)`, or `(*block_sizes, k)` where blocks
            keep different sets: one row for each index of `blocks` (after the cuts of those axes).
        blocks: The axes that index the rows of `kept`, outermost first. Empty in the common case.
        dynamic: The length of the axis depends on a dynamic dimension (e.g. batch x heads merged);
            `kept` then holds for the plan's binding only.
    """

    axis: int
    size: int
    kept: np.ndarray
    blocks: tuple[int, ...] = ()
    dynamic: bool = False

    @property
    def count(self) -> int:
        """How many indices of the axis stay."""
        return int(self.kept.shape[-1])

    def take(self, array: np.ndarray) -> np.ndarray:
        """Shorten `array`; for a cut with blocks, the block axes must already be shortened."""
        if not self.blocks:
            return np.take(array, self.kept, axis=self.axis)
        shape = [1] * array.ndim
        for position, axis in enumerate(self.blocks):
            shape[axis] = self.kept.shape[position]
        shape[self.axis] = self.count
        order = np.argsort([*self.blocks, self.axis])
        index = np.transpose(self.kept, order).reshape(shape)
        target = list(array.shape)
        target[self.axis] = self.count
        return np.take_along_axis(array, np.broadcast_to(index, target), axis=self.axis)

    def to_json(self) -> dict[str, Any]:
        """One entry of the plan file; `kept` as (nested) lists."""
        data: dict[str, Any] = {"axis": self.axis, "size": self.size, "kept": self.kept.tolist()}
        if self.blocks:
            data["blocks"] = list(self.blocks)
        if self.dynamic:
            data["dynamic"] = True
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cut:
        """The inverse of `to_json`. Raises ValueError for indices that no axis has."""
        cut = cls(
            axis=int(data["axis"]),
            size=int(data["size"]),
            kept=np.asarray(data["kept"], dtype=np.int64),
            blocks=tuple(int(a) for a in data.get("blocks", ())),
            dynamic=bool(data.get("dynamic", False)),
        )
        kept = cut.kept
        if kept.ndim != len(cut.blocks) + 1 or min(cut.axis, *cut.blocks, 0) < 0:
            raise ValueError(f"kept has {kept.ndim} dimensions for {len(cut.blocks)} block axes")
        if (kept < 0).any() or (kept >= cut.size).any() or (np.diff(kept, axis=-1) <= 0).any():
            raise ValueError(f"kept is not increasing within an axis of {cut.size}")
        return cut


def take(array: np.ndarray, cuts: Iterable[Cut]) -> np.ndarray:
    """Apply several cuts to one array: plain ones first, then those indexed by blocks."""
    for cut in sorted(cuts, key=lambda c: (len(c.blocks), c.axis)):
        array = cut.take(array)
    return array


def pruned_shape(shape: Iterable[int], cuts: Iterable[Cut]) -> tuple[int, ...]:
    """The shape after `cuts`. A dynamic axis scales with its length at the present binding."""
    dims = list(shape)
    for cut in cuts:
        size = dims[cut.axis]
        dims[cut.axis] = cut.count if size == cut.size else size * cut.count // cut.size
    return tuple(dims)
