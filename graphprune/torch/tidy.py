"""What is put in order in an exported graph before it is read: wrapped regions and assertions."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_HIGHER = torch.ops.higher_order
_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")


def tidy(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Inline regions wrapped for gradients or autocast, and drop assertions on types and sizes.

    A region without gradients gives detached results. A region under an enabled autocast stays: its
    types depend on it.
    """
    changed = True
    while changed:
        changed = False
        for node in list(graph_module.graph.nodes):
            if node.op == "call_function" and _inlinable(node):
                _inline(graph_module, node)
                changed = True
    for node in reversed(list(graph_module.graph.nodes)):
        if node.op == "call_function" and _asserts(node) and not node.users:
            graph_module.graph.erase_node(node)
    graph_module.graph.eliminate_dead_code(is_impure_node=_acts)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def _inlinable(node: fx.Node) -> bool:
    if node.target is _HIGHER.wrap_with_set_grad_enabled:
        return True
    if node.target is _HIGHER.wrap_with_autocast:
        return node.args[2] is False  # (device, dtype, enabled, ...)
    return False


def _inline(graph_module: fx.GraphModule, node: fx.Node) -> None:
    """The nodes of the region in place of the one that calls it."""
    place = 1 if node.target is _HIGHER.wrap_with_set_grad_enabled else 4
    detached = place == 1 and node.args[0] is False
    reference = node.args[place]
    assert isinstance(reference, fx.Node)
    region = getattr(graph_module, str(reference.target))
    given = iter(node.args[place + 1 :])
    copies: dict[fx.Node, Any] = {}
    graph = graph_module.graph
    results: tuple[Any, ...] = ()
    with graph.inserting_before(node):
        for inner in region.graph.nodes:
            if inner.op == "placeholder":
                copies[inner] = next(given)
            elif inner.op == "output":
                results = fx.node.map_arg(inner.args[0], lambda n: copies[n])
            else:
                if inner.op == "get_attr":  # a region inside, or a constant of its own
                    name = _own_name(graph_module, inner.target)
                    setattr(graph_module, name, getattr(region, str(inner.target)))
                    copies[inner] = graph.create_node("get_attr", name)
                else:
                    copies[inner] = graph.node_copy(inner, lambda n: copies[n])
                copies[inner].meta = dict(inner.meta)
                if "nn_module_stack" in node.meta:
                    copies[inner].meta.setdefault("nn_module_stack", node.meta["nn_module_stack"])
        if detached:
            results = tuple(_detached(graph, r) for r in results)
    for user in list(node.users):
        assert user.target is operator.getitem
        user.replace_all_uses_with(results[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(node)
    if not reference.users:
        graph.erase_node(reference)


def _detached(graph: fx.Graph, result: Any) -> Any:
    if not isinstance(result, fx.Node) or not isinstance(result.meta.get("val"), torch.Tensor):
        return result
    made = graph.call_function(torch.ops.aten.detach.default, (result,))
    made.meta = dict(result.meta)
    return made


def _own_name(graph_module: fx.GraphModule, wanted: Any) -> str:
    name, number = f"region_{wanted}".replace(".", "_"), 0
    while hasattr(graph_module, name):
        number += 1
        name = f"region_{wanted}_{number}".replace(".", "_")
    return name


def _asserts(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    return any(check in name for check in _CHECKS)


def _acts(node: fx.Node) -> bool:
    """Whether a node does more than give a value: writes in place, is an input or the output."""
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)
