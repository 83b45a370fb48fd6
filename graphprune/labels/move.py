"""Primitives that rearrange one tensor: what Reshape, Transpose, Slice, Gather ... do to labels.

Invariant (order): kept elements stay in natural order, so that the pruned graph can run the same op
on the shorter tensor. Where an op would break that for some choices (merging axes against their
order, strided slices), the labels are tied until every choice is safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphprune.labels.tensor import Factor, Labels

if TYPE_CHECKING:
    from graphprune.labels.algebra import Algebra


def transpose(alg: Algebra, t: Labels, order: Sequence[int]) -> Labels:
    """Output axis i is input axis `order[i]`."""
    new = {old: position for position, old in enumerate(order)}
    shape = tuple(t.shape[a] for a in order)
    return Labels(shape, tuple(f.renamed(new) for f in t.factors))


def rename(alg: Algebra, t: Labels, axes: Mapping[int, int], shape: tuple[int, ...]) -> Labels:
    """Axis a becomes axis `axes[a]`; a tracked axis that has no new name must stay whole."""
    factors = []
    for factor in t.factors:
        current: Factor | None = factor
        for axis in factor.axes:
            if current is not None and axis not in axes and axis in current.axes:
                current = alg.tie(current, axis, "the axis disappears")
        if current is not None:
            factors.append(current.renamed(axes))
    return Labels(shape, alg.distinct(factors))


def segments(
    old: Sequence[int], new: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The finest pairing of runs of axes with equal products. Axes of size 1 pair among themselves.

    >>> segments((2, 12, 5), (2, 3, 4, 5))
    [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    """
    result: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and old[i] == 1 and j < len(new) and new[j] == 1:
            result.append(((i,), (j,)))
            i, j = i + 1, j + 1
            continue
        if i < len(old) and old[i] == 1:
            result.append(((i,), ()))
            i += 1
            continue
        if j < len(new) and new[j] == 1:
            result.append(((), (j,)))
            j += 1
            continue
        a, b = [i], [j]
        left, right = old[i], new[j]
        while left != right:
            if left < right:
                i += 1
                left *= old[i]
                a.append(i)
            else:
                j += 1
                right *= new[j]
                b.append(j)
        result.append((tuple(a), tuple(b)))
        i, j = i + 1, j + 1
    return result


def reshape(alg: Algebra, t: Labels, shape: tuple[int, ...]) -> Labels:
    """Row-major re-bracketing of axes."""
    if 0 in t.shape or 0 in shape:
        alg.pin(t.factors, "reshape of an empty tensor")
        return Labels(shape)
    pairs = segments(t.shape, shape)
    factors = [f for f in (_reshape_factor(alg, f, t.shape, shape, pairs) for f in t.factors) if f]
    for factor in factors:
        alg.balance(factor)
    return Labels(shape, alg.distinct(factors))


def _reshape_factor(
    alg: Algebra,
    factor: Factor,
    old: tuple[int, ...],
    new: tuple[int, ...],
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]],
) -> Factor | None:
    current: Factor | None = factor
    renamed: dict[int, tuple[int, ...]] = {}
    for before, after in pairs:
        if current is None:
            return None
        inside = [a for a in before if a in current.axes]
        if not inside:
            continue
        if not after:  # a tracked axis of size 1 is squeezed away
            current = alg.tie(current, inside[0], "an axis of one channel is squeezed away")
            continue
        if current.removal in inside:
            for axis in inside[inside.index(current.removal) + 1 :]:
                # Merged against its order: [dim, head] -> one axis. The same dims for every head.
                current = alg.tie(current, axis, "")
                assert current is not None
        if len(before) == len(after) == 1:
            renamed[before[0]] = after
    if current is None:
        return None
    # Rebuild: labels over (axes of each touched segment, expanded), then split as the new axes.
    touched = [(b, a) for b, a in pairs if any(x in current.axes for x in b)]
    position: dict[int, int] = {}
    full_axes: list[int] = []
    full_new: list[int] = []
    for before, after in touched:
        if len(before) == len(after) == 1:
            full_axes.append(before[0])
        else:
            full_axes.extend(before)
        full_new.extend(after)
    for place, axis in enumerate(full_axes):
        position[axis] = place
    array = current.over(tuple(full_axes))
    array = np.broadcast_to(array, [old[a] for a in full_axes]).reshape([new[a] for a in full_new])
    removal_new = next(a for b, a in touched if current.removal in b)
    outer = [a for a in full_new if a not in removal_new]
    order = [*outer, *removal_new]
    array = np.transpose(array, [full_new.index(a) for a in order])
    return normalised(alg, tuple(order), array)


def normalised(alg: Algebra, axes: tuple[int, ...], labels: np.ndarray) -> Factor | None:
    """Drop axes along which the labels do not vary; the innermost that is left is removed from."""
    kept = list(axes)
    for axis in axes:
        if len(kept) == 1:
            break
        position = kept.index(axis)
        first = np.take(labels, [0], axis=position)
        if (labels == first).all():
            labels = np.squeeze(first, axis=position)
            kept.remove(axis)
    return Factor(tuple(kept), np.ascontiguousarray(labels))


