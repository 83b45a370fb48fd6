"""Averaged copies of a model (EMA, SWA) are pruned by the plan of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from graphprune.errors import UsageError
from graphprune.plan import Cut, Plan
from graphprune.torch.capture import named_tensors
from graphprune.torch.slicing import parameter_cuts, slice_tensor

Aliases = Mapping[str, tuple[str, ...]]
"""Name of a tensor -> all paths at which it is found (`Captured.weights.aliases`)."""


def carry_ema(
    ema: Any, plan: Plan, module: nn.Module | None = None, aliases: Aliases | None = None
) -> Any:
    """The averaged weights after `plan`.

    Args:
        ema: A `torch.optim.swa_utils.AveragedModel` or another wrapper that holds the copy as
            `.module`: edited in place and returned. A deep-copied module: a pruned one is returned.
            A state dict (its keys may start with `module.`): a new one is returned.
        plan: What the model was pruned by.
        module: The pruned module; needed unless `ema` is a state dict. Not changed: the averaged
            values are put into a copy of it.
        aliases: Paths of tied weights; None: those that `ema` itself shows to be tied.

    Returns:
        The pruned averages, of the kind that was given.

    Raises:
        UsageError: `ema` is a copy of another model, or of an unknown kind. Nothing is changed then.
    """
    if isinstance(ema, Mapping):
        return _state(ema, _by_path(plan, aliases or _tied(ema)))
    if not isinstance(ema, nn.Module):
        raise UsageError(
            f"an EMA of type {type(ema).__name__} is not known: give an AveragedModel, a copy of the "
            "module or its state dict"
        )
    if module is None:
        raise UsageError(
            "a module's EMA is put into a copy of the pruned module: give that as well"
        )
    inner = ema.module if isinstance(getattr(ema, "module", None), nn.Module) else ema
    assert isinstance(inner, nn.Module)
    values = dict(named_tensors(inner))
    made = _filled(module, _state(values, _by_path(plan, aliases or _tied(values))))
    for path, part in made.named_modules():
        twin = dict(inner.named_modules()).get(path)
        part.training = part.training if twin is None else twin.training
    if inner is ema:
        return made
    ema.module = made
    return ema


def _by_path(plan: Plan, aliases: Aliases) -> dict[str, tuple[Cut, ...]]:
    cuts = parameter_cuts(plan)
    return {path: c for name, c in cuts.items() for path in (name, *aliases.get(name, ()))}


def _tied(tensors: Mapping[str, Any]) -> Aliases:
    """Paths that show the same memory, under each of their names."""
    by_memory: dict[tuple[Any, ...], list[str]] = {}
    for path, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            by_memory.setdefault(place, []).append(path.removeprefix("module."))
    return {p: tuple(paths) for paths in by_memory.values() if len(paths) > 1 for p in paths}


def _state(values: Mapping[str, Any], cuts: Mapping[str, tuple[Cut, ...]]) -> dict[str, Any]:
    """Every tensor cut. Constants and non-persistent buffers may be missing in a state dict."""
    result: dict[str, Any] = {}
    found = False
    for path, value in values.items():
        own = cuts.get(path, cuts.get(path.removeprefix("module."), ()))
        result[path] = value
        if own:
            found = True
            sizes = tuple(value.shape)
            if any(c.axis >= len(sizes) or sizes[c.axis] != c.size for c in own):
                raise UsageError(f"'{path}' of the EMA has shape {sizes}: it is of another model")
            result[path] = slice_tensor(value.detach(), own)
    if cuts and not found:
        raise UsageError(f"the EMA has no '{next(iter(cuts))}': it is of another model")
    return result


def _filled(module: nn.Module, values: Mapping[str, Any]) -> nn.Module:
    made = copy.deepcopy(module)
    with torch.no_grad():
        for path, tensor in named_tensors(made):
            value = values.get(path)
            if value is None:
                continue
            if value.shape != tensor.shape:
                raise UsageError(f"'{path}' of the EMA is not that of the pruned module")
            tensor.copy_(value)
    return made
