"""Masks of single weights as parametrisations: put on, read, taken off.

The parameter stays the same object under a mask (`layer.parametrizations.weight.original`), so that
an optimizer, an average or a scheduler made before goes on. What is masked is exactly zero in every
forward pass, whatever momentum or weight decay do to the parameter, and gets no gradient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.rnn import RNNBase
from torch.nn.utils.parametrize import ParametrizationList, register_parametrization

from graphprune.errors import UsageError
from graphprune.torch.prunable import Weight, WeightMask, mask_in, masked, parametrised, prunable

_MASK = re.compile(r"(^|\.)parametrizations\.([^.]+)\.0\.mask$")
_ORIGINAL = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")


def plain_name(key: str) -> str:
    """A key of a state dict without what a mask adds.

    `fc.parametrizations.weight.original` -> `fc.weight`.
    """
    return _ORIGINAL.sub(r"\1\2", key)


def is_mask(key: str) -> bool:
    """Whether a key of a state dict is that of a mask."""
    return bool(_MASK.search(key))


def masks_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Path of each masked weight -> its mask (True: stays), tied ones once."""
    return {w.name: w.mask for w in prunable(module) if w.mask is not None}


def put_masks(module: nn.Module, masks: Mapping[str, torch.Tensor]) -> nn.Module:
    """Mask weights of a module, in place, or change the masks that they carry.

    A fresh module becomes one that a masked state dict can be loaded into:

        gpt.put_masks(module, state).load_state_dict(state)

    Args:
        module: Changed: masked elements of its parameters become zero.
        masks: Path of a weight -> bool, True: stays; or the state dict of a masked module.

    Returns:
        The module.

    Raises:
        UsageError: A mask for a weight that is not pruned or of another shape, or one that carries
            another parametrisation. Nothing is changed then.
    """
    given = {_MASK.sub(r"\1\2", k): m for k, m in masks.items() if is_mask(k)} or dict(masks)
    by_path = {h.path: w for w in prunable(module) for h in w.holders}
    pairs: list[tuple[Weight, torch.Tensor]] = []
    for path, mask in given.items():
        weight = by_path.get(path)
        if weight is None:
            raise UsageError(f"there is a mask for '{path}', which is no weight of the module")
        if weight.refusal:
            raise UsageError(f"{weight.refusal}: remove that before it is masked")
        if mask.dtype != torch.bool or tuple(mask.shape) != weight.shape:
            raise UsageError(
                f"the mask of '{path}' is {mask.dtype} of shape {tuple(mask.shape)}: it must be bool "
                f"of shape {weight.shape}"
            )
        pairs.append((weight, mask))
    done: set[int] = set()
    for weight, mask in pairs:
        if id(weight) not in done:
            done.add(id(weight))
            _put(weight, mask.to(weight.original.device))
    return module


def bake(module: nn.Module) -> nn.Module:
    """Take all masks off, in place: plain layers again, with zeros where the masks were.

    Parameters stay the same objects in the same order, of their plain names.

    Returns:
        The module.
    """
    for part in module.modules():
        found = masked(part)
        if found:
            _restore(part, found)
    return module


def _put(weight: Weight, mask: torch.Tensor) -> None:
    with torch.no_grad():
        weight.original.masked_fill_(~mask, 0)
        if weight.mask is not None:
            weight.mask.copy_(mask)
            return
    shared = WeightMask(mask.clone())
    for holder in weight.holders:
        part, name = holder.part, holder.attribute
        order = list(part._parameters)
        if parametrised(part):
            _own_class(part)  # copies share a class: what is added must not show in the other
        register_parametrization(part, name, shared, unsafe=True)
        vars(parametrised(part)[name])["order"] = order
        if isinstance(part, RNNBase):
            kind: Any = type(part)
            kind._flat_weights = property(_flat_weights, _ignore)


def _restore(part: nn.Module, found: Mapping[str, ParametrizationList]) -> None:
    lists: Any = part._modules["parametrizations"]
    order: list[str] = max((getattr(p, "order", []) for p in found.values()), key=len)
    for name, mapping in found.items():
        original: Any = mapping.original
        with torch.no_grad():
            original.masked_fill_(~mask_in(mapping), 0)
        del lists[name]
        if lists:
            _own_class(part, without=name)
        part._parameters[name] = original
    if not lists:
        del part._modules["parametrizations"]
        part.__class__ = type(part).__bases__[0]
    place = {name: i for i, name in enumerate(order)}
    ordered = sorted(part._parameters, key=lambda n: place.get(n, len(place)))
    for name in ordered:
        part._parameters[name] = part._parameters.pop(name)
    if isinstance(part, RNNBase):
        part._init_flat_weights()


def _own_class(part: nn.Module, without: str = "") -> None:
    """A class of its own for a parametrised part, which properties can be added to or taken from."""
    kind = type(part)
    skipped = ("__dict__", "__weakref__", without)
    content = {n: v for n, v in vars(kind).items() if n not in skipped}
    part.__class__ = type(kind.__name__, kind.__bases__, content)


def _flat_weights(part: Any) -> list[torch.Tensor | None]:
    """Recurrent layers keep a list of their weights: of masked ones it is made anew at each use."""
    return [getattr(part, name, None) for name in part._flat_weights_names]


def _ignore(part: Any, value: Any) -> None:
    pass
