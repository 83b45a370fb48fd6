"""One node of an FX graph of ATen ops, its arguments by the names of the op's schema."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import fx


@dataclass(frozen=True, eq=False)
class Call:
    """A node and its arguments.

    Attributes:
        node: The node.
        arguments: Argument name -> what is given (nodes, numbers, lists), defaults included.
        operands: Every tensor that is read, in the order of the schema; None where an optional one is
            not given.
        numbers: Argument name -> number of its operand, or the numbers of its list.
    """

    node: fx.Node
    arguments: Mapping[str, Any]
    operands: tuple[fx.Node | None, ...]
    numbers: Mapping[str, int | tuple[int, ...]]

    @cached_property
    def op(self) -> str:
        """Name of the op without namespace and overload; in-place ops as their pure form."""
        return op_name(self.node)[1]

    @cached_property
    def domain(self) -> str:
        """Namespace of the op."""
        return op_name(self.node)[0]


def op_name(node: fx.Node) -> tuple[str, str]:
    """(namespace, op): `aten::add_.Tensor` is `("aten", "add")`, so is its pure form."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        if in_place(node):
            name = name.removesuffix("_")
        return namespace, name
    if isinstance(target, torch._ops.HigherOrderOperator):
        return "higher_order", str(target)
    return "python", getattr(target, "__name__", str(target))


def in_place(node: fx.Node) -> bool:
    """Whether the op writes into its first argument and gives it back."""
    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and target._schema.is_mutable
        and bool(target._schema.arguments)
        and target._schema.arguments[0].alias_info is not None
        and target._schema.arguments[0].alias_info.is_write
    )


def is_view(node: fx.Node) -> bool:
    """Whether results share memory with an argument: what is done to one is done to the other."""
    target = node.target
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
        return False
    return any(r.alias_info is not None for r in target._schema.returns)


def is_tensor(node: Any) -> bool:
    """Whether a node gives one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


class _Argument(NamedTuple):
    name: str
    kwarg_only: bool
    optional: bool
    has_default: bool
    default: Any


@cache
def _schema(target: torch._ops.OpOverload) -> tuple[_Argument, ...]:
    """The arguments of an op; asking torch for them every time is slow."""
    return tuple(
        _Argument(
            a.name,
            a.kwarg_only,
            str(a.type) == "Optional[Tensor]",
            a.has_default_value(),
            a.default_value,
        )
        for a in target._schema.arguments
    )


_ONLY_TYPE = {
    ("to", "other"),
    ("type_as", "other"),
    *((f"new_{kind}", "self") for kind in ("zeros", "ones", "full", "empty")),
}
"""(op, argument) of tensors whose type is read, and nothing else: their sizes do not matter."""


def call_of(node: fx.Node) -> Call:
    """The arguments of a node by name; tensors of which only the type is read are no operands."""
    arguments: dict[str, Any] = {}
    optional: set[str] = set()
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        for i, known in enumerate(_schema(target)):
            if known.optional:
                optional.add(known.name)
            if i < len(node.args) and not known.kwarg_only:
                arguments[known.name] = node.args[i]
            elif known.name in node.kwargs:
                arguments[known.name] = node.kwargs[known.name]
            elif known.has_default:
                arguments[known.name] = known.default
    else:
        arguments = {str(i): a for i, a in enumerate(node.args)} | dict(node.kwargs)
    operands: list[fx.Node | None] = []
    numbers: dict[str, int | tuple[int, ...]] = {}
    op = op_name(node)[1]
    for name, argument in arguments.items():
        if (op, name) in _ONLY_TYPE:
            continue
        if is_tensor(argument):
            numbers[name] = len(operands)
            operands.append(argument)
        elif name in optional:
            operands.append(None)
        elif isinstance(argument, list | tuple) and any(is_tensor(a) for a in argument):
            first = len(operands)
            operands.extend(a if is_tensor(a) else None for a in argument)
            numbers[name] = tuple(range(first, len(operands)))
    return Call(node, arguments, tuple(operands), numbers)
