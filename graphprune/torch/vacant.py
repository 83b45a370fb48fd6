"""Units of a module of which masks left nothing: the plan by which they leave physically.

A unit (channel, neuron, head) is empty where everything that makes it is zero, weights, biases and
norms, or everything that reads it; as in `graphprune.sparse.empty`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group, Member
from graphprune.analysis.planning import plan_from_removed
from graphprune.errors import GraphpruneError
from graphprune.plan import GroupChoice, Plan
from graphprune.selection.criteria import criterion_of
from graphprune.sparse.empty import Empty, EmptyGroup
from graphprune.torch.capture import capture, mode
from graphprune.torch.masks import bake
from graphprune.torch.pipeline import prune
from graphprune.torch.prunable import prunable
from graphprune.torch.subject import TorchSubject

Array = np.ndarray[Any, Any]
_Part = Sequence[tuple[Group, Array]]

_EQUAL = 1e-9
"""Largest difference of outputs in double precision, relative to the largest output."""


def empty_units(
    module: nn.Module,
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> Empty:
    """Find the units of which pruning of single weights left nothing.

        found = gpt.empty_units(module, example)
        if found.plan is not None:
            smaller = gpt.prune(gpt.bake(module), example, plan=found.plan).module

    The plan is tried out: groups without which outputs would change in eval mode are left.

    Args:
        module: Masked or baked; unchanged.
        args: Example inputs.
        kwargs: Example inputs by name.
        dynamic_shapes: As for `torch.export.export`.

    Returns:
        All empty units, and the plan that removes those that can leave; one unit of a layer always
        stays.

    Raises:
        UsageError: The module cannot be traced.
    """
    plain = bake(copy.deepcopy(module)).double()
    doubled: Any = pytree.tree_map(_double, args)
    named: Any = pytree.tree_map(_double, kwargs)
    captured = capture(plain, doubled, named, dynamic_shapes)
    subject = TorchSubject(captured)
    graph = subject.analyse()
    readers = {h.path: w.role.reduction for w in prunable(plain) for h in w.holders}
    weights = {n for n, t in captured.weights.tensors.items() if isinstance(t, nn.Parameter)}
    found: list[tuple[Group, Array, str]] = []
    for group in graph.groups:
        members = [m for m in group.members if m.site.is_weight and m.site.name in weights]
        units, why = _empty_in(group, members, subject, readers)
        if units.size:
            found.append((group, units, why))
    chosen = [(group, units) for group, units, why in found if not why]

    def same(part: _Part) -> bool:
        plan = _plan(graph, part, subject.sha256)
        return _same(plain, doubled, named, dynamic_shapes, plan)

    if chosen and not same(chosen):
        chosen = [pair for pair in chosen if same([pair])]
        chosen = chosen if not chosen or same(chosen) else []
    leaving = {group.name for group, _ in chosen}
    groups = tuple(
        EmptyGroup(
            group.name,
            group.kind,
            group.size,
            tuple(int(u) for u in units),
            group.name in leaving,
            why or ("" if group.name in leaving else "outputs would change"),
        )
        for group, units, why in found
    )
    if not chosen:
        return Empty(groups, None)
    whole = capture(bake(copy.deepcopy(module)), args, kwargs, dynamic_shapes)
    return Empty(groups, _plan(graph, chosen, whole.sha256))


def _empty_in(
    group: Group, members: Sequence[Member], subject: TorchSubject, readers: Mapping[str, int]
) -> tuple[Array, str]:
    """Empty units of a group; and why none of them can leave, if so."""
    measure = criterion_of("l1")
    assert measure is not None
    made, read = np.ones(group.size, bool), np.ones(group.size, bool)
    makers = takers = 0
    for member in members:
        sums, present = measure(group, member, subject.weight(member.site.name))
        zero = np.ones(group.size, bool)
        zero[present] = sums == 0
        if readers.get(member.site.name) == member.axis:
            read &= zero
            takers += 1
        else:
            made &= zero
            makers += 1
    empty = np.zeros(group.size, bool)
    if makers:
        empty |= made
    if takers and not group.statistics:
        empty |= read
    if not empty.any():
        return np.zeros(0, np.int64), ""
    stay = ~empty
    for cell in group.cells:
        if not stay[cell].any():
            stay[cell[0]] = True
    kept = np.array([stay[cell].sum() for cell in group.cells])
    units = np.flatnonzero(~stay)
    for balance in group.balances:
        if np.unique(balance.fixed + balance.counts @ kept).size > 1:
            return units, "blocks of it would keep different numbers"
    return units, ""


def _plan(graph: DependencyGraph, part: _Part, sha256: str) -> Plan:
    removed = np.zeros(graph.resolver.classes.count, bool)
    choices = []
    for group, units in part:
        removed[group.units[units]] = True
        kept = tuple(int(k) for k in np.setdiff1d(np.arange(group.size), units))
        members = tuple((m.site.name, m.axis) for m in group.members)
        choices.append(GroupChoice(group.name, group.kind, group.size, kept, (), members))
    plan = plan_from_removed(graph, removed, source_sha256=sha256, choices=choices, binding={})
    return replace(plan, unpruned=graph.unpruned)


def _same(module: nn.Module, args: Any, kwargs: Any, shapes: Any, plan: Plan) -> bool:
    """Whether the module without these units computes what it computes with them."""
    try:
        result = prune(
            module,
            args,
            kwargs,
            dynamic_shapes=shapes,
            plan=plan,
            verify=False,
            allow_slower=True,
        ).module
    except GraphpruneError:
        return False
    positional = args if isinstance(args, tuple | list) else () if args is None else (args,)
    with mode(module, False), mode(result, False), torch.no_grad():
        before, after = (
            pytree.tree_leaves(m(*positional, **(kwargs or {}))) for m in (module, result)
        )
    return len(before) == len(after) and all(map(_close, before, after))


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return bool(a == b)
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape == b.shape and bool((a == b).all())
    scale = float(a[torch.isfinite(a)].abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=_EQUAL * (scale or 1.0), equal_nan=True)


def _double(value: Any) -> Any:
    return (
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
    )
