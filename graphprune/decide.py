"""Deciding what leaves: analysis, selection and plan, heads first and then dims inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.planning import plan_from_removed
from graphprune.compose import compose
from graphprune.errors import UsageError
from graphprune.measure.size import NOT_WEIGHTS, count_parameters
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.costs import mac_function, whole_uses
from graphprune.onnx.shapes import Shapes, infer_shapes
from graphprune.options import Options
from graphprune.plan import Plan, Unpruned
from graphprune.rewrite import rewrite
from graphprune.rules.context import node_name
from graphprune.selection.cost import CostModel
from graphprune.selection.ratios import Policy, named, names
from graphprune.selection.select import Budget, select

Progress = Callable[..., None]

_DIMS = "/dims"
"""Ends the name of a group of dims inside heads; without it, it would be that of the heads."""


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
    _check_globs(model, graph, options)

    def outer(more: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return _plan(subject, graph, budget, policy, [*refused, *more]), graph

    plan, _ = outer(())
    if options.head_dims is None:
        return plan, graph
    bindings = [s.binding for s in shapes]
    plan, _, smaller = rewrite(model, bindings, plan, graph, outer)
    return compose(plan, _dims(replace(subject, model=smaller))), graph


def _check_globs(model: ir.Model, graph: DependencyGraph, options: Options) -> None:
    """A glob that names nothing is a slip of the pen."""
    known = {name for group in graph.groups for name in names(group)}
    known.update(site.owner for site in graph.sites)
    if options.head_dims is not None:
        known.update([f"{name}{_DIMS}" for name in known])
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        known.add(node_name(node))
        known.update(v.name or "" for v in (*node.inputs, *node.outputs) if v is not None)
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
        return CostModel(
            graph,
            mac_function(model, shapes[0]),
            count_parameters(model),
            whole=whole_uses(model, graph.sites),
            uncounted={n for n, v in initializers.items() if v.dtype in NOT_WEIGHTS},
        )

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
        unpruned=[*selection.left, *refused, *graph.unpruned],  # first what the user can change
        binding=shapes[0].binding,
    )


def _dims(subject: _Subject) -> Plan:
    """The plan that removes dims inside the heads of a model that lost some of its heads."""
    options = subject.options
    bindings = [s.binding for s in subject.shapes]
    shapes = [infer_shapes(subject.model, b) for b in bindings]
    subject = replace(subject, shapes=shapes)
    graph = analyse_graph(subject.model, shapes[0], shapes[1], blocks=False)
    graph = replace(graph, groups=tuple(replace(g, name=f"{g.name}{_DIMS}") for g in graph.groups))
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
    return plan


def initializers_of(model: ir.Model) -> dict[str, ir.Value]:
    """Every initializer by name, those of bodies included."""
    found = dict(model.graph.initializers)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found.update(attribute.as_graph().initializers)
    return found
