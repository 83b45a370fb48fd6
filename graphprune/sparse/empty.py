"""Units of which pruning of single weights left nothing: they can leave physically.

A unit (channel, neuron, head) is empty where everything that makes it is zero, weights and biases,
or everything that reads it. The plan of all empty units goes through the compile pipeline like any
other, which proves that the smaller graph is the masked one; that the mask changes nothing is seen
by running both, and a group of which that is not true is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group, Member
from graphprune.analysis.ops import BATCH_NORMS
from graphprune.analysis.planning import plan_from_removed
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session, find_trials
from graphprune.onnx.shapes import default_bindings, shape_pair
from graphprune.passes.drop_empty import DropEmptyPass, emptied
from graphprune.passes.prune import PrunePass
from graphprune.plan import GroupChoice, Plan
from graphprune.selection.criteria import criterion_of
from graphprune.sparse.weights import prunable

Array = np.ndarray[Any, Any]

_EQUAL = 1e-5
"""Largest difference of outputs, relative to the largest output, that counts as float error."""


@dataclass(frozen=True)
class EmptyGroup:
    """Empty units of one group: its name, kind, size, the units, and whether they can leave."""

    name: str
    kind: str
    size: int
    units: tuple[int, ...]
    leave: bool
    why: str = ""


@dataclass(frozen=True, eq=False)
class Empty:
    """All empty units of a model, and the plan that removes those that can leave; None: none."""

    groups: tuple[EmptyGroup, ...]
    plan: Plan | None


def empty_units(model: Any, dims: Mapping[str, int] | None = None, seed: int = 0) -> Empty:
    """Find what pruning of single weights left empty.

    Args:
        model: A path or a model in memory.
        dims: Sizes of dynamic dimensions.
        seed: Of random inputs.

    Raises:
        UnsupportedModelError: The model cannot be analysed or run.
    """
    loaded = load(model)
    canonical = canonicalise(loaded.model)
    bindings = default_bindings(canonical, dims)
    graph = analyse_graph(canonical, *shape_pair(canonical, *bindings))
    values = {
        n: v
        for g in [canonical.graph, *canonical.graph.subgraphs()]
        for n, v in g.initializers.items()
        if v.const_value is not None and v.const_value.dtype != ir.DataType.STRING
    }
    readers = {(layer, w.name): w.role.reduction for w in prunable(canonical) for layer in w.layers}
    found: list[tuple[Group, Array, str]] = []
    for group in graph.groups:
        units, why = _empty_in(group, values, readers)
        if units.size:
            found.append((group, units, why))
    chosen = [(group, units) for group, units, why in found if not why]

    def plan_of(part: Sequence[tuple[Group, Array]]) -> Plan:
        return _plan(graph, part, loaded.sha256, bindings[0])

    if chosen and not _same(canonical, bindings, plan_of(chosen), dims, seed):
        chosen = [
            pair for pair in chosen if _same(canonical, bindings, plan_of([pair]), dims, seed)
        ]
    leaving = {group.name for group, _ in chosen}
    return Empty(
        tuple(
            EmptyGroup(
                group.name,
                group.kind,
                group.size,
                tuple(int(u) for u in units),
                group.name in leaving,
                why or ("" if group.name in leaving else "outputs would change"),
            )
            for group, units, why in found
        ),
        plan_of(chosen) if chosen else None,
    )


def _empty_in(
    group: Group, values: Mapping[str, ir.Value], readers: Mapping[tuple[str, str], int]
) -> tuple[Array, str]:
    """Empty units of a group; and why none of them can leave, if so."""
    made, read = np.ones(group.size, bool), np.ones(group.size, bool)
    makers = takers = 0
    for member in group.members:
        if not member.site.is_weight or member.site.name not in values:
            continue
        if member.site.op in BATCH_NORMS and member.site.input > 2:
            continue  # what scale and shift do not let through
        tensor = values[member.site.name].const_value
        assert tensor is not None
        zero = _zero(group, member, tensor.numpy())
        if readers.get((member.site.node, member.site.name)) == member.axis:
            read &= zero
            takers += 1
        else:
            made &= zero
            makers += 1
    empty = (made if makers else ~made) | (
        read if takers and not group.statistics else np.zeros(group.size, bool)
    )
    if not empty.any():
        return np.zeros(0, np.int64), ""
    stay = ~empty
    for cell in group.cells:
        if not stay[cell].any():  # a layer of width 0 is for --group-ratio to ask for
            stay[cell[0]] = True
    kept = np.array([stay[cell].sum() for cell in group.cells])
    units = np.flatnonzero(~stay)
    for balance in group.balances:
        if np.unique(balance.fixed + balance.counts @ kept).size > 1:
            return units, "blocks of it would keep different numbers"
    return units, ""


def _zero(group: Group, member: Member, array: Array) -> Array:
    """Units of which this weight holds nothing but zeros (or nothing at all)."""
    measure = criterion_of("l1")
    assert measure is not None
    sums, present = measure(group, member, array)
    zero = np.ones(group.size, bool)
    zero[present] = sums == 0
    return zero


def _plan(
    graph: DependencyGraph,
    part: Sequence[tuple[Group, Array]],
    sha256: str,
    binding: Mapping[str, int],
) -> Plan:
    removed = np.zeros(graph.resolver.classes.count, bool)
    choices = []
    for group, units in part:
        removed[group.units[units]] = True
        kept = np.setdiff1d(np.arange(group.size), units)
        members = tuple((m.site.name, m.axis) for m in group.members)
        choices.append(
            GroupChoice(
                group.name, group.kind, group.size, tuple(int(k) for k in kept), (), members
            )
        )
    plan = plan_from_removed(graph, removed, source_sha256=sha256, choices=choices, binding=binding)
    return replace(plan, unpruned=graph.unpruned)


def _same(
    model: ir.Model,
    bindings: Sequence[Mapping[str, int]],
    plan: Plan,
    dims: Mapping[str, int] | None,
    seed: int,
) -> bool:
    """Whether the model without these units computes what it computes with them."""
    smaller = model.clone()
    try:
        PrunePass(plan, bindings)(smaller)
        if emptied(plan):
            DropEmptyPass(plan, model, bindings)(smaller)
        with Session(model) as before, Session(smaller) as after:
            for trial in find_trials(model, dims, seed, before):
                outputs = after.run(trial.feeds)
                for name, array in trial.outputs.items():
                    if not close(array, outputs[name]):
                        return False
    except (ir.passes.PassError, UnsupportedModelError):
        return False
    return True


def close(a: Array, b: Array) -> bool:
    """Equal to float error."""
    if a.shape != b.shape or a.dtype.kind not in "f":
        return a.shape == b.shape and bool((a == b).all())
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0)) or 1.0
    return bool(np.allclose(a, b, rtol=0, atol=_EQUAL * scale, equal_nan=True))
