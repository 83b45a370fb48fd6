"""A captured module as `decide` sees it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.cut import pruned_shape
from graphprune.decide import Again
from graphprune.plan import Plan
from graphprune.rules.aten.registry import aten
from graphprune.rules.registry import MacRule, no_macs
from graphprune.selection.cost import CostModel
from graphprune.torch.call import Call, call_of, is_tensor
from graphprune.torch.capture import Captured, named_tensors, read
from graphprune.torch.rewrite import rewrite
from graphprune.torch.shapes import dims_of
from graphprune.torch.trace import analyse_captured

Sizes = dict[str, tuple[int, ...]]
UseSizes = dict[tuple[str, int], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class TorchSubject:
    """A captured module, and the plan that has led to it."""

    captured: Captured

    @property
    def sha256(self) -> str:
        """Hash of class, graph and the shapes of weights."""
        return self.captured.sha256

    @property
    def binding(self) -> Mapping[str, int]:
        """torch has no names for dynamic dimensions: sizes are those of the example inputs."""
        return {}

    def analyse(self, *, blocks: bool = True, grid: int = 16) -> DependencyGraph:
        """Groups of the module."""
        return analyse_captured(self.captured, blocks=blocks, grid=grid)

    def weight(self, name: str) -> np.ndarray:
        """Contents of a parameter or buffer."""
        tensor = self.captured.weights.tensors[name].detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        array: np.ndarray = tensor.numpy()
        return array

    def cost(self, graph: DependencyGraph) -> CostModel:
        """Parameters and MACs of an allocation."""
        weights = self.captured.weights
        buffers = {n for n, t in weights.tensors.items() if not isinstance(t, nn.Parameter)}
        return CostModel(graph, self._macs, parameter_count(self.captured), uncounted=buffers)

    def origins(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """A module's weights are the source itself."""
        return {}

    def names(self) -> set[str]:
        """Nodes, parameters and buffers, and the modules that hold them."""
        known = {n.name for n in self.captured.nodes}
        for name in self.captured.weights.tensors:
            while name:
                known.add(name)
                name = name.rpartition(".")[0]
        return known

    def smaller(
        self, plan: Plan, graph: DependencyGraph, again: Again
    ) -> tuple[Plan, DependencyGraph | None, TorchSubject]:
        """The module after `plan`, as a graph."""
        plan, found, made, _ = rewrite(self.captured, plan, graph, again)
        with_sizes(self.captured, plan, made)
        smaller = replace(self.captured, module=None, graph_module=made)
        return plan, found, TorchSubject(smaller)

    @cached_property
    def _priced(self) -> list[tuple[Call, MacRule]]:
        found = []
        for node in self.captured.nodes:
            if node.op != "call_function" or node.target is operator.getitem:
                continue
            call = call_of(node)
            rule = aten.find(call.domain, call.op, None)
            if rule is not None and rule.macs is not no_macs:
                found.append((call, rule.macs))
        return found

    def _macs(self, activations: Sizes, uses: UseSizes) -> int:
        total = 0
        holds = self.captured.weights.holds
        for call, rule in self._priced:

            def dims(node: fx.Node, call: Call = call) -> tuple[int, ...]:
                if holds(node):
                    found = uses.get((call.node.name, call.operands.index(node)))
                else:
                    found = activations.get(node.name)
                return found or dims_of(node.meta.get("val")) or ()

            total += rule(call, dims)
        return total

    def macs(self, plan: Plan | None = None) -> int:
        """Multiply-adds at the example inputs, after `plan` where one is given."""
        if plan is None:
            return self._macs({}, {})
        shapes: dict[str, Any] = {n.name: n for n in self.captured.nodes}
        activations = {
            name: pruned_shape(dims_of(shapes[name].meta["val"]) or (), cuts)
            for name, cuts in plan.tensors.items()
        }
        tensors = self.captured.weights.tensors
        uses = {
            (use.node, use.input): pruned_shape(tensors[use.initializer].shape, use.cuts)
            for use in plan.initializers
        }
        return self._macs(activations, uses)


def parameter_count(captured: Captured) -> int:
    """Elements of all parameters, tied ones once, those that the graph does not read included."""
    if captured.module is None:
        tensors = captured.weights.tensors.values()
        return sum(t.numel() for t in tensors if isinstance(t, nn.Parameter))
    left = [p for n in captured.dropped if isinstance(p := read(captured.module, n), nn.Parameter)]
    return count_parameters(captured.module) - sum(p.numel() for p in left)


def count_parameters(module: nn.Module) -> int:
    """Elements of all parameters of a module, tied ones once."""
    seen = {id(t): t for _, t in named_tensors(module) if isinstance(t, nn.Parameter)}
    return sum(t.numel() for t in seen.values())


def with_sizes(captured: Captured, plan: Plan, made: fx.GraphModule) -> None:
    """Give every node of a pruned graph a fake tensor of its new shape, symbols kept."""
    old = {n.name: n for n in captured.nodes}
    cuts = {name: tuple(c) for name, c in plan.tensors.items()}
    for use in plan.initializers:
        cuts[f"weight {use.initializer}"] = use.cuts
    names = captured.weights.names
    for node in made.graph.nodes:
        before = old.get(node.name)
        if before is None or not is_tensor(before):
            _compute_size(node)
            continue
        key = f"weight {names[before]}" if before in names else node.name
        if key in cuts:
            fake = before.meta["val"]
            shape = list(fake.shape)
            for cut in cuts[key]:
                size = shape[cut.axis]
                shape[cut.axis] = (
                    cut.count if isinstance(size, int) else size * cut.count // cut.size
                )
            node.meta["val"] = fake.new_empty(shape)
    for node in made.graph.nodes:  # what splits and the like give back as a list
        if isinstance(node.meta.get("val"), list | tuple):
            picked = {u.args[1]: u.meta["val"] for u in node.users if u.target is operator.getitem}
            node.meta["val"] = [picked.get(i, v) for i, v in enumerate(node.meta["val"])]


def _compute_size(node: fx.Node) -> None:
    if node.op != "call_function" or not isinstance(node.meta.get("val"), int | torch.SymInt):
        return

    def value(a: Any) -> Any:
        return a.meta["val"] if isinstance(a, fx.Node) else a

    args = [value(a) for a in node.args]
    if node.target is torch.ops.aten.sym_size.int:
        node.meta["val"] = args[0].shape[args[1]]
    else:
        function: Any = node.target
        node.meta["val"] = function(*args)
