"""Making a plan true; groups whose sizes cannot be followed are refused, and the plan made anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph, groups_at
from graphprune.decide import Again
from graphprune.passes.drop_empty import DropEmptyPass, EmptyError, emptied
from graphprune.passes.prune import PrunePass
from graphprune.passes.sizes import SizeError
from graphprune.plan import Plan, Unpruned


def rewrite(
    model: ir.Model,
    bindings: Sequence[Mapping[str, int]],
    plan: Plan,
    graph: DependencyGraph | None,
    again: Again,
) -> tuple[Plan, DependencyGraph | None, ir.Model]:
    """A smaller copy of `model`, and the plan that it follows.

    Args:
        model: Canonical; not changed.
        bindings: Two bindings of its dynamic dimensions, the plan's first.
        plan: What is wanted.
        graph: The analysis it rests on; None for a plan from outside, which is taken or refused as
            a whole.
        again: Makes another plan when groups turned out impossible to rewrite.

    Raises:
        UsageError: The plan names what the model does not have.
        SizeError: A size cannot be followed, and no group of the plan runs through it.
    """
    refused: list[Unpruned] = []
    while True:
        pruned = model.clone()
        try:
            PrunePass(plan, bindings)(pruned)
            if emptied(plan):
                DropEmptyPass(plan, model, bindings)(pruned)
            return plan, graph, pruned
        except (ir.passes.PassError, SizeError) as error:
            found = _size_error(error)
            if found is None:
                raise (error.__cause__ or error) from None
        known = {u.group for u in refused}
        through = []
        if graph is not None:
            concerned = _emptied_at(plan, found) or groups_at(graph, plan, found.node)
            through = [n for n in concerned if n not in known]
        if not through:
            raise found
        refused += [Unpruned(found.node, str(found), name) for name in through]
        plan, graph = again(refused)


def _emptied_at(plan: Plan, error: SizeError) -> list[str]:
    """Groups of which nothing was to be left, where that is what cannot be done."""
    whole = [g for g in plan.groups if not g.kept]
    for tensor in error.tensors if isinstance(error, EmptyError) else ():
        found = [g.name for g in whole if any(name == tensor for name, _ in g.members)]
        if found:
            return found
    return []


def _size_error(error: BaseException | None) -> SizeError | None:
    while error is not None:
        if isinstance(error, SizeError):
            return error
        error = error.__cause__
    return None
