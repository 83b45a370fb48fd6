"""Multiply-accumulates of a model: the sum of what the op rules say.

Convention: 1 MAC = one multiply-add of a contraction; elementwise ops, norms, pools and lookups
count 0 (`graphprune.rules.onnx._macs`). A Loop counts its body once for each trip, where the number
of trips is known, a Scan once for each step, an If the costlier branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from graphprune.rules.context import Dims, node_name

MacRule = Callable[[ir.Node, Dims], int]


class ConcreteShapes(Protocol):
    """What counting needs of `graphprune.onnx.shapes.Shapes`."""

    @property
    def dims(self) -> Mapping[ir.Value, tuple[int, ...]]:
        """Value -> concrete shape."""

    @property
    def values(self) -> Mapping[ir.Value, np.ndarray]:
        """Value -> contents, where shape arithmetic could be folded."""


@dataclass(frozen=True)
class MacCount:
    """MACs of one run at one binding of the dynamic dimensions.

    Attributes:
        total: Their sum.
        by_node: Node (its name, or its first output's where it has none) -> MACs, only where > 0.
        unknown: Contractions whose shapes are not known, which `total` therefore misses.
    """

    total: int
    by_node: Mapping[str, int]
    unknown: tuple[str, ...] = ()


def count_macs(
    model: ir.Model,
    shapes: ConcreteShapes,
    find: Callable[[ir.Node], MacRule | None] | None = None,
) -> MacCount:
    """Count the MACs of one run of `model` at the binding `shapes` was inferred with.

    Args:
        model: With functions inlined (a call to a model-local function counts 0).
        shapes: Concrete shapes of every value, subgraph bodies included.
        find: Gives the MAC rule of a node, None where it costs nothing; default: the op rules.
    """

    def dims(value: ir.Value) -> tuple[int, ...]:
        shape = shapes.dims.get(value)
        if shape is None and value.const_value is not None:
            shape = tuple(value.const_value.shape.numpy())
        if shape is None:
            raise _Unknown(value.name)
        return shape

    counter = _Counter(shapes, dims, find or _registered(model))
    by_node = counter.graph(model.graph)
    return MacCount(sum(by_node.values()), by_node, tuple(counter.unknown))


class _Unknown(Exception):
    """A value without a known shape."""


class _Counter:
    def __init__(
        self, shapes: ConcreteShapes, dims: Dims, find: Callable[[ir.Node], MacRule | None]
    ) -> None:
        self.shapes = shapes
        self.dims = dims
        self.find = find
        self.unknown: list[str] = []

    def graph(self, graph: ir.Graph) -> dict[str, int]:
        found: dict[str, int] = {}
        for node in graph:
            for name, macs in self.node(node).items():
                found[name] = found.get(name, 0) + macs
        return found

    def node(self, node: ir.Node) -> dict[str, int]:
        graphs = [a for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        if graphs:
            bodies = [self.graph(a.as_graph()) for a in graphs]
            costliest = max(bodies, key=lambda body: sum(body.values()))
            repeats = self.repeats(node)
            return {name: macs * repeats for name, macs in costliest.items() if repeats}
        rule = self.find(node)
        if rule is None:
            return {}
        try:
            macs = rule(node, self.dims)
        except _Unknown:
            self.unknown.append(node_name(node))
            return {}
        return {node_name(node): macs} if macs else {}

    def repeats(self, node: ir.Node) -> int:
        """How often a body runs: 1 where that depends on the data."""
        if node.op_type == "Loop" and node.inputs and node.inputs[0] is not None:
            trips = self.shapes.values.get(node.inputs[0])
            if trips is None and node.inputs[0].const_value is not None:
                trips = node.inputs[0].const_value.numpy()
            return 1 if trips is None else max(0, int(np.asarray(trips).reshape(-1)[0]))
        if node.op_type == "Scan":
            count = node.attributes["num_scan_inputs"].as_int()
            axes = node.attributes.get("scan_input_axes")
            scanned = self.shapes.dims.get(node.inputs[-count]) if count else None  # type: ignore[arg-type]
            if scanned is not None:
                return scanned[axes.as_ints()[0] if axes is not None else 0]
        return 1


def _registered(model: ir.Model) -> Callable[[ir.Node], MacRule | None]:
    """Looks up the registered rule of a node and, for an op without one, the plain MAC table."""
    import graphprune.rules.onnx  # noqa: F401  (registers the rules)
    from graphprune.rules.onnx._macs import MACS
    from graphprune.rules.registry import registry

    def find(node: ir.Node) -> MacRule | None:
        version = model.graph.opset_imports.get(node.domain)
        rule = registry.find(node.domain, node.op_type, version)
        if rule is not None:
            return rule.macs
        domain = "" if node.domain == "ai.onnx" else node.domain
        return MACS.get((domain, node.op_type))

    return find
