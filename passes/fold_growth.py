"""Which constant nodes are worth folding: what a model stores must not grow by it.

Folding trades the initializers that nothing reads any more for the results that layers read. The
trade is bad where a weight goes on being stored because something else reads it as it is (an
embedding table and its transpose), where a result is larger than all it is made of (an Expand of a
scalar, a Cast to a wider type), or where several results are made of one weight. There the nodes
stay, and labels are pushed through them as through any others.

1. `find_equal`: nodes that compute the same, in whatever body they stand, are one;
2. `worth_folding`: of all ways to fold some of them the one that stores least; a node that saves no
   more than 1 KB is folded all the same.

Large tables of integers are folded all the same: what a Gather reads is followed only where its
indices are known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphprune.onnx.shape_values import LIMIT
from graphprune.onnx.sweep import Sweep

__all__ = ["Equal", "find_equal", "is_constant", "worth_folding"]

_SOURCE, _SINK = "source", "sink"
_SMALL = 1 << 10
_TABLE = 1 << 20
_MOST = (1 << 30) - 1

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
        candidates: Nodes computed from constants alone, in topological order, all of them read.
        equal: What computes the same.
        sweep: Knows the dims and types of their results.
    """
    store = _Store(candidates, equal, sweep)
    stay = set() if store.is_small() else store.least()
    for node in [n for n in candidates if n in stay]:
        less = stay - store.needed(node, stay)
        if store.bytes(less) - store.bytes(stay) <= _SMALL:
            stay = less
    return {node for node in candidates if equal.first[node] not in stay}


class _Store:
    """What is stored, as a function of the nodes that stay; of equal ones only the first counts.

    Where a node stays, all that is computed from it stays. A value is stored where something that
    stays or that is no candidate reads it, and the node that makes it, if any, does not stay.
    """

    def __init__(self, candidates: Sequence[ir.Node], equal: Equal, sweep: Sweep) -> None:
        nodes = [n for n in candidates if n.op_type != "Identity" and equal.first[n] is n]
        self._inputs = {
            node: list(dict.fromkeys(equal.of(v) for v in node.inputs if v is not None))
            for node in nodes
        }
        self._maker = {v: node for node in nodes for v in node.outputs}
        self._readers: dict[ir.Value, list[ir.Node]] = {v: [] for v in self._maker}
        for node, values in self._inputs.items():
            for value in values:
                self._readers.setdefault(value, []).append(node)
        self._bytes = {value: _bytes(value, sweep) for value in self._readers}
        self._tables = [v for v in self._maker if _is_table(v, sweep)]
        inside = set(candidates)
        self._kept = {
            equal.of(value)
            for value in [*self._readers, *equal.value]
            if any(use.node not in inside for use in value.uses()) or value.is_graph_output()
        }

    def is_small(self) -> bool:
        """Whether no result is of a size that matters."""
        return all(self._bytes[value] <= _SMALL for value in self._maker)

    def bytes(self, stay: Set[ir.Node]) -> int:
        """What is stored where some nodes stay."""
        return sum(
            self._bytes[value]
            for value, readers in self._readers.items()
            if self._maker.get(value) not in stay
            if value in self._kept or any(reader in stay for reader in readers)
        )

    def least(self) -> set[ir.Node]:
        """The nodes that stay where least is stored; of several such sets the smallest.

        A minimum cut of a network: on the side of its source are the nodes that stay and the values
        that are read by what stays, and an arc of its bytes leads from a value to its maker.
        """
        arcs = _Arcs(sum(self._bytes.values()))
        for value, readers in self._readers.items():
            maker = self._maker.get(value)
            arcs.add(value, maker or _SINK, self._bytes[value])
            for node in readers:
                arcs.add(node, value)
                if maker is not None:
                    arcs.add(maker, node)
        for value in self._kept:
            arcs.add(_SOURCE, value)
        for value in self._tables:
            arcs.add(self._maker[value], _SINK)
        return self._inputs.keys() & arcs.cut()

    def needed(self, node: ir.Node, stay: Set[ir.Node]) -> set[ir.Node]:
        """A node of `stay` and those that it is computed from."""
        found: set[ir.Node] = set()
        todo = [node]
        while todo:
            maker = todo.pop()
            if maker in stay and maker not in found:
                found.add(maker)
                todo += [self._maker[v] for v in self._inputs[maker] if v in self._maker]
        return found


class _Arcs:
    """A network from _SOURCE to _SINK, whose other vertices are nodes and values."""

    def __init__(self, total: int) -> None:
        self._unit = total // _MOST + 1  # scipy asks for int32
        self._numbers: dict[object, int] = {_SOURCE: 0, _SINK: 1}
        self._sizes: dict[tuple[int, int], int] = {}

    def add(self, start: object, end: object, size: int | None = None) -> None:
        """An arc of so many bytes; without a size, one that is never cut."""
        pair = (self._number(start), self._number(end))
        self._sizes[pair] = _MOST if size is None else size // self._unit

    def cut(self) -> set[object]:
        """What is on the side of the source in the cut of fewest bytes, the smallest such side."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        rows, columns = np.array(list(self._sizes)).T
        sizes = np.array(list(self._sizes.values()), np.int32)
        count = len(self._numbers)
        capacity = csr_array((sizes, (rows, columns)), (count, count))
        left = csr_array(capacity - maximum_flow(capacity, 0, 1).flow)
        left.eliminate_zeros()
        reached = set(breadth_first_order(left, 0, return_predecessors=False).tolist())
        return {vertex for vertex, number in self._numbers.items() if number in reached}

    def _number(self, vertex: object) -> int:
        return self._numbers.setdefault(vertex, len(self._numbers))


def _bytes(value: ir.Value, sweep: Sweep) -> int:
    if value.const_value is not None:
        return value.const_value.nbytes
    dims, dtype = sweep.dims.get(value), sweep.dtypes.get(value)
    return 0 if dims is None or dtype is None else math.ceil(math.prod(dims) * dtype.itemsize)


def _is_table(value: ir.Value, sweep: Sweep) -> bool:
    """Whether its contents would not be known any more if its node stayed."""
    if not value.name or not sweep.dtypes[value].is_integer():
        return False
    return math.prod(sweep.dims[value]) > LIMIT and _bytes(value, sweep) <= _TABLE


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
