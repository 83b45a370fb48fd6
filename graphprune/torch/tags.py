"""Integers that remember where they come from: which attributes and sizes they were computed from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

Operation = Callable[[int, int], int]


@dataclass(frozen=True)
class Attribute:
    """An integer attribute of a module.

    Attributes:
        path: Of the module.
        name: Of the attribute, with dots where an object that the module holds has it.
        index: Which entry, where it is a list or tuple; -1 where it is one number.
    """

    path: str
    name: str
    index: int = -1

    def __str__(self) -> str:
        entry = f"[{self.index}]" if self.index >= 0 else ""
        return f"{self.path}.{self.name}{entry}".removeprefix(".")


@dataclass(frozen=True)
class Size:
    """A size of a tensor.

    Attributes:
        call: Number of the recorded call that gave the tensor, or the path of a parameter.
        result: Which of its results.
        axis: Of the tensor.
    """

    call: int | str
    result: int
    axis: int


@dataclass(frozen=True)
class Computed:
    """An operation on two numbers."""

    operation: Operation
    left: Origin
    right: Origin


Leaf = Attribute | Size
Origin = Attribute | Size | Computed | int


def leaves(origin: Origin) -> Iterator[Leaf]:
    """Attributes and sizes that a number was computed from."""
    if isinstance(origin, Computed):
        yield from leaves(origin.left)
        yield from leaves(origin.right)
    elif not isinstance(origin, int):
        yield origin


def evaluate(origin: Origin, values: Mapping[Leaf, int]) -> int | None:
    """The number, for other values of its leaves; None where it has none (a division by 0)."""
    if isinstance(origin, int):
        return origin
    if not isinstance(origin, Computed):
        return values[origin]
    left, right = evaluate(origin.left, values), evaluate(origin.right, values)
    if left is None or right is None:
        return None
    try:
        return origin.operation(left, right)
    except ArithmeticError:
        return None


def depth(origin: Origin) -> int:
    """How many operations lie over each other."""
    if not isinstance(origin, Computed):
        return 0
    return 1 + max(depth(origin.left), depth(origin.right))


#: Longer computations are not followed.
DEEPEST = 12


class Tag(int):
    """An integer with an origin. Integer arithmetic gives tags; all else gives what int gives."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> Tag:
        """`value`, computed from `origin`."""
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def __deepcopy__(self, memo: Any) -> Tag:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)

    def __neg__(self) -> Tag:
        return Tag(-int(self), Computed(operator.sub, 0, self.origin))

    def __pos__(self) -> Tag:
        return self

    def __trunc__(self) -> Tag:
        return self

    def __round__(self, ndigits: SupportsIndex | None = None) -> Tag:
        return self


def origin_of(number: int) -> Origin:
    """Where a number comes from; itself where that is not known."""
    return number.origin if isinstance(number, Tag) else int(number)


def _forward(operation: Operation) -> Callable[[Tag, Any], Any]:
    def method(self: Tag, other: Any) -> Any:
        if type(other) is not int and not isinstance(other, Tag):
            return getattr(int, f"__{operation.__name__}__")(int(self), other)
        return _computed(operation, self, other)

    return method


def _backward(operation: Operation) -> Callable[[Tag, Any], Any]:
    def method(self: Tag, other: Any) -> Any:
        if type(other) is not int and not isinstance(other, Tag):
            return getattr(int, f"__r{operation.__name__}__")(int(self), other)
        return _computed(operation, other, self)

    return method


def _computed(operation: Operation, left: int, right: int) -> int:
    value = operation(int(left), int(right))
    a, b = origin_of(left), origin_of(right)
    if max(depth(a), depth(b)) >= DEEPEST:
        return value
    return Tag(value, Computed(operation, a, b))


for _operation in (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod):
    setattr(Tag, f"__{_operation.__name__}__", _forward(_operation))
    setattr(Tag, f"__r{_operation.__name__}__", _backward(_operation))


def plain(value: Any) -> Any:
    """A structure of arguments with its tags as ordinary integers."""
    if isinstance(value, Tag):
        return int(value)
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    if type(value) in (tuple, list):
        return type(value)(plain(v) for v in value)
    if isinstance(value, tuple) and hasattr(value, "numel") and not hasattr(value, "_fields"):
        return type(value)(plain(v) for v in value)  # torch.Size
    if type(value) is dict:
        return {k: plain(v) for k, v in value.items()}
    return value


def numbers(value: Any) -> Iterator[int]:
    """All integers in a structure of arguments, in order."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, slice):
        yield from numbers((value.start, value.stop, value.step))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from numbers(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from numbers(entry)
