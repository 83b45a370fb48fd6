"""What a pruned module is trained from: its weights rewound, or drawn again; masks and shapes stay.

Rewinding (Frankle and Carbin, ICLR'19; Frankle et al., ICML'20) puts the values of an earlier moment
in place; rewinding of the learning rate (Renda et al., ICLR'20) keeps the weights and repeats the
schedule from there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphprune.errors import UsageError
from graphprune.plan import Plan
from graphprune.selection.ratios import named
from graphprune.torch.masks import bake, is_mask, masks_of, plain_name, put_masks
from graphprune.torch.optim import innermost
from graphprune.torch.slicing import parameter_cuts, slice_tensor


def rewind(
    module: nn.Module, checkpoint: Mapping[str, torch.Tensor], plan: Any = None
) -> nn.Module:
    """Give a module the weights and buffers of an earlier state dict, in place.

    Masks stay, and so does an optimizer with its state: make a new one, or load the earlier one's
    state, to train as from there.

    Args:
        module: Masked, structurally pruned, both or neither.
        checkpoint: A state dict of the same module, masked or not, or, with `plan`, of the module
            before it was pruned.
        plan: What was removed since: a plan, several in turn, or the result of `prune` or
            `iterative`.

    Returns:
        The module.

    Raises:
        UsageError: The checkpoint lacks a tensor or has it in another shape, or the pruned module
            holds factors in its weights that the checkpoint's lack. Nothing is changed then.
    """
    stages = [
        {plain_name(k): c for k, c in parameter_cuts(p).items() if not is_mask(k)}
        for p in _plans(plan)
    ]
    given = {plain_name(k): t for k, t in checkpoint.items() if not is_mask(k)}
    aliases = _aliases(module)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for key, tensor in module.state_dict(keep_vars=True).items():
        if is_mask(key):
            continue
        path = plain_name(key)
        if not isinstance(tensor, torch.Tensor):
            continue  # a module's extra state
        before = getattr(plan, "renamed", {})
        path = before.get(path, path)
        paths = tuple(before.get(p, p) for p in aliases.get(id(tensor), (path,)))
        value = next((given[p] for p in (path, *paths) if p in given), None)
        if value is None:
            raise UsageError(f"the checkpoint has no '{path}': give a state dict of this module")
        for cuts in stages:
            found = next((cuts[p] for p in (path, *paths) if p in cuts), ())
            fits = all(c.axis < value.ndim and value.shape[c.axis] == c.size for c in found)
            if not fits:
                raise UsageError(
                    f"the checkpoint's '{path}' of shape {tuple(value.shape)} is not that of the "
                    "module before the plan: give the state dict of the unpruned module"
                )
            value = slice_tensor(value, found)
        if value.shape != tensor.shape:
            raise UsageError(
                f"the checkpoint's '{path}' has shape {tuple(value.shape)} where the module has "
                f"{tuple(tensor.shape)}: of a pruned module give plan="
            )
        pairs.append((tensor, value))
    with torch.no_grad():
        for tensor, value in pairs:
            tensor.copy_(value)
    put_masks(module, masks_of(module))  # zeros under the masks again
    return module


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's state dict that training does not change, for `rewind`."""
    return {
        k: t.detach().clone() for k, t in module.state_dict().items() if isinstance(t, torch.Tensor)
    }


def reinitialise(module: nn.Module, seed: int, *, keep: str | Sequence[str] = ()) -> nn.Module:
    """Draw all weights again, each layer's by its own `reset_parameters`, in place; masks stay.

    Parts come before what holds them, as when a module is built. `_reset_parameters` (attention,
    transformers of torch) and `_init_weights` (Hugging Face) count as well.

    Args:
        module: Changed, running statistics included.
        seed: Of the draw. The random state of the program is left as it was.
        keep: Globs of parameters that stay as they are though nothing draws them.

    Returns:
        The module.

    Raises:
        UsageError: A parameter that no initialiser draws. Nothing is changed then.
    """
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    masks = masks_of(module)
    bake(module)
    try:
        calls = list(_initialisers(module, kept))
        devices = sorted({p.device.index or 0 for p in module.parameters() if p.is_cuda})
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            for call in calls:
                call()
    finally:
        put_masks(module, masks)
    return module


