"""From cuts to masks: which entries of an array stay, and how many of a statistic's.

Masks are made from the plan alone, by marking where the kept entries of an index array lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from graphprune.cut import Cut, take

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class MisfitError(ValueError):
    """A cut does not fit the tensor it is said to cut; the message says how."""


def fitting(
    cuts: Iterable[Cut], shape: Sequence[int], planned: bool
) -> tuple[tuple[Cut, ...], tuple[Cut, ...]]:
    """Split `cuts` into those that hold at `shape` and those that do not.

    Args:
        cuts: The cuts of one tensor.
        shape: Its dims in the original.
        planned: Whether `shape` is that of the plan's binding. If not, indices along an axis whose
            length depends on dynamic dims (and along blocks of such an axis) mean nothing.

    Raises:
        MisfitError: The plan is wrong about this tensor.
    """
    held: list[Cut] = []
    dropped: list[Cut] = []
    for cut in sorted(cuts, key=lambda c: (len(c.blocks), c.axis)):
        axes = (cut.axis, *cut.blocks)
        if not all(0 <= a < len(shape) for a in axes) or len(set(axes)) != len(axes):
            raise MisfitError(f"axis {cut.axis} by blocks {cut.blocks} of a {len(shape)}-d tensor")
        if cut.kept.ndim != 1 + len(cut.blocks):
            raise MisfitError(
                f"axis {cut.axis}: {cut.kept.ndim}-d indices, {len(cut.blocks)} blocks"
            )
        gone = {c.axis for c in dropped}
        if not planned and (cut.dynamic or gone.intersection(cut.blocks)):
            dropped.append(cut)
            continue
        rows = tuple(
            next((c.count for c in held if c.axis == axis), shape[axis]) for axis in cut.blocks
        )
        if shape[cut.axis] != cut.size or cut.kept.shape[:-1] != rows:
            if not planned and rows != cut.kept.shape[:-1]:
                dropped.append(cut)
                continue
            raise MisfitError(
                f"axis {cut.axis} is {shape[cut.axis]} long in {rows or 'no'} blocks, "
                f"the plan says {cut.size} in {cut.kept.shape[:-1] or 'no'} blocks"
            )
        if cut.kept.size and not 0 <= cut.kept.min() <= cut.kept.max() < cut.size:
            raise MisfitError(f"axis {cut.axis}: an index outside 0..{cut.size - 1}")
        if cut.count > 1 and (np.diff(cut.kept, axis=-1) <= 0).any():
            raise MisfitError(f"axis {cut.axis}: indices are not in increasing order")
        held.append(cut)
    return tuple(held), tuple(dropped)


def masks(cuts: Sequence[Cut], shape: Sequence[int]) -> list[Mask]:
    """Boolean arrays that broadcast against `shape`; an entry stays where all of them are true.

    Cuts that share no axis get a mask each, so that a weight cut on both sides needs two vectors
    and not a matrix.
    """
    parts: list[tuple[set[int], list[Cut]]] = []
    for cut in cuts:
        axes = {cut.axis, *cut.blocks}
        members = [cut]
        for part in [p for p in parts if p[0] & axes]:
            axes |= part[0]
            members = part[1] + members
            parts.remove(part)
        parts.append((axes, members))
    found = []
    for axes, members in parts:
        dims = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        index = np.arange(int(np.prod(dims))).reshape(dims)
        mask = np.zeros(dims, dtype=np.bool_)
        mask.reshape(-1)[take(index, members).reshape(-1)] = True
        found.append(mask)
    return found


def joint(parts: Sequence[Mask]) -> Mask:
    """One mask that is true where all of `parts` are."""
    return reduce(np.logical_and, parts)


def zeroed(array: np.ndarray[Any, Any], cuts: Sequence[Cut]) -> np.ndarray[Any, Any]:
    """A copy of `array` with zeros at every removed entry."""
    copy = np.array(array)
    for mask in masks(cuts, copy.shape):
        np.copyto(copy, np.zeros((), dtype=copy.dtype), where=~mask)
    return copy


def surplus(
    cuts: Sequence[Cut], shape: Sequence[int], axes: Iterable[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How much larger a reduction over `axes` counts than what is kept: size / kept, at least 1.

    A mean over everything times this is the mean over the kept entries, whatever the length of
    axes that were not cut. Broadcasts against `shape` (1 along `axes`); 1 where nothing is kept.
    """
    axes = set(axes)
    parts = masks(cuts, shape)
    if not parts:
        return np.ones([1] * len(shape))
    mask = joint(parts)
    reduced = tuple(a for a in axes if mask.shape[a] > 1)
    total = np.prod([mask.shape[a] for a in reduced], dtype=np.float64)
    kept = mask.sum(axis=reduced, keepdims=True, dtype=np.float64)
    return np.asarray(total / np.where(kept > 0, kept, total))