def slice_(alg: Algebra, t: Labels, axis: int, start: int, stop: int, step: int) -> Labels:
    """Elements `start, start + step, ...` before `stop` (numpy's meaning, indices non-negative).

    With a stride, whole strides leave: `x[::2]` and `x[1::2]` agree on pairs (0, 1), (2, 3), ...
    """
    picked = np.arange(start, stop, step)
    stride = abs(step)
    factors = []
    for factor in t.factors:
        if axis not in factor.axes:
            factors.append(factor)
            continue
        position = factor.axes.index(axis)
        if not picked.size:
            continue
        if axis == factor.removal:
            first = int(picked.min()) // stride * stride
            if stride > 1:
                index = np.arange(factor.labels.shape[-1])
                inside = (index >= first) & (index <= picked.max())
                leader = np.where(inside, index // stride * stride, index)
                alg.space.equate(factor.labels, factor.labels[..., leader])
            if factor.index:
                # One start serves all rows: as many must leave before it, and behind it, in each of
                # them. The whole row beside it makes no difference, unless it leaves as a whole.
                for piece in (factor.labels[..., :first], factor.labels[..., picked]):
                    alg.balances.append(np.concatenate([piece, factor.labels], axis=-1))
        labels = np.take(factor.labels, picked, axis=position)
        factors.append(Factor(factor.axes, np.ascontiguousarray(labels)))
    shape = tuple(picked.size if a == axis else n for a, n in enumerate(t.shape))
    return Labels(shape, tuple(factors))


def gather(alg: Algebra, t: Labels, axis: int, indices: np.ndarray) -> Labels:
    """Gather with indices known now: the axis is replaced by the axes of `indices`."""
    indices = np.where(indices < 0, indices + t.shape[axis], indices)
    grow = indices.ndim - 1
    new = {a: a if a < axis else a + grow for a in range(t.rank) if a != axis}
    places = tuple(range(axis, axis + indices.ndim))
    shape = (*t.shape[:axis], *indices.shape, *t.shape[axis + 1 :])
    factors: list[Factor] = []
    for factor in t.factors:
        if axis not in factor.axes:
            factors.append(factor.renamed(new))
            continue
        if axis == factor.removal:
            factor = alg.tie_index(factor)  # one list of indices serves all rows
            labels = factor.labels[indices]
            if not indices.ndim:
                alg.space.pin(labels, "a single channel is picked out")
                continue
            found = normalised(alg, places, labels)
        else:
            position = factor.axes.index(axis)
            labels = np.take(factor.labels, indices, axis=position)
            axes = [new.get(a, a) for a in factor.axes]
            axes[position : position + 1] = places
            found = normalised(alg, tuple(axes), labels) if axes else None
        if found:
            factors.append(found)
    return Labels(shape, alg.distinct(factors))


def pad(alg: Algebra, t: Labels, axis: int, before: int, after: int, *, zeros: bool) -> Labels:
    """Longer (or, where negative, shorter) by `before` and `after` at the ends of `axis`."""
    if not t.tracked(axis):
        size = t.shape[axis] + before + after
        return Labels(tuple(size if a == axis else n for a, n in enumerate(t.shape)), t.factors)
    if before < 0 or after < 0:
        t = slice_(alg, t, axis, max(0, -before), t.shape[axis] - max(0, -after), 1)
        before, after = max(0, before), max(0, after)
    size = t.shape[axis] + before + after
    factors = []
    for factor in t.factors:
        if axis not in factor.axes or not (before or after):
            factors.append(factor)
        elif axis != factor.removal:
            tied = alg.tie(factor, axis, "")
            assert tied is not None
            factors.append(tied)
        elif not zeros:
            alg.pin(factor, "padded with something other than a constant")
        else:
            rows = factor.labels.shape[:-1]
            ends = [
                np.broadcast_to(alg.space.fresh(n, weak=True), (*rows, n)) for n in (before, after)
            ]
            factors.append(
                Factor(factor.axes, np.concatenate([ends[0], factor.labels, ends[1]], axis=-1))
            )
    return Labels(tuple(size if a == axis else n for a, n in enumerate(t.shape)), tuple(factors))


def tile(alg: Algebra, t: Labels, repeats: Sequence[int]) -> Labels:
    """numpy.tile: every axis repeated as a whole."""
    shape = tuple(n * r for n, r in zip(t.shape, repeats, strict=True))
    factors = [Factor(f.axes, np.tile(f.labels, [repeats[a] for a in f.axes])) for f in t.factors]
    # An axis of one element that is repeated: a size without a weight behind it.
    for axis, (n, r) in enumerate(zip(t.shape, repeats, strict=True)):
        if n == 1 and r > 1 and not t.tracked(axis):
            factors.append(Factor((axis,), alg.space.fresh(r, weak=True)))
    return Labels(shape, alg.distinct(factors))


def broadcast(alg: Algebra, t: Labels, shape: tuple[int, ...]) -> Labels:
    """Expand to `shape` (at least t's rank): axes that grow get weak labels."""
    lead = len(shape) - t.rank
    factors = []
    for factor in t.factors:
        current: Factor | None = factor
        for axis in factor.axes:
            if current is not None and axis in current.axes and t.shape[axis] != shape[lead + axis]:
                current = alg.tie(current, axis, "an axis of one channel is broadcast")
        if current is not None:
            factors.append(current.renamed({a: a + lead for a in current.axes}))
    for axis, size in enumerate(shape):
        old = t.shape[axis - lead] if axis >= lead else 1
        if size > 1 and old == 1:
            factors.append(Factor((axis,), alg.space.fresh(size, weak=True)))
    return Labels(shape, alg.distinct(factors))
