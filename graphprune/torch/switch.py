"""Making a graph that was captured in train mode switch between train and eval mode.

An exported graph holds what `training` was as literals. Each is replaced by a read of the `training`
flag of the module that the node came from, which `train()` and `eval()` set: batch norm, dropout,
attention's dropout, counters of batches, and the random masks of stochastic depth.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

_FLAGS = ("training", "train")
_COUNTER = "num_batches_tracked"


def switchable(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A plain GraphModule that shares the weights of `graph_module` and has working modes.

    In train mode if it was captured so.
    """
    made = fx.GraphModule(graph_module, graph_module.graph)
    graph = made.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            _switch(made, node)
    graph.lint()
    made.recompile()
    made.train(any(_is_flag(n) for n in graph.nodes))
    return made


def _switch(made: fx.GraphModule, node: fx.Node) -> None:
    schema = node.target._schema  # type: ignore[union-attr]
    packet = schema.name.partition("::")[2]
    given = {a.name: i for i, a in enumerate(schema.arguments)}
    mean = given.get("running_mean")
    running = mean is not None and _literal(node, "running_mean", mean) is not None
    if "batch_norm" in packet and not running:
        return  # its statistics are those of its input in both modes
    for name in _FLAGS:
        if name in given and _literal(node, name, given[name]) is True:
            _put(node, name, given[name], _flag(made, node))
            return
    if packet == "instance_norm":
        tracked = len(node.args) > 3 and node.args[3] is not None
        place = given["use_input_stats"]
        if tracked and _literal(node, "use_input_stats", place) is True:
            _put(node, "use_input_stats", place, _flag(made, node))
    elif packet == "scaled_dot_product_attention":
        share = _literal(node, "dropout_p", given["dropout_p"])
        if share:
            flag = _flag(made, node)
            with node.graph.inserting_before(node):
                product = node.graph.call_function(operator.mul, (flag, share))
            _put(node, "dropout_p", given["dropout_p"], product)
    elif packet == "add_" and str(getattr(node.args[0], "target", "")).endswith(_COUNTER):
        node.args = (node.args[0], _flag(made, node))
    elif packet == "bernoulli_" and "p" in given:
        flag = _flag(made, node)
        node.args = (node.args[0], _literal(node, "p", given["p"]), flag)
        node.kwargs = {}
        node.target = bernoulli


def bernoulli(tensor: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Zeros and ones in train mode; in eval mode their mean, so that dividing by it gives one."""
    return tensor.bernoulli_(p) if training else tensor.fill_(p)


def _is_flag(node: fx.Node) -> bool:
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training"


def _literal(node: fx.Node, name: str, place: int) -> Any:
    if name in node.kwargs:
        return node.kwargs[name]
    return node.args[place] if place < len(node.args) else None


def _put(node: fx.Node, name: str, place: int, value: fx.Node) -> None:
    if name in node.kwargs or place >= len(node.args):
        node.update_kwarg(name, value)
    else:
        node.update_arg(place, value)


def _flag(made: fx.GraphModule, node: fx.Node) -> fx.Node:
    """A read of the `training` flag of the module that `node` came from."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    module: nn.Module = made
    parts = [p for p in path.split(".") if p]
    for part in parts:
        inner = getattr(module, part, None)
        if not isinstance(inner, nn.Module):
            inner = nn.Module()
            module.add_module(part, inner)
        module = inner
    with node.graph.inserting_before(node):
        return node.graph.create_node("get_attr", ".".join([*parts, "training"]))
