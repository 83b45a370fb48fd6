"""One group alone at one width: its plan, and the smaller model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.planning import plan_from_removed
from graphprune.onnx.shapes import Shapes, carried
from graphprune.onnx.subject import OnnxSubject
from graphprune.options import Options
from graphprune.passes.prune import PrunePass
from graphprune.passes.sizes import SizeError
from graphprune.plan import Plan
from graphprune.selection.ratios import Policy, split
from graphprune.selection.widths import counts_for, grid_of, kept_units

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Point:
    """One group at one width.

    Attributes:
        group: Its name.
        counts: Units kept of each of its cells.
        kept: The same as a fraction of all its units.
    """

    group: str
    counts: tuple[int, ...]
    kept: float


class Prober:
    """Prunes single groups of a model.

    Args:
        model: Canonical.
        shapes: Its sizes at two bindings.
        options: Alignment, and which groups are looked at.
    """

    def __init__(self, model: ir.Model, shapes: Sequence[Shapes], options: Options) -> None:
        grid = 16 if options.align == "auto" else int(options.align)
        self.graph = OnnxSubject(model, shapes, "").analyse(grid=grid)
        self._model = model
        self._shapes = shapes
        self._bindings = [s.binding for s in shapes]
        self._grid = grid_of(options.align)
        policy = Policy(only=options.only, exclude=options.exclude, residual=options.residual)
        self.groups, _, _ = split(self.graph.groups, policy)

    def points(self, fractions: Sequence[float]) -> list[Point]:
        """What there is to measure: each group at the widths of the grid next to the fractions."""
        found = []
        for group in self.groups:
            counts = dict.fromkeys(counts_for(group, f, self._grid) for f in fractions)
            for each in sorted(counts, key=sum):
                if sum(each) < group.size:
                    found.append(Point(group.name, each, sum(each) / group.size))
        return found

    def plan(self, point: Point, scores: Array) -> Plan:
        """The plan that prunes one group alone, units of the least `scores` first."""
        group = self.graph.by_name[point.group]
        kept = kept_units(group, scores, point.counts)
        gone = np.ones(group.size, bool)
        gone[kept] = False
        removed = np.zeros(self.graph.resolver.classes.count, bool)
        removed[group.units[gone]] = True
        return plan_from_removed(self.graph, removed, binding=self._bindings[0])

    def model(self, plan: Plan) -> ir.Model | None:
        """The model that a plan makes; None where its sizes cannot be followed."""
        pruned = self._model.clone()
        shapes = carried(self._shapes, self._model, pruned)
        try:
            PrunePass(plan, self._bindings, shapes)(pruned)
        except SizeError:
            return None
        except ir.passes.PassError as error:
            if isinstance(error.__cause__, SizeError):
                return None
            raise
        return pruned
