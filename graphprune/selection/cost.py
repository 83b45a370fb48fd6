"""Parameters and MACs of an allocation, without building the pruned graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.analysis.resolve import FIXED

Counts = Mapping[str, Sequence[int]]
"""Group name -> units kept of each cell."""


@dataclass(frozen=True, eq=False)
class _Axis:
    """Length of one axis: `fixed + sum multiplicity * kept[variable]`."""

    axis: int
    size: int
    fixed: int
    variables: np.ndarray
    multiplicity: np.ndarray

    def length(self, kept: np.ndarray) -> int:
        return self.fixed + int(self.multiplicity @ kept[self.variables])


class CostModel:
    """Sizes of every site as a function of how many units stay.

    Args:
        graph: The analysis.
        macs: Multiply-adds, given new shapes of activations and of initializer uses: a function of
            `{name: shape}` and `{(node, input): shape}`.
        base_params: Parameters of the whole model.
    """

    def __init__(
        self,
        graph: DependencyGraph,
        macs: Callable[[dict[str, tuple[int, ...]], dict[tuple[str, int], tuple[int, ...]]], int],
        base_params: int,
    ) -> None:
        self._macs = macs
        self._base = base_params
        self._variables: dict[tuple[str, int], int] = {}
        class_variable = np.full(graph.resolver.classes.count, -1)
        for group in graph.groups:
            for c, cell in enumerate(group.cells):
                number = len(self._variables)
                self._variables[group.name, c] = number
                class_variable[group.units[cell]] = number
        self._sites = []
        for site in graph.sites:
            axes = []
            for resolved in graph.resolved(site):
                row = resolved.rows[0]
                present = row[row != FIXED]
                variables = class_variable[present]
                numbers, first = np.unique(variables, return_index=True)
                multiplicity = np.array(
                    [int((present == present[i]).sum()) for i in first], np.int64
                )
                fixed = int((row == FIXED).sum())
                axes.append(_Axis(resolved.removal, row.size, fixed, numbers, multiplicity))
            if axes:
                self._sites.append((site, axes))

    def _kept(self, groups: Sequence[Group], counts: Counts) -> np.ndarray:
        kept = np.zeros(len(self._variables), np.int64)
        for group in groups:
            here = counts.get(group.name) or [c.size for c in group.cells]
            for c, count in enumerate(here):
                kept[self._variables[group.name, c]] = count
        return kept

    def __call__(self, groups: Sequence[Group], counts: Counts) -> tuple[int, int]:
        """(parameters, MACs) with the given units kept; groups not named keep all."""
        kept = self._kept(groups, counts)
        activations: dict[str, tuple[int, ...]] = {}
        uses: dict[tuple[str, int], tuple[int, ...]] = {}
        shared: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
        for site, axes in self._sites:
            shape = list(site.shape)
            for axis in axes:
                shape[axis.axis] = axis.length(kept)
            if site.is_weight:
                uses[site.node, site.input] = tuple(shape)
                before, after = int(np.prod(site.shape)), int(np.prod(shape))
                shared[site.name, tuple(shape)] = (before, after)
            else:
                activations[site.name] = tuple(shape)
        once: dict[str, int] = {}
        params = self._base
        for (name, _), (before, after) in shared.items():
            params += after - (before if name not in once else 0)
            once[name] = before
        return params, self._macs(activations, uses)
