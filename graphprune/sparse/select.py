"""Which single weights leave: the lowest scores, as many as were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphprune.errors import UsageError
from graphprune.passes.sparsify import Mask
from graphprune.sparse.weights import Weight

Array = np.ndarray[Any, Any]
Scores = Callable[[Weight], Array]

_ROWS = 1 << 20


def by_layer(weights: Sequence[Weight], scores: Scores, sparsity: float) -> dict[str, Mask]:
    """The same share of every weight."""
    masks = {}
    for weight in weights:
        masks[weight.name] = lowest(scores(weight), round(sparsity * weight.size))
    return masks


def by_count(weights: Sequence[Weight], scores: Scores, counts: Sequence[int]) -> dict[str, Mask]:
    """Of every weight as many as are given for it."""
    return {w.name: lowest(scores(w), n) for w, n in zip(weights, counts, strict=True)}


def lowest(scores: Array, count: int) -> Mask:
    """The `count` lowest of one weight, ties in its order."""
    return Mask.of(_lowest(scores.reshape(1, -1), count).reshape(scores.shape))


def by_output(weights: Sequence[Weight], scores: Scores, sparsity: float) -> dict[str, Mask]:
    """The same share of what each output of a layer is made of, as Wanda compares."""
    masks = {}
    for weight in weights:
        moved = np.moveaxis(scores(weight), weight.role.output, 0)
        rows = moved.reshape(moved.shape[0], -1)
        pruned = _lowest(rows, round(sparsity * rows.shape[1])).reshape(moved.shape)
        masks[weight.name] = Mask.of(np.moveaxis(pruned, 0, weight.role.output))
    return masks


def over_all(weights: Sequence[Weight], scores: Scores, sparsity: float) -> dict[str, Mask]:
    """One threshold over all weights: exactly the `sparsity` lowest, ties in graph order.

    The threshold is found digit by digit in the bits of the scores (a float that is not negative
    sorts as its bits do), so that the scores of one weight are in memory at a time.
    """
    count = round(sparsity * sum(w.size for w in weights))
    if not count:
        return {w.name: Mask.of(np.zeros(w.shape, bool)) for w in weights}
    high, below = _digit((_bits(scores(w)) >> 16 for w in weights), count)
    low, more = _digit(
        ((b & 0xFFFF)[b >> 16 == high] for b in (_bits(scores(w)) for w in weights)), count - below
    )
    threshold, ties = high << 16 | low, count - below - more
    masks = {}
    for weight in weights:
        bits = _bits(scores(weight))
        pruned = bits < threshold
        equal = np.flatnonzero(bits == threshold)[:ties]
        pruned[equal] = True
        ties -= equal.size
        masks[weight.name] = Mask.of(pruned.reshape(weight.shape))
    return masks


def n_of_m(
    weights: Sequence[Weight], scores: Scores, n: int, m: int, axis: int | None = None
) -> dict[str, Mask]:
    """Of every m elements in a row along an axis the n with the highest scores stay.

    Args:
        weights: To prune.
        scores: Of each.
        n: How many stay.
        m: Of how many.
        axis: None: the one that is summed over, of each weight its own.

    Raises:
        UsageError: m does not divide the axis of a weight.
    """
    for weight in weights:
        at = weight.role.reduction if axis is None else axis
        if not -len(weight.shape) <= at < len(weight.shape):
            raise UsageError(
                f"'{weight.name}' has no axis {at} (shape {list(weight.shape)}): choose another "
                f"--pattern-axis, or leave it with --exclude '{weight.name}'"
            )
        if weight.shape[at] % m:
            raise UsageError(
                f"{n}:{m} does not divide axis {at} of '{weight.name}' (shape "
                f"{list(weight.shape)}): choose another --pattern-axis, or leave it with "
                f"--exclude '{weight.name}'"
            )
    masks = {}
    for weight in weights:
        at = weight.role.reduction if axis is None else axis
        moved = np.moveaxis(scores(weight), at, -1)
        groups = moved.reshape(-1, m)
        pruned = np.concatenate(
            [_lowest(groups[i : i + _ROWS], m - n) for i in range(0, len(groups), _ROWS)]
        )
        masks[weight.name] = Mask.of(np.moveaxis(pruned.reshape(moved.shape), -1, at))
    return masks


def _lowest(rows: Array, count: int) -> Array:
    """The `count` lowest of each row; among equal ones the first."""
    pruned = np.zeros(rows.shape, bool)
    if count >= rows.shape[1]:
        pruned[:] = True
    elif count and rows.shape[1] <= 64:
        np.put_along_axis(pruned, rows.argsort(axis=1, kind="stable")[:, :count], True, axis=1)
    elif count:
        for row, mark in zip(rows, pruned, strict=True):
            threshold = np.partition(row, count - 1)[count - 1]
            np.less(row, threshold, out=mark)
            mark[np.flatnonzero(row == threshold)[: count - int(mark.sum())]] = True
    return pruned


def _bits(scores: Array) -> Array:
    return np.ascontiguousarray(scores, np.float32).reshape(-1).view(np.uint32)


def _digit(digits: Any, count: int) -> tuple[int, int]:
    """The 16 bits in which the count-th lowest lies, and how many lie below that."""
    total = np.zeros(1 << 16, np.int64)
    for part in digits:
        total += np.bincount(part, minlength=1 << 16)
    up_to = np.cumsum(total)
    digit = int(np.searchsorted(up_to, count))
    return digit, int(up_to[digit - 1]) if digit else 0
