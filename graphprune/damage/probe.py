"""One group alone at one width: the smaller model, and what it lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.damage.judge import Judge
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.shapes import Shapes, carried
from graphprune.onnx.subject import OnnxSubject
from graphprune.options import Options
from graphprune.passes.prune import PrunePass
from graphprune.passes.sizes import SizeError
from graphprune.plan import Plan
from graphprune.selection.criteria import scores as scored
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
    """Prunes single groups of a model and measures what that does to it.

    Args:
        model: Canonical.
        shapes: Its sizes at two bindings.
        options: Criterion, alignment, and which groups are looked at.
        judge: Measures damage.
        scores: Scores of the named groups, in place of the criterion's.
    """

    def __init__(
        self,
        model: ir.Model,
        shapes: Sequence[Shapes],
        options: Options,
        judge: Judge,
        scores: Callable[[DependencyGraph, Sequence[str]], Mapping[str, Array]] | None = None,
    ) -> None:
        subject = OnnxSubject(model, shapes, "")
        grid = 16 if options.align == "auto" else int(options.align)
        self.graph = subject.analyse(grid=grid)
        self.judge = judge
        self._model = model
        self._shapes = shapes
        self._bindings = [s.binding for s in shapes]
        self._grid = grid_of(options.align)
        policy = Policy(only=options.only, exclude=options.exclude, residual=options.residual)
        self.groups, _, _ = split(self.graph.groups, policy)
        names = [g.name for g in self.groups]
        if scores is not None:
            self.scores: Mapping[str, Array] = dict(scores(self.graph, names))
        else:
            self.scores = scored(self.groups, subject.weight, options.criterion, options.seed)

    def points(self, fractions: Sequence[float]) -> list[Point]:
        """What there is to measure: each group at the widths of the grid next to the fractions."""
        found = []
        for group in self.groups:
            counts = dict.fromkeys(counts_for(group, f, self._grid) for f in fractions)
            for each in sorted(counts, key=sum):
                if sum(each) < group.size:
                    found.append(Point(group.name, each, sum(each) / group.size))
        return found

    def plan(self, point: Point) -> Plan:
        """The plan that prunes one group alone."""
        group = self.graph.by_name[point.group]
        kept = kept_units(group, self.scores[group.name], point.counts)
        gone = np.ones(group.size, bool)
        gone[kept] = False
        removed = np.zeros(self.graph.resolver.classes.count, bool)
        removed[group.units[gone]] = True
        return plan_from_removed(self.graph, removed, binding=self._bindings[0])

    def model(self, point: Point, plan: Plan | None = None) -> ir.Model | None:
        """The model with one group alone pruned; None where its sizes cannot be followed."""
        plan = self.plan(point) if plan is None else plan
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

    def damage_of(self, model: ir.Model) -> float | None:
        """What a model made here loses; None where an output that is compared went with it."""
        try:
            return self.judge.damage(model)
        except UnsupportedModelError:
            return None
