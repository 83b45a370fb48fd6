"""A copy of a module in which some tensors are replaced by others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from graphprune.plan import Plan
from graphprune.torch.capture import Captured, mode, named_tensors, read
from graphprune.torch.capture import _memory as memory_of
from graphprune.torch.rewrite import sliced_copy
from graphprune.torch.slicing import parameter_cuts

Scaling = Callable[[str, torch.Tensor], torch.Tensor]


class Copies:
    """Makes smaller copies of a captured module; the module itself is never changed.

    Args:
        captured: The module, captured.
        plan: What is removed.
    """

    def __init__(self, captured: Captured, plan: Plan) -> None:
        assert captured.module is not None
        self.module = captured.module
        with mode(self.module, True):
            pass  # some modules cache tensors in eval mode, and drop them when they train
        self._cuts = parameter_cuts(plan)
        weights = captured.weights
        self._names = {
            id(tensor): name
            for name, paths in weights.aliases.items()
            for path in (name, *paths)
            if isinstance(tensor := read(self.module, path), torch.Tensor)
        }
        self._tensors = dict(_tensors(self.module))
        by_memory = {memory_of(t): n for n, t in weights.tensors.items()}
        for number, tensor in self._tensors.items():  # constants in plain attributes
            if number not in self._names and memory_of(tensor) in by_memory:
                self._names[number] = by_memory[memory_of(tensor)]
        known = {self._names.get(i) for i in self._tensors}
        #: Names of what the plan cuts and the module does not hold.
        self.missing = tuple(n for n in self._cuts if n not in known)

    def make(self, scale: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
        """A copy with every weight sliced, tied ones tied.

        Args:
            scale: Name of a weight -> what it is multiplied with, of its old shape.
        """
        made: dict[str, torch.Tensor] = {}
        memo: dict[int, Any] = {}
        for number, tensor in self._tensors.items():
            name = self._names.get(number)
            if name is None:
                memo[number] = _own(tensor)
                continue
            if name not in made:
                source = tensor
                if scale and name in scale:
                    data = tensor.detach() * scale[name].to(tensor)
                    source = (
                        nn.Parameter(data, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else data
                    )
                made[name] = _like(tensor, sliced_copy(source, self._cuts.get(name, ())))
            memo[number] = made[name]
        return copy.deepcopy(self.module, memo)

    def skeleton(self) -> nn.Module:
        """A copy that shares all tensors with the module; its attributes are its own."""
        return copy.deepcopy(self.module, dict(self._tensors))


def _tensors(module: nn.Module) -> Iterator[tuple[int, torch.Tensor]]:
    """All tensors that a module holds: parameters, buffers, and those in plain attributes."""
    for _, tensor in named_tensors(module):
        yield id(tensor), tensor
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            continue
        for value in part.__dict__.values():
            yield from _inside(value, 2)


def _inside(value: Any, depth: int) -> Iterator[tuple[int, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield id(value), value
    elif depth and isinstance(value, dict):
        for entry in value.values():
            yield from _inside(entry, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for entry in value:
            yield from _inside(entry, depth - 1)


def _own(tensor: torch.Tensor) -> torch.Tensor:
    """A copy; of what was computed with gradients (which torch refuses to copy) its value."""
    if tensor.is_leaf:
        return copy.deepcopy(tensor)
    return tensor.detach().clone()


def _like(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """`new` as an instance of the class of `old`, with what users hang on parameters."""
    if type(old) is not type(new) and isinstance(new, nn.Parameter):
        try:
            new.__class__ = type(old)  # type: ignore[assignment]
        except TypeError:
            return new
    if isinstance(old, nn.Parameter):
        new.__dict__.update(old.__dict__)
    return new
