"""From labels to what can leave: classes of labels, and each site's factors in terms of classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.analysis.site import Site
from graphprune.labels import Classes, Factor, LabelSpace

FIXED = -1
"""Class number of everything that stays."""


@dataclass(frozen=True, eq=False)
class Resolved:
    """A factor in terms of classes: removal axis last, index axes along which rows differ.

    Attributes:
        axes: As in `Factor`, without axes along which nothing varies.
        classes: Class of each element, FIXED where it stays.
    """

    axes: tuple[int, ...]
    classes: np.ndarray

    @property
    def removal(self) -> int:
        """The axis that gets shorter."""
        return self.axes[-1]

    @property
    def rows(self) -> np.ndarray:
        """[rows, elements of the removal axis]."""
        return self.classes.reshape(-1, self.classes.shape[-1])


class Resolver:
    """Turns factors into `Resolved` ones; equal label arrays give the same object.

    Attributes:
        classes: The solution of the label space.
        movable: Class -> whether it may leave at all.
        whole: Class that stays only because it is all there is along an axis -> one such site.
    """

    def __init__(self, space: LabelSpace, sites: Sequence[Site]) -> None:
        self.classes: Classes = space.solve()
        self.movable = ~self.classes.pinned
        strong = np.zeros(self.classes.count, bool)
        for site in sites:
            if site.strong:
                for factor in site.factors:
                    strong[self.classes.of[factor.labels]] = True
        self.movable &= strong
        self.whole: dict[int, Site] = {}
        self._cache: dict[tuple[int, tuple[int, ...]], Resolved | None] = {}
        self._keep: list[np.ndarray] = []
        self._fix_whole(sites)

    def _fix_whole(self, sites: Iterable[Site]) -> None:
        """A class that is all there is along an axis cannot leave: nothing would be left of it."""
        for _ in range(64):
            self._cache.clear()
            found = False
            seen: set[int] = set()
            for site in sites:
                for factor in site.factors:
                    resolved = self.resolve(factor)
                    if resolved is None or id(resolved) in seen:
                        continue
                    seen.add(id(resolved))
                    rows = resolved.rows
                    for row in np.flatnonzero(
                        (rows == rows[:, :1]).all(axis=1) & (rows[:, 0] >= 0)
                    ):
                        self.movable[rows[row, 0]] = False
                        self.whole.setdefault(int(rows[row, 0]), site)
                        found = True
            if not found:
                return

    def resolve(self, factor: Factor) -> Resolved | None:
        """The factor in terms of classes; None where nothing of it can leave."""
        key = (id(factor.labels), factor.axes)
        if key not in self._cache:
            self._keep.append(factor.labels)
            self._cache[key] = self._resolve(factor)
        return self._cache[key]

    def _resolve(self, factor: Factor) -> Resolved | None:
        classes = self.classes.of[factor.labels]
        classes = np.where(self.movable[classes], classes, FIXED).astype(np.int32)
        if (classes == FIXED).all():
            return None
        axes = list(factor.axes)
        while len(axes) > 1 and (classes == classes[..., :1]).all():
            classes = classes[..., 0]
            axes.pop()
        for axis in tuple(axes[:-1]):
            position = axes.index(axis)
            first = np.take(classes, [0], axis=position)
            if (classes == first).all():
                classes = np.squeeze(first, axis=position)
                axes.remove(axis)
        return Resolved(tuple(axes), np.ascontiguousarray(classes))

    def balanced(self, labels: Iterable[np.ndarray]) -> list[Resolved]:
        """Bare label arrays whose rows must balance, as far as anything can leave."""
        found = (self.resolve(Factor(tuple(range(a.ndim)), a)) for a in labels if a.size)
        return [r for r in found if r is not None and len(r.axes) > 1]
