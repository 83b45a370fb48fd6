"""The state of one analysis and the primitives that need nothing else: create, tie, pin, reduce.

Primitives that rearrange one tensor are in `move`, those that bring several together in `concat` and `meet`;
`Algebra` gathers them under one name, which is what op rules speak to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from graphprune.labels import concat as _concat
from graphprune.labels import meet as _meet
from graphprune.labels import move as _move
from graphprune.labels.space import PINNED, LabelSpace, one_piece, unique
from graphprune.labels.tensor import Factor, Labels

_MERGED = "two independent removals would share one axis"


class Algebra:
    """What op rules speak to.

    Attributes:
        space: The labels.
        blocks: Whether a factor `(block, inner)` gives up its inner axis where an op needs the
            outer one: whole heads and groups leave (True), or dims inside them (False).
        grid: Multiple that the channels inside a group should be; where there are fewer than two
            of them, whole groups leave instead.
        balances: Label arrays whose rows (last axis) must lose equally many.
        hints: Label arrays and what their units are called (`head`, `group`, `hidden`).
    """

    def __init__(self, *, blocks: bool = True, grid: int = 16) -> None:
        self.space = LabelSpace()
        self.blocks = blocks
        self.grid = grid
        self.balances: list[np.ndarray] = []
        self.hints: list[tuple[np.ndarray, str]] = []

    # -- creating -------------------------------------------------------------------------------

    def materialise(self, t: Labels) -> Labels:
        """An initializer that is moved before it meets anything: its own labels on every axis."""
        if not t.weight:
            return t
        factors = tuple(
            Factor((axis,), self.space.fresh(size)) for axis, size in enumerate(t.shape) if size > 1
        )
        return Labels(t.shape, factors)

    # -- removing freedom -----------------------------------------------------------------------

    def pin(self, factors: Factor | Iterable[Factor], reason: str) -> None:
        """Everything that `factors` track has to stay."""
        for factor in [factors] if isinstance(factors, Factor) else factors:
            self.space.pin(factor.labels, reason)

    def tie(self, factor: Factor, axis: int, reason: str) -> Factor | None:
        """One label along `axis`. Of a sole axis nothing remains: it is pinned, for `reason`."""
        if len(factor.axes) == 1:
            self.pin(factor, reason)
            return None
        position = factor.axes.index(axis)
        first = np.take(factor.labels, [0], axis=position)
        self.space.equate(factor.labels, first)
        return Factor(tuple(a for a in factor.axes if a != axis), np.squeeze(first, axis=position))

    def tie_across(self, t: Labels, axes: Sequence[int], reason: str) -> Labels:
        """Nothing may differ along `axes` (a convolution's window, a softmax)."""
        if not t.factors:
            return t
        factors = []
        for factor in t.factors:
            current: Factor | None = factor
            for axis in axes:
                if current is not None and axis in current.axes:
                    current = self.tie(current, axis, reason)
            if current is not None:
                factors.append(current)
        return Labels(t.shape, self.distinct(factors))

    def tie_index(self, factor: Factor) -> Factor:
        """The same set for every index: what an op needs that has one list of indices for all."""
        for axis in factor.index:
            tied = self.tie(factor, axis, "")
            assert tied is not None
            factor = tied
        return factor

    def reduce(
        self, factors: Iterable[Factor], axes: Sequence[int], *, blocks: bool | None = None
    ) -> tuple[Factor, ...]:
        """A sum over `axes`, neutral to removed zeros: drops factors that remove from them.

        A factor that merely is indexed by a reduced axis is tied across it. A block whose inner
        axis is summed while the block stays gives up its inner axis (see `blocks`).
        """
        blocks = self.blocks if blocks is None else blocks
        result = []
        for factor in factors:
            current = factor
            while blocks and current.removal in axes and set(current.index) - set(axes):
                tied = self.tie(current, current.removal, "")
                assert tied is not None
                current = tied
            if current.removal in axes:
                self.balance(current, rows_stay=bool(set(current.index) - set(axes)))
                continue
            for axis in current.index:
                if axis in axes:
                    tied = self.tie(current, axis, "")
                    assert tied is not None
                    current = tied
            result.append(current)
        return self.distinct(result)

    def balance(self, factor: Factor, *, rows_stay: bool = False) -> None:
        """Every index must lose equally many: for views that are never a tensor of the graph.

        Where all of a row is one class, the row itself may leave; with `rows_stay` it may not.
        """
        if not factor.index:
            return
        labels = factor.labels
        if rows_stay:  # something in every row that stays
            stays = np.full((*labels.shape[:-1], 1), PINNED, labels.dtype)
            labels = np.concatenate([labels, stays], axis=-1)
        self.balances.append(labels)

    def distinct(self, factors: Iterable[Factor]) -> tuple[Factor, ...]:
        """At most one factor for each removal axis: weak ones vanish, else the larger stays."""
        by_axis: dict[int, Factor] = {}
        for factor in factors:
            other = by_axis.get(factor.removal)
            if other is None:
                by_axis[factor.removal] = factor
            elif self.space.weak(factor.labels):
                # Pinned, not forgotten: a weight may have met these labels and adopted them.
                self.pin(factor, _MERGED)
            elif self.space.weak(other.labels):
                self.pin(other, _MERGED)
                by_axis[factor.removal] = factor
            elif other.axes == factor.axes and not one_piece(other.labels, factor.labels):
                self.space.equate(other.labels, factor.labels)
            else:
                small, large = sorted((other, factor), key=lambda f: unique(f.labels).size)
                self.pin(small, _MERGED)
                by_axis[factor.removal] = large
        return tuple(by_axis[a] for a in sorted(by_axis))

    def settle(self, factors: Iterable[Factor]) -> tuple[Factor, ...]:
        """An axis that each row shortens in its own way cannot index the rows of another factor.

        Such an index axis is tied: with `(a, b)` and `(b, c)` the same of c leave for all b.
        """
        result = list(factors)
        ragged = {f.removal for f in result if f.index}
        for i, factor in enumerate(result):
            for axis in factor.index:
                if axis in ragged:
                    tied = self.tie(result[i], axis, "")
                    assert tied is not None
                    result[i] = tied
        return tuple(result)

    transpose = _move.transpose
    reshape = _move.reshape
    rename = _move.rename
    slice = _move.slice_
    gather = _move.gather
    concat = _concat.concat
    pad = _move.pad
    tile = _move.tile
    broadcast = _move.broadcast
    meet = _meet.meet


Rule = Callable[..., None]