def _initialisers(module: nn.Module, kept: Sequence[str]) -> Iterator[Callable[[], Any]]:
    drawn: set[int] = set()
    last: list[Callable[[], Any]] = []
    for part in reversed(list(module.modules())):  # parts before their holders
        whole = getattr(part, "_reset_parameters", None)
        own = getattr(part, "reset_parameters", None)
        config = getattr(part, "_init_weights", None)
        if callable(config):
            drawn |= {id(p) for p in part.parameters()}
            last.extend([_each(part, config)])
        elif callable(own):
            drawn |= {id(p) for p in part.parameters(recurse=False)}
            yield own
        elif callable(whole):
            drawn |= {id(p) for p in part.parameters(recurse=isinstance(part, nn.Transformer))}
            yield whole
    yield from last
    for path, parameter in module.named_parameters():
        if id(parameter) not in drawn and not any(named(path, g) for g in kept):
            raise UsageError(
                f"nothing draws '{path}' again: give its class a reset_parameters, or name it in keep="
            )


def _each(part: nn.Module, draw: Callable[[nn.Module], Any]) -> Callable[[], Any]:
    def run() -> None:
        for inner in part.modules():
            draw(inner)

    return run


@dataclass(frozen=True, eq=False)
class RatePoint:
    """Where a learning rate's schedule stands: settings of each parameter group, and the scheduler."""

    groups: tuple[Mapping[str, Any], ...]
    scheduler: Mapping[str, Any] | None


def rate_point(optimizer: torch.optim.Optimizer, scheduler: Any = None) -> RatePoint:
    """Note where the schedule stands, for `rewind_rate`: before the step to go on from later."""
    groups = innermost(optimizer).param_groups
    settings = tuple(
        copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in groups
    )
    state = None if scheduler is None else copy.deepcopy(scheduler.state_dict())
    return RatePoint(settings, state)


def rewind_rate(
    point: RatePoint,
    optimizer: torch.optim.Optimizer,
    scheduler: Any = None,
    *,
    momentum: bool = False,
) -> None:
    """Put the learning rate's schedule back to an earlier moment; weights stay (Renda et al., 2020).

    Args:
        point: As of `rate_point`.
        optimizer: Its parameter groups get their settings of then.
        scheduler: Goes on from then.
        momentum: Keep the optimizer's state. By default it is dropped, as it is of the end of a
            training.

    Raises:
        UsageError: The optimizer has another number of groups, or a scheduler is missing.
    """
    inner = innermost(optimizer)
    if len(inner.param_groups) != len(point.groups):
        raise UsageError(
            f"the point is of {len(point.groups)} parameter groups, the optimizer has "
            f"{len(inner.param_groups)}: take both of the same optimizer"
        )
    if (scheduler is None) != (point.scheduler is None):
        raise UsageError("give the scheduler to both rate_point and rewind_rate, or to neither")
    for group, settings in zip(inner.param_groups, point.groups, strict=True):
        group.update(copy.deepcopy(dict(settings)))
    if scheduler is not None:
        scheduler.load_state_dict(copy.deepcopy(point.scheduler))
    if not momentum:
        inner.state.clear()


def _plans(plan: Any) -> list[Plan]:
    if plan is None:
        return []
    if isinstance(plan, Plan):
        return [plan]
    if isinstance(plan, Sequence):
        return [p for part in plan for p in _plans(part)]
    if getattr(plan, "scaled", ()):
        raise UsageError(
            "the pruned module holds the scale of its attention in its weights, which the checkpoint "
            "does not: load the checkpoint into the unpruned module and prune that by the plan"
        )
    return list(plan.plans) if hasattr(plan, "plans") else [plan.plan]


def _aliases(module: nn.Module) -> dict[int, tuple[str, ...]]:
    """Parameter or buffer -> all its plain paths."""
    found: dict[int, tuple[str, ...]] = {}
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for path, tensor in tensors:
        found[id(tensor)] = (*found.get(id(tensor), ()), plain_name(path))
    return found
