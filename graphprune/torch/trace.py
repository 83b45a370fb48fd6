"""Running the label rules over a captured graph: from a module to sites."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

import graphprune.rules.aten  # noqa: F401  (registers the rules)
from graphprune.analysis.dependency import DependencyGraph, build
from graphprune.analysis.site import Link, Residual, Site, Statistic
from graphprune.labels import Algebra
from graphprune.rules.aten.registry import aten
from graphprune.rules.base import Findings
from graphprune.torch.call import Call, call_of, is_tensor
from graphprune.torch.capture import Captured
from graphprune.torch.context import AtenContext, value_of
from graphprune.torch.shapes import dims_of, dynamic_axes


def analyse_captured(captured: Captured, *, blocks: bool = True, grid: int = 16) -> DependencyGraph:
    """Groups of a captured module (see `Algebra` for the arguments)."""
    run = _Run(captured, Algebra(blocks=blocks, grid=grid))
    for node in captured.nodes:
        run.node(node)
    run.tie_uses()
    return run.result()


class _Run:
    def __init__(self, captured: Captured, alg: Algebra) -> None:
        self.weights = captured.weights
        self.alg = alg
        self.found = Findings()
        self.calls: list[Call] = []
        self.shapes: dict[Any, tuple[int, ...] | None] = {}

    def node(self, node: fx.Node) -> None:
        self.alg.space.node = node.name
        if node.op == "output":
            self._output(node)
            return
        if node.op != "call_function" or node.target is operator.getitem:
            return
        call = call_of(node)
        if not call.operands and not _makes_tensor(node):
            return  # arithmetic of sizes
        self.calls.append(call)
        ctx = AtenContext(call, self.alg, self.found, self.weights, self.shapes)
        rule = aten.find(call.domain, call.op, None)
        read = [n for n in call.operands if n is not None]
        unknown = next((n for n in [node, *read] if _unknown(n)), None)
        if rule is None:
            self._pin(call, f"no rule for the op {call.domain}::{call.op}")
        elif rule.boundary:
            self._pin(call, rule.boundary)
        elif unknown is not None:
            self._pin(call, f"the shape of '{unknown.name}' depends on data")
        else:
            rule.labels(ctx)
        self.alg.space.node = node.name

    def _pin(self, call: Call, reason: str) -> None:
        for i, node in enumerate(call.operands):
            if node is None:
                continue
            state = self.found.states.get(value_of(node))
            if state is not None:
                self.alg.pin(state.factors, reason)
            elif self.weights.holds(node):
                self.found.uses.pop((call.node, i), None)

    def _output(self, node: fx.Node) -> None:
        for read in node.all_input_nodes:
            state = self.found.states.get(value_of(read))
            if state is not None:
                self.alg.pin(state.factors, f"it is an output of the module ('{read.name}')")

    def tie_uses(self) -> None:
        """A weight is one tensor: the same of it leaves in all its uses."""
        uses: dict[str, list[tuple[fx.Node, int]]] = {}
        for call in self.calls:
            for i, node in enumerate(call.operands):
                if node is not None and self.weights.holds(node):
                    uses.setdefault(self.weights.names[node], []).append((call.node, i))
        for name, found in uses.items():
            if len(found) < 2:
                continue
            states = [self.found.uses.get(use) for use in found]
            known = [s for s in states if s is not None]
            self.alg.space.node = found[0][0].name
            for state in known:
                for factor in state.factors:
                    if not all(s is not None and s.on(factor.removal) for s in states):
                        self.alg.pin(factor, f"another use of '{name}' needs all of it")
            if len(known) > 1:
                self.alg.meet(known, blocks=False)

    # -- what was found -------------------------------------------------------------------------

    def result(self) -> DependencyGraph:
        sites: list[Site] = []
        links: list[Link] = []
        for order, call in enumerate(self.calls):
            reads: list[str] = []
            for i, node in enumerate(call.operands):
                if node is None:
                    continue
                use = self.found.uses.get((call.node, i))
                if use is not None and use.factors:
                    sites.append(self._weight_site(call, i, node, order))
                    reads.append(self.weights.names[node])
                else:
                    state = self.found.states.get(value_of(node))
                    if state is not None and state.factors:
                        reads.append(node.name)
            made = self._results(call, order)
            sites.extend(made)
            if reads or made:
                links.append(
                    Link(call.node.name, call.op, tuple(reads), tuple(s.name for s in made))
                )
        graph = build(self.alg, sites, self._statistics(), self._residuals(), links)
        return graph

    def _weight_site(self, call: Call, i: int, node: fx.Node, order: int) -> Site:
        use = self.found.uses[call.node, i]
        name = self.weights.names[node]
        tensor = self.weights.tensors[name]
        strong = tensor.is_floating_point() or tensor.dtype in (torch.int8, torch.uint8)
        owner = str(node.target).rpartition(".")[0]
        no_axes: frozenset[int] = frozenset()
        return Site(
            name, call.node.name, call.op, i, use.shape, use.factors, no_axes, strong, order, owner
        )

    def _results(self, call: Call, order: int) -> list[Site]:
        """Sites of what a node makes; result i of many is named after the node that picks it."""
        node = call.node
        named: list[tuple[str, object, object]] = []
        if is_tensor(node):
            named.append((node.name, node, node.meta["val"]))
        else:
            for user in node.users:
                if user.target is operator.getitem:
                    named.append((user.name, value_of(user), user.meta.get("val")))
        sites = []
        for name, value, tensor in named:
            state = self.found.states.get(value)
            if state is None or not state.factors:
                continue
            axes = dynamic_axes(tensor)
            sites.append(
                Site(name, node.name, call.op, -1, state.shape, state.factors, axes, False, order)
            )
        return sites

    def _statistics(self) -> list[Statistic]:
        by_node = {c.node: c for c in self.calls}
        result = []
        for node, axes in self.found.statistics.items():
            call = by_node[node]
            first = next(i for i, n in enumerate(call.operands) if n is not None)
            ctx = AtenContext(call, self.alg, self.found, self.weights, self.shapes)
            result.append(Statistic(node.name, call.op, axes, ctx.labels(first).factors))
        return result

    def _residuals(self) -> list[Residual]:
        states = self.found.states
        return [Residual(n.name, states[n].factors) for n in self.found.residuals if n in states]


def _makes_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor | list | tuple)


def _unknown(node: fx.Node) -> bool:
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(t, torch.Tensor) and dims_of(t) is None for t in tensors)
