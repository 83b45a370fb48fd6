"""Deciding what leaves: analysis, selection and plan, heads first and then dims inside them.

Knows no ONNX and no torch: a front end says what it has by a `Subject`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.compose import compose
from graphprune.errors import UsageError
from graphprune.options import Options
from graphprune.plan import Plan, Unpruned
from graphprune.selection.budget import Cost
from graphprune.selection.copies import leave_growing
from graphprune.selection.cost import CostModel
from graphprune.selection.curves import Curves
from graphprune.selection.ratios import Policy, called, named, names
from graphprune.selection.select import Budget, select

Progress = Callable[..., None]
Again = Callable[[Sequence[Unpruned]], tuple[Plan, DependencyGraph]]
"""Decides once more, with the given groups left."""

_DIMS = "/dims"
"""Ends the name of a group of dims inside heads; without it, it would be that of the heads."""


class Subject(Protocol):
    """A model of some front end, as far as deciding needs to know it."""

    @property
    def sha256(self) -> str:
        """What tells whether a plan is for this model."""

    @property
    def binding(self) -> Mapping[str, int]:
        """Sizes of dynamic dimensions during the analysis."""

    def analyse(self, *, blocks: bool = True, grid: int = 16) -> DependencyGraph:
        """The groups (see `Algebra` for the arguments)."""

    def weight(self, name: str) -> np.ndarray:
        """Contents of an initializer."""

    def cost(self, graph: DependencyGraph) -> CostModel:
        """Parameters and MACs of an allocation."""

    def origins(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Initializers that are transposed weights of the source (see `Plan.origins`)."""

    def names(self) -> set[str]:
        """What else a glob may name: nodes, tensors, initializers."""

    def smaller(
        self, plan: Plan, graph: DependencyGraph, again: Again
    ) -> tuple[Plan, DependencyGraph | None, Subject]:
        """The model after `plan`; groups that cannot be rewritten are left (see `again`)."""


@dataclass(frozen=True, eq=False)
class _Task:
    """What a plan is made for."""

    subject: Subject
    options: Options
    progress: Progress
    measured: Measured


Scores = Callable[[DependencyGraph, Sequence[str]], Mapping[str, np.ndarray]]
"""Scores of the units of the named groups, in place of those of `Options.criterion`."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured on the model for the decision.

    Attributes:
        scores: Of data or gradients.
        curves: Damage of each group alone, for widths of least damage.
        latency: From the analysis to predicted milliseconds of an allocation.
        scores_of: Makes `scores` for another model, that without some of its heads.
    """

    scores: Scores | None = None
    curves: Curves | None = None
    latency: Callable[[DependencyGraph], Cost] | None = None
    scores_of: Callable[[Subject], Scores] | None = None


def decide(
    subject: Subject,
    options: Options,
    progress: Progress,
    refused: Sequence[Unpruned] = (),
    measured: Measured | None = None,
) -> tuple[Plan, DependencyGraph]:
    """The plan for a model, and the analysis it rests on.

    Args:
        subject: The model; not changed.
        options: What the user said.
        progress: Told the stage.
        refused: Groups that turned out impossible to rewrite, to be left.
        measured: What is known beyond the weights.

    Raises:
        UsageError: Unknown criterion, or a glob that names nothing in the model.
        UnreachableTargetError: The budget cannot be met.
    """
    progress("analyse")
    task = _Task(subject, options, progress, measured or Measured())
    grid = 16 if options.align == "auto" else int(options.align)
    graph = subject.analyse(grid=grid)
    budget = Budget(options.channels, options.params, options.macs, options.latency)
    policy = Policy(
        only=options.only,
        exclude=options.exclude,
        group_ratio=options.group_ratio,
        residual=options.residual,
        heads=options.heads,
    )
    check_globs(subject, graph, options)

    def outer(more: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return _plan(task, graph, budget, policy, [*refused, *more]), graph

    plan, _ = outer(())
    if options.head_dims is None:
        return plan, graph
    plan, _, smaller = subject.smaller(plan, graph, outer)
    return compose(plan, _dims(replace(task, subject=smaller))), graph


def check_globs(subject: Subject, graph: DependencyGraph, options: Options) -> None:
    """A glob that names nothing is a slip of the pen. Raises UsageError with its option."""
    known = {name for group in graph.groups for name in names(group)}
    known.update(site.owner for site in graph.sites)
    if options.head_dims is not None:
        known.update([f"{name}{_DIMS}" for name in known])
    known |= subject.names()
    given = {
        "--only": options.only,
        "--exclude": options.exclude,
        "--group-ratio": [glob for glob, _ in options.group_ratio],
    }
    for option, globs in given.items():
        for glob in globs:
            if not any(named(name, glob) for name in known):
                raise UsageError(
                    f"{option} '{glob}' names no group, layer, node, tensor or initializer of the "
                    "model: graphprune inspect lists them"
                )


def _plan(
    task: _Task,
    graph: DependencyGraph,
    budget: Budget,
    policy: Policy,
    refused: Sequence[Unpruned],
) -> Plan:
    subject, options = task.subject, task.options
    task.progress("select")
    scores, latency = task.measured.scores, task.measured.latency
    selection = select(
        graph,
        subject.weight,
        budget,
        replace(policy, leave=policy.leave | {u.group for u in refused}),
        lambda: subject.cost(graph),
        criterion=options.criterion,
        scope=options.scope,
        align=options.align,
        seed=options.seed,
        scored=None if scores is None else lambda names: scores(graph, names),
        curves=task.measured.curves,
        latency=None if latency is None else lambda: latency(graph),
    )
    if not budget.of_model:  # these say themselves what is to get less
        wanted = {name for glob, _ in policy.group_ratio for name in called(graph.groups, glob)}
        selection = leave_growing(graph, selection, subject.cost(graph), wanted)
    plan = plan_from_removed(
        graph,
        selection.removed,
        source_sha256=subject.sha256,
        choices=selection.choices,
        unpruned=[*selection.left, *refused, *graph.unpruned],  # first what the user can change
        binding=subject.binding,
    )
    cut = {use.initializer for use in plan.initializers}
    return replace(plan, origins={n: o for n, o in subject.origins().items() if n in cut})


def _dims(task: _Task) -> Plan:
    """The plan that removes dims inside the heads of a model that lost some of its heads."""
    subject, options = task.subject, task.options
    if task.measured.scores_of is not None:
        scores = task.measured.scores_of(subject)
        task = replace(task, measured=replace(task.measured, scores=scores))
    graph = subject.analyse(blocks=False)
    graph = replace(graph, groups=tuple(replace(g, name=f"{g.name}{_DIMS}") for g in graph.groups))
    policy = Policy(
        only=options.only,
        exclude=options.exclude,
        head_dims=options.head_dims,
        leave=frozenset(g.name for g in graph.groups if g.kind != "head-dim"),
    )

    def inner(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        plan = _plan(task, graph, Budget(), policy, refused)
        return replace(plan, unpruned=tuple(refused)), graph

    plan, _, _ = subject.smaller(inner(())[0], graph, inner)
    return plan
