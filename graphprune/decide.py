"""Deciding what leaves: analysis, selection and plan, heads first and then dims inside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
from graphprune.selection.cost import CostModel
from graphprune.selection.ratios import Policy
from graphprune.selection.select import Budget, select

Progress = Callable[..., None]


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
        UsageError: Unknown criterion.
        UnreachableTargetError: The budget cannot be met.
    """
    progress("analyse")
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
    plan = _plan(model, graph, shapes, options, budget, policy, source_sha256, progress, refused)
    if options.head_dims is None:
        return plan, graph
    inside = Policy(only=options.only, exclude=options.exclude, head_dims=options.head_dims)
    return _with_dims(model, plan, shapes, options, inside, progress, refused), graph


def _plan(
    model: ir.Model,
    graph: DependencyGraph,
    shapes: Sequence[Shapes],
    options: Options,
    budget: Budget,
    policy: Policy,
    source_sha256: str,
    progress: Progress,
    refused: Sequence[Unpruned],
) -> Plan:
    progress("select")
    initializers = initializers_of(model)

    def weight(name: str) -> np.ndarray:
        tensor = initializers[name].const_value
        assert tensor is not None
        return tensor.numpy()

    def cost() -> CostModel:
        return CostModel(graph, mac_function(model, shapes[0]), count_parameters(model))

    names = {u.group for u in refused}
    selection = select(
        graph,
        weight,
        budget,
        replace(policy, exclude=(*policy.exclude, *(n for n in names if n in graph.by_name))),
        cost,
        criterion=options.criterion,
        scope=options.scope,
        align=options.align,
        seed=options.seed,
    )
    left = [u for u in selection.left if u.group not in names]
    return plan_from_removed(
        graph,
        selection.removed,
        source_sha256=source_sha256,
        choices=selection.choices,
        unpruned=[*graph.unpruned, *left, *refused],
        binding=shapes[0].binding,
    )


def _with_dims(
    model: ir.Model,
    plan: Plan,
    shapes: Sequence[Shapes],
    options: Options,
    policy: Policy,
    progress: Progress,
    refused: Sequence[Unpruned],
) -> Plan:
    """Prune dims inside the heads that `plan` keeps; the result composes both."""
    from graphprune.passes.prune import PrunePass

    smaller = model.clone()
    PrunePass(plan, [s.binding for s in shapes])(smaller)
    sizes = [infer_shapes(smaller, s.binding) for s in shapes]
    graph = analyse_graph(smaller, sizes[0], sizes[1], blocks=False)
    dims = [g.name for g in graph.groups if g.kind == "head-dim"]
    others = tuple(g.name for g in graph.groups if g.name not in dims)
    inside = _plan(
        smaller,
        graph,
        sizes,
        options,
        Budget(),
        replace(policy, exclude=(*policy.exclude, *others)),
        plan.source_sha256,
        progress,
        refused,
    )
    named = [replace(g, name=f"{g.name}/dims") for g in inside.groups]
    return compose(plan, replace(inside, groups=tuple(named), unpruned=()))


def initializers_of(model: ir.Model) -> dict[str, ir.Value]:
    """Every initializer by name, those of bodies included."""
    found = dict(model.graph.initializers)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                found.update(attribute.as_graph().initializers)
    return found
