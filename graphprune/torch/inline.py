"""Graphs within a graph, written out: what `torch.no_grad()` and the like leave behind in an export.

torch.export puts a region with another gradient mode, or with autocast switched off, into a graph of
its own behind a higher-order op. Its ops are ordinary ones; written out, labels pass through them.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_GRAD = "wrap_with_set_grad_enabled"
_AUTOCAST = "wrap_with_autocast"


def inline_regions(module: fx.GraphModule) -> None:
    """Write out, in place, the regions that mean nothing else when their ops stand in the graph.

    What comes out of a region without gradients is detached. A region in which autocast is *on*
    stays as it is: its ops would run in another type outside of it.
    """
    found = True
    while found:
        found = any(_inlined(module, node) for node in list(module.graph.nodes))
    for node in list(module.graph.nodes):
        if _unused_region(module, node):
            module.graph.erase_node(node)
            delattr(module, str(node.target))
    module.recompile()


def _inlined(module: fx.GraphModule, node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    kind = str(node.target)
    if kind == _GRAD:
        detached, region, *given = node.args
    elif kind == _AUTOCAST and node.args[2] is False:
        detached, region, *given = True, *node.args[4:]
    else:
        return False
    inner = _graph(module, region)
    if inner is None or node.kwargs:
        return False
    results = _copied(module, inner, node, given)
    if detached is False:
        with module.graph.inserting_before(node):
            results = [_detached(module.graph, r) for r in results]
    for user in list(node.users):
        assert user.target is operator.getitem
        result = results[user.args[1]]  # type: ignore[index]
        user.replace_all_uses_with(result)
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    return True


def _graph(module: fx.GraphModule, region: Any) -> fx.GraphModule | None:
    found = getattr(module, str(region.target), None) if isinstance(region, fx.Node) else None
    return found if isinstance(found, fx.GraphModule) else None


def _copied(
    module: fx.GraphModule, inner: fx.GraphModule, before: fx.Node, given: list[Any]
) -> list[Any]:
    """The nodes of `inner` in front of `before`; what its output node gives back."""
    known: dict[fx.Node, Any] = {}
    inputs = iter(given)
    with module.graph.inserting_before(before):
        for node in inner.graph.nodes:
            if node.op == "placeholder":
                known[node] = next(inputs)
            elif node.op == "output":
                results = fx.node.map_arg(node.args[0], lambda n: known[n])
                return list(results) if isinstance(results, list | tuple) else [results]
            else:
                if node.op == "get_attr":  # a region within the region
                    name = f"{before.name}_{node.target}"
                    setattr(module, name, getattr(inner, str(node.target)))
                    known[node] = module.graph.get_attr(name)
                    continue
                known[node] = module.graph.node_copy(node, lambda n: known[n])
                known[node].meta = dict(node.meta)
    return []


def _detached(graph: fx.Graph, node: Any) -> Any:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return node
    made = graph.call_function(torch.ops.aten.detach.default, (node,))
    made.meta = {k: v for k, v in node.meta.items() if k != "nn_module_stack"} | {"val": value}
    return made


def _unused_region(module: fx.GraphModule, node: fx.Node) -> bool:
    """A get_attr of a graph that nobody calls any more."""
    return (
        node.op == "get_attr"
        and not node.users
        and isinstance(getattr(module, str(node.target), None), fx.GraphModule)
    )
