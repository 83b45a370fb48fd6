"""Multiply-accumulates of a model: the sum of what the op rules say.

Convention: 1 MAC = one multiply-add of a contraction; elementwise ops, norms, pools and lookups
count 0 (`graphprune.rules.onnx._macs`). A Loop counts its body once for each trip, where the number
of trips is known, a Scan once for each step, an If the costlier branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from graphprune.onnx.costs import Sized, mac_rule, repeats
from graphprune.rules.context import Dims, node_name

MacRule = Callable[[ir.Node, Dims], int]


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
    shapes: Sized,
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

    counter = _Counter(shapes, dims, find or partial(mac_rule, model))
    by_node = counter.graph(model.graph)
    return MacCount(sum(by_node.values()), by_node, tuple(counter.unknown))


class _Unknown(Exception):
    """A value without a known shape."""


class _Counter:
    def __init__(
        self, shapes: Sized, dims: Dims, find: Callable[[ir.Node], MacRule | None]
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
            times = repeats(node, self.shapes)
            return {name: macs * times for name, macs in costliest.items() if times}
        rule = self.find(node)
        if rule is None:
            return {}
        try:
            macs = rule(node, self.dims)
        except _Unknown:
            self.unknown.append(node_name(node))
            return {}
        return {node_name(node): macs} if macs else {}
