"""Units of a module of which masks left nothing: the plan by which they leave physically.

See `graphprune.selection.empty`; plans are tried out in double precision.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.errors import GraphpruneError
from graphprune.plan import Plan
from graphprune.selection.empty import Empty, find_empty
from graphprune.torch.capture import capture, mode
from graphprune.torch.masks import bake
from graphprune.torch.pipeline import prune
from graphprune.torch.prunable import prunable
from graphprune.torch.subject import TorchSubject

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
    found = find_empty(
        graph,
        subject.weight,
        held=lambda m: m.site.name in weights,
        reads=lambda m: readers.get(m.site.name) == m.axis,
        same=lambda plan: _same(plain, doubled, named, dynamic_shapes, plan),
        sha256=subject.sha256,
    )
    if found.plan is None:
        return found
    whole = capture(bake(copy.deepcopy(module)), args, kwargs, dynamic_shapes)
    return replace(found, plan=replace(found.plan, source_sha256=whole.sha256))


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
    finite = a[torch.isfinite(a)]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=_EQUAL * (scale or 1.0), equal_nan=True)


def _double(value: Any) -> Any:
    return (
        value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
    )
