"""Parameters and MACs of an allocation, without building the pruned graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import prod

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.resolve import FIXED, Resolved
from graphprune.analysis.site import Site

Counts = Mapping[str, Sequence[int]]
"""Group name -> units kept of each cell."""

ActivationSizes = dict[str, tuple[int, ...]]
UseSizes = dict[tuple[str, int], tuple[int, ...]]
Macs = Callable[[ActivationSizes, UseSizes], int]
"""Multiply-adds of the model: from `{activation: shape}` and `{(node, input): shape}`."""


@dataclass(frozen=True, eq=False)
class _Axis:
    """Length of one axis: `fixed + sum multiplicity * kept[variable]`."""

    axis: int
    fixed: int
    variables: np.ndarray
    multiplicity: np.ndarray

    def length(self, kept: np.ndarray) -> int:
        return self.fixed + int(self.multiplicity @ kept[self.variables])


@dataclass(frozen=True, eq=False)
class _Sized:
    """A site and the axes of it that may get shorter.

    Attributes:
        content: Equal for two uses of one initializer exactly where they always keep the same.
    """

    site: Site
    axes: tuple[_Axis, ...]
    content: int

    def shape(self, kept: np.ndarray) -> tuple[int, ...]:
        shape = list(self.site.shape)
        for axis in self.axes:
            shape[axis.axis] = axis.length(kept)
        return tuple(shape)


class CostModel:
    """Sizes of every site as a function of how many units stay.

    Exact: what the rewriter makes of an allocation has these parameters and MACs, but for uses of
    one initializer that keep the same elements by chance only (they count once each).

    Attributes:
        whole: Initializers of which some use never gets shorter.
        uncounted: Initializers that are no parameters.

    Args:
        graph: The analysis.
        macs: Multiply-adds, given new shapes of activations and of initializer uses.
        base_params: Parameters of the whole model.
        whole: Initializers that something also reads without tracking.
        uncounted: Initializers that are no parameters (indices, masks).
    """

    def __init__(
        self,
        graph: DependencyGraph,
        macs: Macs,
        base_params: int,
        *,
        whole: Collection[str] = (),
        uncounted: Collection[str] = (),
    ) -> None:
        self._macs = macs
        self._base = base_params
        always = set(whole)
        self.uncounted = frozenset(uncounted)
        self._cells = {g.name: [int(c.size) for c in g.cells] for g in graph.groups}
        self._variables: dict[tuple[str, int], int] = {}
        class_variable = np.full(graph.resolver.classes.count, -1)
        for group in graph.groups:
            for c, cell in enumerate(group.cells):
                number = len(self._variables)
                self._variables[group.name, c] = number
                class_variable[group.units[cell]] = number
        contents: dict[bytes, int] = {}
        self._sites: list[_Sized] = []
        for site in graph.sites:
            found = graph.resolved(site)
            if found:
                digest = b"|".join(_digest(resolved) for resolved in found if site.is_weight)
                number = contents.setdefault(digest, len(contents))
                axes = tuple(_axis(resolved, class_variable) for resolved in found)
                self._sites.append(_Sized(site, axes, number))
            elif site.is_weight:
                always.add(site.name)
        self.whole = frozenset(always)
        weights = [s.site for s in self._sites if s.site.is_weight]
        self._originals = {site.name: prod(site.shape) for site in weights}

    def __call__(self, counts: Counts) -> tuple[int, int]:
        """(parameters, MACs) with the given units kept; groups not named keep all."""
        activations, uses = self.sizes(counts)
        copies: dict[str, dict[int, int]] = {}
        whole = set(self.whole)
        for sized in self._sites:
            site = sized.site
            if not site.is_weight:
                continue
            shape = uses[site.node, site.input]
            if shape == site.shape:
                whole.add(site.name)
            else:
                copies.setdefault(site.name, {})[sized.content] = prod(shape)
        params = self._base
        for name, sizes in copies.items():
            if name not in self.uncounted:
                params += sum(sizes.values()) - (0 if name in whole else self._originals[name])
        return params, self._macs(activations, uses)

    def sizes(self, counts: Counts) -> tuple[ActivationSizes, UseSizes]:
        """Shapes of activations and of initializer uses with the given units kept."""
        kept = self._kept(counts)
        activations: ActivationSizes = {}
        uses: UseSizes = {}
        for sized in self._sites:
            site = sized.site
            if site.is_weight:
                uses[site.node, site.input] = sized.shape(kept)
            else:
                activations[site.name] = sized.shape(kept)
        return activations, uses

    def _kept(self, counts: Counts) -> np.ndarray:
        kept = np.zeros(len(self._variables), np.int64)
        for name, cells in self._cells.items():
            for c, count in enumerate(counts.get(name) or cells):
                kept[self._variables[name, c]] = count
        return kept


def _axis(resolved: Resolved, class_variable: np.ndarray) -> _Axis:
    row = resolved.rows[0]
    present, times = np.unique(row[row != FIXED], return_counts=True)
    variables, first = np.unique(class_variable[present], return_index=True)
    return _Axis(resolved.removal, int((row == FIXED).sum()), variables, times[first])


def _digest(resolved: Resolved) -> bytes:
    shape = repr((resolved.axes, resolved.classes.shape)).encode()
    return blake2b(shape + resolved.classes.tobytes()).digest()
