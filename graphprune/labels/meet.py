"""The primitive that brings several tensors together in one iteration space.

An elementwise op is a meet after broadcasting. A contraction (Conv, MatMul, Einsum) is a meet over
all of its axes, followed by `Algebra.reduce`. A rule places its operands in the iteration space
(size 1 where an operand does not run over an axis) and gets back the factors of the result and, for
weights, the labels that each of them adopted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphprune.labels.tensor import Factor, Labels

if TYPE_CHECKING:
    from graphprune.labels.algebra import Algebra


@dataclass(frozen=True, eq=False)
class Met:
    """Result of a meet: its factors in the iteration space, and those of each operand.

    `merged` is True where the widths of different producers were joined.
    """

    shape: tuple[int, ...]
    factors: tuple[Factor, ...]
    operands: tuple[tuple[Factor, ...], ...]
    merged: bool = False

    @property
    def labels(self) -> Labels:
        """The result as a tensor in the iteration space."""
        return Labels(self.shape, self.factors)


def meet(
    alg: Algebra,
    operands: Sequence[Labels],
    *,
    contracted: Sequence[int] = (),
    create: Sequence[tuple[int, ...]] | None = None,
    blocks: bool | None = None,
) -> Met:
    """Let `operands`, all of the rank of the iteration space, meet.

    Args:
        operands: Labels in the iteration space.
        contracted: Axes that the op sums over afterwards.
        create: Axes (index axes, then removal axis) along which a weight creates labels, if nothing
            else runs there. None: every axis on which only weights have a size (elementwise).
        blocks: Overrides `Algebra.blocks` for this op.
    """
    blocks = alg.blocks if blocks is None else blocks
    rank = operands[0].rank
    shape = tuple(_broadcast_size([o.shape[a] for o in operands]) for a in range(rank))
    current = [list(_unbroadcast(alg, o, shape)) for o in operands]
    if blocks:
        _collapse(alg, operands, current, contracted)
    else:
        for i, factors in enumerate(current):
            for f in factors:
                if f.index and _needs_outer(f, i, operands, current, contracted):
                    alg.balance(f, rows_stay=True)
    _create(alg, operands, current, shape, create)

    merged = False
    result: list[Factor] = []
    removals = sorted({f.removal for factors in current for f in factors})
    for removal in removals:
        lead: Factor | None = None
        for factors in current:
            factor = next((f for f in factors if f.removal == removal), None)
            if factor is None:
                continue
            if lead is None:
                lead = factor
                continue
            if factor.labels is not lead.labels:
                made = alg.space.producers(factor.labels), alg.space.producers(lead.labels)
                merged |= bool(made[0] and made[1] and made[0] != made[1])
            lead = _join(alg, lead, factor)
        assert lead is not None
        for operand, factors in zip(operands, current, strict=True):
            if any(f.removal == removal for f in factors) or operand.shape[removal] == 1:
                continue
            if not operand.weight:
                alg.pin(lead, "it meets something of fixed size")
                continue
            for axis in lead.index:
                if operand.shape[axis] == 1:
                    tied = alg.tie(lead, axis, "")
                    assert tied is not None
                    lead = tied
            factors.append(lead)
        result.append(lead)
    return Met(shape, tuple(result), tuple(tuple(f) for f in current), merged)


def _broadcast_size(sizes: Sequence[int]) -> int:
    """What sizes of one axis broadcast to; an empty tensor (a dead branch has some) wins."""
    return 0 if 0 in sizes else max(sizes)


def _unbroadcast(alg: Algebra, t: Labels, shape: tuple[int, ...]) -> tuple[Factor, ...]:
    """A single tracked channel that is broadcast over many has to stay."""
    if all(t.shape[a] == shape[a] for f in t.factors for a in f.axes):
        return t.factors
    axes = [a for a in range(t.rank) if t.shape[a] != shape[a]]
    return alg.tie_across(t, axes, "a single channel is broadcast").factors


def _collapse(
    alg: Algebra,
    operands: Sequence[Labels],
    current: list[list[Factor]],
    contracted: Sequence[int],
) -> None:
    """Blocks give up their inner axis where the outer one is needed (see `Algebra.blocks`)."""
    changed = True
    while changed:
        changed = False
        for i, factors in enumerate(current):
            for k, factor in enumerate(factors):
                if len(factor.axes) > 1 and _needs_outer(factor, i, operands, current, contracted):
                    tied = alg.tie(factor, factor.removal, "")
                    assert tied is not None
                    factors[k] = tied
                    changed = True
            current[i] = list(alg.distinct(factors))


def _needs_outer(
    factor: Factor,
    own: int,
    operands: Sequence[Labels],
    current: list[list[Factor]],
    contracted: Sequence[int],
) -> bool:
    if factor.removal in contracted and set(factor.index) - set(contracted):
        return True
    for i, other in enumerate(operands):
        if i == own:
            continue
        full = [other.shape[a] > 1 for a in factor.axes]
        if any(full) and not all(full):
            return True
        if any(f.removal in factor.index for f in current[i]):
            return True
    return False


def _create(
    alg: Algebra,
    operands: Sequence[Labels],
    current: list[list[Factor]],
    shape: tuple[int, ...],
    create: Sequence[tuple[int, ...]] | None,
) -> None:
    """A weight makes labels on axes where it meets nothing."""
    if create is None:
        create = [(a,) for a in range(len(shape))]
    for axes in create:
        removal = axes[-1]
        if shape[removal] <= 1:
            continue
        wide = [i for i, o in enumerate(operands) if o.shape[removal] > 1]
        if not all(operands[i].weight for i in wide):
            continue
        if any(f.removal == removal for factors in current for f in factors):
            continue
        first = wide[0]
        index = tuple(a for a in axes[:-1] if operands[first].shape[a] > 1)
        labels = alg.space.fresh(tuple(shape[a] for a in (*index, removal)))
        made = Factor((*index, removal), labels)
        alg.balance(made)
        current[first].append(made)


def _join(alg: Algebra, a: Factor, b: Factor) -> Factor:
    """Equate two factors of one removal axis; the result keeps the index axes both have."""
    axes = (*dict.fromkeys((*a.index, *b.index)), a.removal)
    alg.space.equate(a.over(axes), b.over(axes))
    common = [x for x in a.index if x in b.axes]
    labels = a.labels
    for axis in reversed(range(len(a.index))):
        if a.index[axis] not in common:
            labels = np.take(labels, 0, axis=axis)
    return a if labels is a.labels else Factor((*common, a.removal), labels)
