"""Which constant nodes are worth folding: what a model stores must not grow by it.

Folding trades the initializers that nothing reads any more for the results that layers read. The
trade is bad where a weight goes on being stored because something else reads it as it is (an
embedding table and its transpose), where a result is larger than all it is made of (an Expand of a
scalar, a Cast to a wider type), or where several results are made of one weight. There the nodes
stay, and labels are pushed through them as through any others.

1. `find_equal`: nodes that compute the same, in whatever body they stand, are one;
2. `worth_folding`: starting from all of them, a constant is left to its nodes, with everything that
   is computed from it, wherever this makes what is stored smaller by more than 1 KB.

Large tables of integers are folded all the same: what a Gather reads is followed only where its
indices are known.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphprune.onnx.shape_values import LIMIT
from graphprune.onnx.sweep import Sweep

__all__ = ["Equal", "find_equal", "is_constant", "worth_folding"]

_SMALL = 1 << 10
_TABLE = 1 << 20

Key = tuple[Hashable, ...]


@dataclass(frozen=True, eq=False)
class Equal:
    """Constant nodes that compute the same.

    Attributes:
        first: Node -> the first node that computes the same; all candidates are keys.
        home: First node -> the graph where its results are seen by all that read them.
        value: Result of a candidate -> the result of the first node it is equal to.
    """

    first: dict[ir.Node, ir.Node]
    home: dict[ir.Node, ir.Graph]
    value: dict[ir.Value, ir.Value]

    def of(self, value: ir.Value) -> ir.Value:
        """The value that stands for all that are equal to `value`."""
        return self.value.get(value, value)


def is_constant(value: ir.Value) -> bool:
    """Whether it is an initializer that no caller can replace."""
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return False
    return value.is_initializer() and not value.is_graph_input()


def find_equal(model: ir.Model, candidates: Sequence[ir.Node]) -> Equal:
    """Group nodes by what they compute: op, attributes, and operands up to equality.

    Results of nodes in different bodies become one in the innermost graph around these, unless
    their name occurs a second time in the model: there it could hide another value.

    Args:
        model: For the names in it.
        candidates: Nodes computed from constants alone, in topological order.
    """
    taken = Counter(value.name for value in _values(model))
    outer = _outer(model)
    equal = Equal({}, {}, {})
    known: dict[Key, ir.Node] = {}
    for node in candidates:
        if node.op_type == "Identity" and node.inputs[0] is not None:
            equal.value[node.outputs[0]] = equal.of(node.inputs[0])
        key: Key = (node.op_type, _attributes(node), len(node.outputs), *_operands(node, equal))
        first = known.get(key, node)
        if first.graph is not node.graph and any(taken[v.name] > 1 for v in first.outputs):
            key = (id(node.graph), *key)
            first = known.get(key, node)
        known[key] = first
        assert isinstance(node.graph, ir.Graph)
        equal.first[node] = first
        equal.home[first] = _around(equal.home.get(first, node.graph), node.graph, outer)
        for own, other in zip(node.outputs, first.outputs, strict=True):
            equal.value.setdefault(own, equal.of(other))
    return equal


def worth_folding(candidates: Sequence[ir.Node], equal: Equal, sweep: Sweep) -> set[ir.Node]:
    """The candidates whose results are to be stored, or are needed for such results only.

    Args:
        candidates: Nodes computed from constants alone, in topological order.
        equal: What computes the same.
        sweep: Knows the dims and types of their operands and results.
    """
    store = _Store(candidates, equal, sweep)
    for value in reversed(store.order):
        leaving = store.made_from([value])
        if leaving and store.gain(leaving) > _SMALL:
            store.folded -= leaving
    for node in reversed([n for n in candidates if equal.first[n] is n]):
        leaving = store.made_from(node.outputs) | {node}
        if node in store.folded and store.gain(leaving) > _SMALL:
            store.folded -= leaving
    return {node for node in candidates if equal.first[node] in store.folded}


class _Store:
    """What is stored while the nodes `folded` are; of equal nodes only the first one counts."""

    def __init__(self, candidates: Sequence[ir.Node], equal: Equal, sweep: Sweep) -> None:
        self._sweep = sweep
        self._equal = equal
        self._readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
        self._kept: set[ir.Value] = set()
        self.folded = {n for n in candidates if n.op_type != "Identity" and equal.first[n] is n}
        for node in candidates:
            if node in self.folded:
                for value in self._inputs(node):
                    self._readers[value].append(node)
        inside = set(candidates)
        made = (v for node in candidates for v in node.outputs)
        for value in dict.fromkeys([*self._readers, *made]):
            if value.is_graph_output() or any(u.node not in inside for u in value.uses()):
                self._kept.add(equal.of(value))
        self.order = list(self._readers)

    def made_from(self, values: Iterable[ir.Value]) -> set[ir.Node]:
        """The folded nodes that read some of `values`, or what is computed from them."""
        found: set[ir.Node] = set()
        todo = [reader for value in values for reader in self._readers[value]]
        while todo:
            node = todo.pop()
            if node in self.folded and node not in found:
                found.add(node)
                todo += [r for v in node.outputs for r in self._readers[v]]
        return found

    def gain(self, leaving: Collection[ir.Node]) -> int:
        """Bytes that are no longer stored where some folded nodes stay nodes instead."""
        results = {v for node in leaving for v in node.outputs if self._stored(v, self.folded)}
        if any(self._is_table(v) for v in results):
            return 0
        freed = sum(map(self._bytes, results))
        if freed <= _SMALL:
            return 0
        operands = {v for node in leaving for v in self._inputs(node)}
        rest = self.folded.difference(leaving)
        added = {
            v
            for v in operands
            if v.producer() is None or v.producer() in rest
            if self._stored(v, rest) and not self._stored(v, self.folded)
        }
        return freed - sum(map(self._bytes, added))

    def _stored(self, value: ir.Value, folded: set[ir.Node]) -> bool:
        return value in self._kept or any(r not in folded for r in self._readers[value])

    def _inputs(self, node: ir.Node) -> list[ir.Value]:
        return list(dict.fromkeys(self._equal.of(v) for v in node.inputs if v is not None))

    def _is_table(self, value: ir.Value) -> bool:
        dtype = self._sweep.dtypes[value]
        size = math.prod(self._sweep.dims[value])
        return dtype.is_integer() and size > LIMIT and self._bytes(value) <= _TABLE

    def _bytes(self, value: ir.Value) -> int:
        if value.const_value is not None:
            return value.const_value.nbytes
        dims, dtype = self._sweep.dims.get(value), self._sweep.dtypes.get(value)
        return math.ceil(math.prod(dims) * dtype.itemsize) if dims is not None and dtype else 0


def _operands(node: ir.Node, equal: Equal) -> list[Hashable]:
    """What stands for the operands: contents of small constants, identities of others."""
    found: list[Hashable] = []
    for value in node.inputs:
        tensor = None if value is None else equal.of(value).const_value
        if tensor is not None and tensor.nbytes <= _SMALL:
            found.append((tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()))
        else:
            found.append(None if value is None else id(equal.of(value)))
    return found


def _attributes(node: ir.Node) -> bytes:
    """Attributes in an order that does not depend on how they were given."""
    return b"".join(
        sorted(
            ir.serde.serialize_attribute(a).SerializeToString(deterministic=True)
            for a in node.attributes.values()
        )
    )


def _around(one: ir.Graph, other: ir.Graph, outer: Mapping[ir.Graph, ir.Graph]) -> ir.Graph:
    """The innermost graph in which both stand; `outer` has the graph that each body stands in."""
    around = [one]
    while around[-1] in outer:
        around.append(outer[around[-1]])
    while other not in around:
        other = outer[other]
    return other


def _outer(model: ir.Model) -> dict[ir.Graph, ir.Graph]:
    found: dict[ir.Graph, ir.Graph] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for attribute in node.attributes.values():
            bodies: Sequence[ir.Graph] = ()
            if attribute.type == ir.AttributeType.GRAPH:
                bodies = [attribute.as_graph()]
            elif attribute.type == ir.AttributeType.GRAPHS:
                bodies = attribute.as_graphs()
            for body in bodies:
                assert isinstance(node.graph, ir.Graph)
                found[body] = node.graph
    return found


def _values(model: ir.Model) -> Iterable[ir.Value]:
    for graph in [model.graph, *model.graph.subgraphs()]:
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs
