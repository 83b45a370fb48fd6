"""Dropout of all kinds, switched off in training mode while two modules are compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn


@contextmanager
def without_dropout(module: nn.Module | None) -> Iterator[None]:
    """Random numbers would differ where widths do: shares of dropout are 0 meanwhile."""
    if module is None:
        yield
        return
    before: list[tuple[nn.Module, str, float]] = []
    for part in module.modules():
        for name, value in list(vars(part).items()):
            dropping = name == "p" and "Dropout" in type(part).__name__
            if isinstance(value, float) and (dropping or "drop" in name.lower()):
                before.append((part, name, value))
                setattr(part, name, 0.0)
    literal: list[tuple[fx.Node, tuple[Any, ...], dict[str, Any]]] = []
    if isinstance(module, fx.GraphModule):
        for node in [n for n in module.graph.nodes if _drops(n)]:
            for each in (node, *_scaled_up(node)):
                literal.append((each, each.args, dict(each.kwargs)))
            for each in _scaled_up(node):
                each.args = (each.args[0], 1.0, *each.args[2:])
            _set_zero(node)
        module.recompile()
    try:
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)
        for node, args, kwargs in literal:
            node.args, node.kwargs = args, kwargs
        if isinstance(module, fx.GraphModule):
            module.recompile()


def _drops(node: fx.Node) -> bool:
    name = str(getattr(node.target, "__name__", node.target))
    if node.op != "call_function":
        return False
    return (
        "dropout" in name or "bernoulli" in name or "scaled_dot_product" in name or "lstm" in name
    )


def _scaled_up(node: fx.Node) -> list[fx.Node]:
    """Divisions of a random mask by the share it keeps (stochastic depth)."""
    if "bernoulli" not in str(node.target) or len(node.args) < 2:
        return []
    return [
        user
        for user in node.users
        if "div" in str(user.target) and len(user.args) > 1 and user.args[1] == node.args[1]
    ]


def _set_zero(node: fx.Node) -> None:
    name = str(getattr(node.target, "__name__", node.target))
    if "bernoulli" in name:
        node.args = (node.args[0], 1.0, *node.args[2:])
    elif "scaled_dot_product" in name:
        if len(node.args) > 4:
            node.update_arg(4, 0.0)
        else:
            node.update_kwarg("dropout_p", 0.0)
    elif "dropout" in name:
        node.update_arg(1, 0.0)
