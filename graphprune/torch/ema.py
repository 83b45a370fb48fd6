"""Averaged copies of a model (EMA, SWA) are pruned by the plan of the model itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import nn

from graphprune.cut import Cut
from graphprune.errors import UsageError
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, named_tensors
from graphprune.torch.shorter import Surgery
from graphprune.torch.slicing import parameter_cuts, slice_tensor

Aliases = Mapping[str, tuple[str, ...]]
"""Name of a tensor -> all paths at which it is found (`Captured.weights.aliases`)."""


def carry_ema(
    ema: Any,
    plan: Plan,
    captured: Captured | None = None,
    module: nn.Module | None = None,
    surgery: Surgery | None = None,
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Prune averaged weights in place.

    Args:
        ema: A `torch.optim.swa_utils.AveragedModel` or another wrapper that holds the copy as
            `.module`, which is replaced. A deep-copied module, if the class was kept. A state dict
            (its keys may start with `module.`).
        plan: What the model was pruned by.
        captured: The original, which knows what is tied; None: what `ema` itself shows to be tied.
        module: The pruned module; needed unless `ema` is a state dict. Not changed: the averaged
            values are put into a copy of it.
        surgery: How layers left the class, for a deep copy of it.
        renamed: Path of a weight of the pruned module -> its path in the original, where they differ.

    Raises:
        UsageError: `ema` is a copy of another model, or of a kind that cannot be changed in place.
            Nothing is changed then.
    """
    aliases = None if captured is None else captured.weights.aliases
    if isinstance(ema, MutableMapping):
        values = _cut(ema, plan, aliases)
        if plan.layers:
            if module is None or captured is None:
                raise UsageError(
                    "layers left with this plan: give the original and the pruned module as well"
                )
            values = _at_new_paths(values, module, captured, renamed or {})
            ema.clear()
        ema.update(values)
        return
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
    values = _cut(dict(named_tensors(inner)), plan, aliases)
    if plan.layers:
        values = _at_new_paths(values, module, captured, renamed or {})
    made = _filled(module, values)
    parts = dict(inner.named_modules())
    for path, part in made.named_modules():
        part.training = parts[path].training if path in parts else inner.training
    if inner is not ema:
        ema.module = made
        return
    if surgery is not None:
        shorter = copy.deepcopy(inner)
        surgery.apply(shorter)
        parts = dict(shorter.named_modules())
    if type(ema) is not type(made) or parts.keys() != dict(made.named_modules()).keys():
        raise UsageError(
            f"the pruned module is a {type(made).__name__}, which a copy of a {type(ema).__name__} "
            "cannot become in place: give an AveragedModel or a state dict"
        )
    from graphprune.torch.result import transplant

    if surgery is not None:
        surgery.apply(ema)
    transplant(made, ema)


def _cut(values: Mapping[str, Any], plan: Plan, aliases: Aliases | None) -> dict[str, Any]:
    """Every tensor cut. Constants and non-persistent buffers may be missing in a state dict."""
    tied = _tied(values) if aliases is None else aliases
    cuts: dict[str, tuple[Cut, ...]] = {}
    for name, found in parameter_cuts(plan).items():
        cuts.update(dict.fromkeys((name, *tied.get(name, ())), found))
    result: dict[str, Any] = {}
    known = False
    for path, value in values.items():
        own = cuts.get(path, cuts.get(path.removeprefix("module."), ()))
        result[path] = value
        if own:
            known = True
            sizes = tuple(value.shape)
            if any(c.axis >= len(sizes) or sizes[c.axis] != c.size for c in own):
                raise UsageError(f"'{path}' of the EMA has shape {sizes}: it is of another model")
            sliced = slice_tensor(value.detach(), own)
            result[path] = sliced.requires_grad_(value.requires_grad)
    if cuts and not known:
        raise UsageError(f"the EMA has no '{next(iter(cuts))}': it is of another model")
    return result


def _at_new_paths(
    values: Mapping[str, Any],
    module: nn.Module,
    captured: Captured | None,
    renamed: Mapping[str, str],
) -> dict[str, Any]:
    """Values at the paths of the pruned module; those of layers that left go."""
    whole = None if captured is None else captured.module or captured.graph_module
    before = set() if whole is None else {path for path, _ in named_tensors(whole)}
    now = {path for path, _ in named_tensors(module)}
    result = {p: v for p, v in values.items() if p.removeprefix("module.") not in before - now}
    for new, old in renamed.items():
        for prefix in ("", "module."):
            if prefix + old in values:
                result[prefix + new] = values[prefix + old]
    return result


def _tied(tensors: Mapping[str, Any]) -> Aliases:
    """Paths that show the same memory, under each of their names."""
    by_memory: dict[tuple[Any, ...], list[str]] = {}
    for path, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            by_memory.setdefault(place, []).append(path.removeprefix("module."))
    return {p: tuple(paths) for paths in by_memory.values() if len(paths) > 1 for p in paths}


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
            tensor.grad = None
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(value.requires_grad)
    return made
