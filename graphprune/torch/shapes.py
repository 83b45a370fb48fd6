"""Concrete sizes of the tensors of an exported graph."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx


def number(size: Any) -> int | None:
    """A size at the example inputs; None where it depends on data."""
    if isinstance(size, int):
        return size
    if isinstance(size, torch.SymInt):
        hint = size.node.hint
        return None if hint is None else int(hint)
    return None


def dims_of(tensor: Any) -> tuple[int, ...] | None:
    """Shape of a (fake) tensor at the example inputs; None where it depends on data."""
    if not isinstance(tensor, torch.Tensor):
        return None
    found = [number(n) for n in tensor.shape]
    return None if None in found else tuple(n for n in found if n is not None)


def dynamic_axes(tensor: Any) -> frozenset[int]:
    """Axes whose length depends on a dynamic dimension."""
    if not isinstance(tensor, torch.Tensor):
        return frozenset()
    return frozenset(a for a, n in enumerate(tensor.shape) if varies(n))


_VARIES: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()
"""Shape environment -> size expression -> whether it varies: sizes repeat thousands of times."""


def varies(size: Any) -> bool:
    """Whether a size depends on a dynamic dimension; a symbol that was fixed since does not."""
    if isinstance(size, int):
        return False
    known = _VARIES.setdefault(size.node.shape_env, {})
    expression = size.node._expr
    if expression not in known:
        known[expression] = not size.node.expr.is_number
    return known[expression]


def concrete(argument: Any) -> Any:
    """An argument with its size nodes replaced by numbers, None where they are not known."""
    if isinstance(argument, fx.Node):
        return number(argument.meta.get("val"))
    if isinstance(argument, list | tuple):
        return [concrete(a) for a in argument]
    return argument
