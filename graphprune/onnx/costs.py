"""MACs and parameters as functions of the sizes of tensors, for budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
import onnx_ir as ir

import graphprune.rules.onnx  # noqa: F401  (registers the rules)
from graphprune.analysis.site import Site
from graphprune.onnx.shapes import Shapes
from graphprune.rules.context import is_weight, node_name
from graphprune.rules.onnx._macs import MACS
from graphprune.rules.registry import MacRule, no_macs, registry


class Sized(Protocol):
    """What is read of `graphprune.onnx.shapes.Shapes`."""

    @property
    def dims(self) -> Mapping[ir.Value, tuple[int, ...]]:
        """Value -> concrete shape."""

    @property
    def values(self) -> Mapping[ir.Value, np.ndarray]:
        """Value -> contents, where shape arithmetic could be folded."""


Sizes = Mapping[str, tuple[int, ...]]
UseSizes = Mapping[tuple[str, int], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class _Priced:
    """A node that costs something."""

    node: ir.Node
    name: str
    rule: MacRule

    def __call__(self, shapes: Shapes, activations: Sizes, uses: UseSizes) -> int:
        def dims(value: ir.Value) -> tuple[int, ...]:
            if is_weight(value):
                found = uses.get((self.name, list(self.node.inputs).index(value)))
            else:
                found = activations.get(value.name or "")
            return shapes.dims[value] if found is None else found

        return self.rule(self.node, dims)


@dataclass(frozen=True, eq=False)
class _Bodies:
    """A node with bodies: the costliest counts, as often as it runs."""

    repeats: int
    bodies: tuple[_Block, ...]

    def __call__(self, shapes: Shapes, activations: Sizes, uses: UseSizes) -> int:
        return self.repeats * max(body(shapes, activations, uses) for body in self.bodies)


@dataclass(frozen=True, eq=False)
class _Block:
    """A graph."""

    parts: tuple[_Priced | _Bodies, ...]

    def __call__(self, shapes: Shapes, activations: Sizes, uses: UseSizes) -> int:
        return sum(part(shapes, activations, uses) for part in self.parts)


def mac_function(model: ir.Model, shapes: Shapes) -> Callable[[Sizes, UseSizes], int]:
    """A function from new shapes of activations and initializer uses to the model's MACs.

    It counts as `graphprune.measure.cost` does: a Loop's body once for each trip, where their
    number is known, a Scan's once for each step, of an If the costlier branch.
    """
    block = _block(model, model.graph, shapes)

    def macs(activations: Sizes, uses: UseSizes) -> int:
        return block(shapes, activations, uses)

    return macs


def work_function(model: ir.Model, shapes: Shapes) -> Callable[[Sizes, UseSizes], dict[str, float]]:
    """A function from new shapes to how much each node of the top graph works, by node name.

    Multiply-adds where it has any, else the elements that it makes: what its time follows.
    """
    block = _block(model, model.graph, shapes)
    priced = {p.name: p for p in block.parts if isinstance(p, _Priced)}
    others = {
        node_name(node): [v for v in node.outputs if v in shapes.dims]
        for node in model.graph
        if node_name(node) not in priced
    }

    def work(activations: Sizes, uses: UseSizes) -> dict[str, float]:
        found = {name: float(part(shapes, activations, uses)) for name, part in priced.items()}
        for name, values in others.items():
            made = [activations.get(v.name or "", shapes.dims[v]) for v in values]
            found[name] = float(sum(prod(d) for d in made))
        return found

    return work


def _block(model: ir.Model, graph: ir.Graph, shapes: Shapes) -> _Block:
    parts: list[_Priced | _Bodies] = []
    for node in graph:
        graphs = [a for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        if graphs:
            bodies = tuple(_block(model, a.as_graph(), shapes) for a in graphs)
            if any(body.parts for body in bodies):
                parts.append(_Bodies(repeats(node, shapes), bodies))
            continue
        rule = mac_rule(model, node)
        if rule is None or rule is no_macs:
            continue
        priced = _Priced(node, node_name(node), rule)
        try:
            priced(shapes, {}, {})
        except KeyError:  # a shape that is not known
            continue
        parts.append(priced)
    return _Block(tuple(parts))


def mac_rule(model: ir.Model, node: ir.Node) -> MacRule | None:
    """The registered rule of a node and, for an op without one, that of the plain MAC table."""
    rule = registry.find(node.domain, node.op_type, model.opset_imports.get(node.domain))
    if rule is not None:
        return rule.macs
    domain = "" if node.domain == "ai.onnx" else node.domain
    return MACS.get((domain, node.op_type))


def repeats(node: ir.Node, shapes: Sized) -> int:
    """How often a body runs: 1 where that depends on the data."""
    if node.op_type == "Loop" and node.inputs and node.inputs[0] is not None:
        trips = shapes.values.get(node.inputs[0])
        if trips is None and node.inputs[0].const_value is not None:
            trips = node.inputs[0].const_value.numpy()
        return 1 if trips is None else max(0, int(np.asarray(trips).reshape(-1)[0]))
    if node.op_type == "Scan":
        count = node.attributes["num_scan_inputs"].as_int()
        scanned = node.inputs[-count] if count else None
        axes = node.attributes.get("scan_input_axes")
        dims = None if scanned is None else shapes.dims.get(scanned)
        if dims is not None:
            return dims[axes.as_ints()[0] if axes is not None else 0]
    return 1


def whole_uses(model: ir.Model, sites: Iterable[Site]) -> frozenset[str]:
    """Initializers that something reads without tracking: they stay beside every copy cut of them.

    Graph outputs count as readers.
    """
    tracked = {(site.node, site.input) for site in sites if site.is_weight}
    found: set[str] = set()
    for graph in [model.graph, *model.graph.subgraphs()]:
        found.update(v.name or "" for v in graph.outputs if is_weight(v))
        for node in graph:
            for i, value in enumerate(node.inputs):
                if value is not None and is_weight(value) and (node_name(node), i) not in tracked:
                    found.add(value.name or "")
    return frozenset(found)
