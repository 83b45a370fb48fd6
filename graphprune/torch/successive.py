"""Several plans, one after the other: as one plan, and the weights they leave at their old places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from graphprune.compose import compose
from graphprune.cut import pruned_shape
from graphprune.errors import GraphpruneError, UsageError
from graphprune.plan import GroupChoice, Plan
from graphprune.torch.capture import Captured
from graphprune.torch.checkpoint import weights_of
from graphprune.torch.shapes import dims_of
from graphprune.torch.slicing import parameter_cuts, slice_tensor


def spread(
    module: nn.Module,
    weights: Mapping[str, torch.Tensor],
    plans: Sequence[Plan],
    aliases: Mapping[str, tuple[str, ...]],
) -> dict[str, torch.Tensor]:
    """Weights of a pruned module at their places among those of the unpruned one.

    Args:
        module: The unpruned module, whose weights stand where nothing is known.
        weights: Path -> weights after all plans.
        plans: What led there, one after the other.
        aliases: Name of a tied tensor -> all its paths.

    Raises:
        UsageError: The weights are not those that the plans leave.
    """
    stages = [parameter_cuts(plan) for plan in plans]
    result = {}
    for path, tensor in weights_of(module).items():
        paths = next((p for p in aliases.values() if path in p), (path,))
        value = next((weights[p] for p in paths if p in weights), None)
        if value is None:
            continue
        index = torch.arange(tensor.numel()).reshape(tensor.shape)
        for cuts in stages:
            index = slice_tensor(index, next((cuts[p] for p in paths if p in cuts), ()))
        if index.shape != value.shape:
            raise UsageError(f"the checkpoint's '{path}' does not follow from its plans")
        whole = tensor.detach().clone().reshape(-1)
        whole[index.reshape(-1).to(whole.device)] = value.reshape(-1).to(whole)
        result[path] = whole.reshape(tensor.shape)
    return result


@contextmanager
def other_values(
    module: nn.Module, values: Mapping[str, torch.Tensor], *, restore: bool
) -> Iterator[None]:
    """Other values in a module, afterwards its own again."""
    own = {p: t for p, t in weights_of(module).items() if p in values}
    before = {p: t.detach().clone() for p, t in own.items()} if restore else {}
    with torch.no_grad():
        for path, tensor in own.items():
            tensor.copy_(values[path])
    try:
        yield
    finally:
        with torch.no_grad():
            for path, tensor in before.items():
                own[path].copy_(tensor)


def shapes_of(captured: Captured) -> dict[str, tuple[int, ...]]:
    """Node or weight -> its shape."""
    shapes = {n.name: dims_of(n.meta.get("val")) or () for n in captured.nodes}
    return shapes | {n: tuple(t.shape) for n, t in captured.weights.tensors.items()}


def composed(plans: Sequence[Plan], shapes: Mapping[str, tuple[int, ...]]) -> Plan | None:
    """Plans of successive steps as one, in the numbering of the original.

    None where they do not speak of the same nodes, because a step gave a graph with other names.

    Args:
        plans: The plans.
        shapes: Those of the original's nodes and weights (`shapes_of`).
    """
    result: Plan | None = None
    sizes = dict(shapes)
    for plan in plans:
        cuts = {**plan.tensors, **parameter_cuts(plan)}
        for name, own in cuts.items():
            if any(c.axis >= len(sizes.get(name, ())) for c in own):
                return None
            if any(sizes[name][c.axis] != c.size for c in own):
                return None
            sizes[name] = pruned_shape(sizes[name], own)
        if any(use.node not in sizes for use in plan.initializers):
            return None
        if result is None:
            result = plan
            continue
        try:
            both = compose(result, plan)
        except GraphpruneError:
            return None
        result = replace(both, groups=_chosen(result.groups, plan.groups), unpruned=plan.unpruned)
    return result


def _chosen(first: Sequence[GroupChoice], second: Sequence[GroupChoice]) -> tuple[GroupChoice, ...]:
    """Choices of the same group one after the other, as one."""
    result = {g.name: g for g in first}
    for group in second:
        known = result.get(group.name)
        if known is not None and group.size == len(known.kept):
            group = replace(known, kept=tuple(known.kept[i] for i in group.kept))
        result[group.name] = group
    return tuple(result.values())
