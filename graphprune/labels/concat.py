"""Concatenation: labels along its axis are joined, along others the parts meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphprune.labels.move import normalised
from graphprune.labels.tensor import Factor, Labels

if TYPE_CHECKING:
    from graphprune.labels.algebra import Algebra


def concat(alg: Algebra, parts: Sequence[Labels], axis: int) -> tuple[Labels, tuple[Labels, ...]]:
    """Concatenation along `axis`: labels there are joined; along other axes the parts meet.

    Returns the result and the parts as they are now known (weights have adopted labels).
    """
    sizes = [p.shape[axis] for p in parts]
    shape = tuple(sum(sizes) if a == axis else n for a, n in enumerate(parts[0].shape))
    parts = _without_inner(alg, parts, axis) if alg.blocks else list(parts)
    result: list[Factor] = []
    found: list[list[Factor]] = [[] for _ in parts]

    along = [p.on(axis) for p in parts]
    if any(f is not None for f in along):
        index = tuple(dict.fromkeys(a for f in along if f is not None for a in f.index))
        pieces = []
        for i, (part, factor) in enumerate(zip(parts, along, strict=True)):
            if factor is None:
                if part.weight:
                    factor = Factor((axis,), alg.space.fresh(part.shape[axis]))
                else:
                    factor = Factor((axis,), np.zeros(part.shape[axis], np.int32))
            found[i].append(factor)
            pieces.append(factor.over((*index, axis)))
        rows = [shape[a] for a in index]
        joined = np.concatenate([np.broadcast_to(p, [*rows, p.shape[-1]]) for p in pieces], axis=-1)
        result.append(Factor((*index, axis), joined))

    removals = sorted({f.removal for p in parts for f in p.factors} - {axis})
    for removal in removals:
        factor = _concat_across(alg, parts, axis, removal, sizes, found)
        if factor is not None:
            result.append(factor)
    now = tuple(
        Labels(p.shape, tuple(f) if p.weight else p.factors)
        for p, f in zip(parts, found, strict=True)
    )
    return Labels(shape, alg.distinct(result)), now


def _without_inner(alg: Algebra, parts: Sequence[Labels], axis: int) -> list[Labels]:
    """Blocks give up their inner axis where another part has already done so, or has no blocks."""
    result = []
    for part in parts:
        factors = []
        for factor in part.factors:
            current: Factor | None = factor
            while (
                current is not None
                and current.index
                and current.removal != axis
                and any(_needs_outer(current, p) for p in parts)
            ):
                current = alg.tie(current, current.removal, "")
            if current is not None:
                factors.append(current)
        result.append(Labels(part.shape, alg.distinct(factors), part.weight))
    return result


def _needs_outer(factor: Factor, other: Labels) -> bool:
    """Whether `other` has no inner axis to give, or loses whole blocks."""
    if other.weight:
        return False
    return other.on(factor.removal) is None or any(other.on(a) is not None for a in factor.index)


def _concat_across(
    alg: Algebra,
    parts: Sequence[Labels],
    axis: int,
    removal: int,
    sizes: Sequence[int],
    found: list[list[Factor]],
) -> Factor | None:
    """The factor that removes from another axis than the one that is concatenated."""
    holders = [p.on(removal) for p in parts]
    joint = any(f is not None and axis in f.axes for f in holders) or all(n == 1 for n in sizes)
    index = tuple(dict.fromkeys(a for f in holders if f is not None for a in f.index if a != axis))
    if joint:
        axes = (*index, axis, removal)
        arrays = []
        for i, (part, factor) in enumerate(zip(parts, holders, strict=True)):
            if factor is None:
                size = part.shape[removal]
                labels = (
                    alg.space.fresh((sizes[i], size))
                    if part.weight
                    else np.zeros((1, size), np.int32)
                )
                factor = Factor((axis, removal), labels)
                if part.weight:
                    found[i].append(factor)
            arrays.append(factor.over(axes))
        rows = [max(a.shape[k] for a in arrays) for k in range(len(index))]
        full = [
            np.broadcast_to(a, [*rows, n, a.shape[-1]]) for a, n in zip(arrays, sizes, strict=True)
        ]
        return normalised(alg, axes, np.concatenate(full, axis=-2))
    common = [f for f in holders if f is not None]
    lead = _common_labels(alg, common)
    for i, (part, factor) in enumerate(zip(parts, holders, strict=True)):
        if factor is None:
            if part.weight:
                found[i].append(lead)
            else:
                alg.pin(lead, "it is concatenated with something of fixed size")
    return lead


def _common_labels(alg: Algebra, factors: Sequence[Factor]) -> Factor:
    """Equate factors of one removal axis; the result runs over the index axes common to all."""
    lead = factors[0]
    for other in factors[1:]:
        axes = tuple(dict.fromkeys((*lead.index, *other.index)))
        alg.space.equate(lead.over((*axes, lead.removal)), other.over((*axes, lead.removal)))
        for axis in lead.index:
            if axis not in other.axes:
                tied = alg.tie(lead, axis, "")
                assert tied is not None
                lead = tied
    return lead
