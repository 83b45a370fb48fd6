"""The label state of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Factor:
    """Labels over some axes of a tensor; elements are removed from the last of `axes`.

    `axes` are ordered by significance, outermost first: `(head, dim)` removes dims, each head for
    itself. Their order need not be the order of positions (after a Transpose it may be reversed).

    Attributes:
        axes: Index axes, then the removal axis.
        labels: int32, one label for each element; shape = sizes of `axes` in that order.
    """

    axes: tuple[int, ...]
    labels: np.ndarray

    @property
    def removal(self) -> int:
        """The axis that gets shorter."""
        return self.axes[-1]

    @property
    def index(self) -> tuple[int, ...]:
        """The axes along which the sets that leave may differ."""
        return self.axes[:-1]

    def renamed(self, axes: Mapping[int, int]) -> Factor:
        """The same labels under other axis numbers."""
        return Factor(tuple(axes[a] for a in self.axes), self.labels)

    def over(self, axes: tuple[int, ...]) -> np.ndarray:
        """Labels with one dimension for each of `axes` (a superset), size 1 where not covered."""
        own = [a for a in axes if a in self.axes]
        array = np.transpose(self.labels, [self.axes.index(a) for a in own])
        sizes = dict(zip(own, array.shape, strict=True))
        return array.reshape([sizes.get(a, 1) for a in axes])


@dataclass(frozen=True, eq=False)
class Labels:
    """Shape and factors of a tensor; at most one factor for each removal axis.

    Attributes:
        shape: Concrete sizes.
        factors: What is tracked. Axes without a factor keep their length.
        weight: An initializer use that has met nothing yet: it adopts the labels of what it meets,
            and creates labels where it meets nothing.
    """

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()
    weight: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def on(self, axis: int) -> Factor | None:
        """The factor that removes from `axis`."""
        return next((f for f in self.factors if f.removal == axis), None)

    def tracked(self, axis: int) -> bool:
        """Whether any factor runs over `axis`."""
        return any(axis in f.axes for f in self.factors)

    def with_factors(self, factors: tuple[Factor, ...]) -> Labels:
        """The same tensor, tracked otherwise."""
        return replace(self, factors=factors)
