"""What is put in order in an exported graph before it is read: assertions and dead nodes go."""

from __future__ import annotations

from torch import fx

from graphprune.torch.inline import inline_regions

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")


def tidy(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Write out wrapped regions, drop assertions on types and sizes, and what nothing reads.

    Assertions hold for the sizes and types of the original; the pruned graph has others.
    """
    inline_regions(graph_module)
    graph = graph_module.graph
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and _asserts(node) and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code(is_impure_node=_acts)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _asserts(node: fx.Node) -> bool:
    name = getattr(node.target, "__name__", str(node.target))
    return any(check in name for check in _CHECKS)


def _acts(node: fx.Node) -> bool:
    """Whether a node does more than give a value: writes in place, is an input or the output."""
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)
