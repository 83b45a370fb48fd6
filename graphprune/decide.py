"""Deciding what leaves: analysis, selection and plan, heads first and then dims inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.compose import compose
from graphprune.measure.size import count_parameters
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.costs import mac_function
from graphprune.onnx.shapes import Shapes, infer_shapes
from graphprune.options import Options
from graphprune.plan import Plan, Unpruned
from graphprune.rewrite import rewrite
from graphprune.selection.cost import CostModel
from graphprune.selection.ratios import Policy
from graphprune.selection.select import Budget, select

Progress = Callable[..., None]


@dataclass(frozen=True, eq=False)
class _Subject:
    """What a plan is made for."""

    model: ir.Model
    shapes: Sequence[Shapes]
    options: Options
    sha256: str
    progress: Progress


def decide(
    model: ir.Model,
    shapes: Sequence[Shapes],
    options: Options,
    source_sha256: str,
    progress: Progress,
    refused: Sequence[Unpruned] = (),
) -> tuple[Plan, DependencyGraph]:
    """The plan for a canonical model, and the analysis it rests on.

    Args:
        model: Canonical; not changed.
        shapes: Its sizes at two bindings.
        options: What the user said.
        source_sha256: Hash of the file.
        progress: Told the stage.
        refused: Groups that turned out impossible to rewrite, to be left.

    Raises:
        UsageError: Unknown criterion, or a glob that names nothing in the model.
        UnreachableTargetError: The budget cannot be met.
    """
    progress("analyse")
    subject = _Subject(model, shapes, options, source_sha256, progress)
    grid = 16 if options.align == "auto" else int(options.align)
    graph = analyse_graph(model, shapes[0], shapes[1], grid=grid)
    budget = Budget(options.channels, options.params, options.macs)
    policy = Policy(
        only=options.only,
        exclude=options.exclude,
        group_ratio=options.group_ratio,
        residual=options.residual,
        heads=options.heads,
    )

    def outer(more: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return _plan(subject, graph, budget, policy, [*refused, *more]), graph

    plan, _ = outer(())
    if options.head_dims is None:
        return plan, graph
    bindings = [s.binding for s in shapes]
    plan, _, smaller = rewrite(model, bindings, plan, graph, outer)
    return compose(plan, _dims(replace(subject, model=smaller))), graph


def _plan(
    subject: _Subject,
    graph: DependencyGraph,
    budget: Budget,
    policy: Policy,
    refused: Sequence[Unpruned],
) -> Plan:
    model, shapes, options = subject.model, subject.shapes, subject.options
    subject.progress("select")
    initializers = initializers_of(model)

    def weight(name: str) -> np.ndarray:
        tensor = initializers[name].const_value
        assert tensor is not None
        return tensor.numpy()

    def cost() -> CostModel:
        return CostModel(graph, mac_function(model, shapes[0]), count_parameters(model))

    selection = select(
        graph,
        weight,
        budget,
        replace(policy, leave=policy.leave | {u.group for u in refused}),
        cost,
        criterion=options.criterion,
        scope=options.scope,
        align=options.align,
        seed=options.seed,
    )
    return plan_from_removed(
        graph,
        selection.removed,
        source_sha256=subject.sha256,
        choices=selection.choices,
        unpruned=[*graph.unpruned, *selection.left, *refused],
        binding=shapes[0].binding,
    )


def _dims(subject: _Subject) -> Plan:
    """The plan that removes dims inside the heads of a model that lost some of its heads."""
    options = subject.options
    bindings = [s.binding for s in subject.shapes]
    shapes = [infer_shapes(subject.model, b) for b in bindings]
    subject = replace(subject, shapes=shapes)
    graph = analyse_graph(subject.model, shapes[0], shapes[1], blocks=False)
    policy = Policy(
        only=options.only,
        exclude=options.exclude,
        head_dims=options.head_dims,
        leave=frozenset(g.name for g in graph.groups if g.kind != "head-dim"),
    )

    def inner(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        plan = _plan(subject, graph, Budget(), policy, refused)
        return replace(plan, unpruned=tuple(refused)), graph

    plan, _, _ = rewrite(subject.model, bindings, inner(())[0], graph, inner)
    named = [replace(g, name=f"{g.name}/dims") for g in plan.groups]
    left = [replace(u, group=f"{u.group}/dims") for u in plan.unpruned]
    return replace(plan, groups=tuple(named), unpruned=tuple(left))


def initializers_of(model: ir.Model) -> dict[str, ir.Value]:
    """Every initializer by name, those of bodies included."""
    found = dict(model.graph.initializers)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found.update(attribute.as_graph().initializers)
    return found
