"""What a label rule sees of the node it speaks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.labels import Algebra, Factor, Labels

Dims = Callable[[ir.Value], tuple[int, ...]]
"""Concrete shape of a value."""


@dataclass
class Findings:
    """What an analysis collects while rules run over the nodes."""

    states: dict[ir.Value, Labels] = field(default_factory=dict)
    uses: dict[tuple[ir.Node, int], Labels] = field(default_factory=dict)
    statistics: dict[ir.Node, tuple[int, ...]] = field(default_factory=dict)
    residuals: list[ir.Node] = field(default_factory=list)


class OpContext:
    """One node, its inputs' labels, and where its outputs' labels go."""

    def __init__(
        self,
        node: ir.Node,
        alg: Algebra,
        found: Findings,
        dims: Mapping[ir.Value, tuple[int, ...]],
        values: Mapping[ir.Value, np.ndarray],
        run: Callable[[ir.Graph], None],
        other: Mapping[ir.Value, tuple[int, ...]] | None = None,
    ) -> None:
        self.node = node
        self.alg = alg
        self.found = found
        self._dims = dims
        self._values = values
        self._other = other or {}
        self.run_graph = run

    def beside(self, node: ir.Node) -> OpContext:
        """The same as another node of the graph sees it."""
        tables = self._dims, self._values, self.run_graph, self._other
        return OpContext(node, self.alg, self.found, *tables)

    # -- the node -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the node; where it has none, of its first output."""
        return node_name(self.node)

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute, `default` where it is absent."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def has(self, i: int) -> bool:
        """Whether optional input i is given."""
        return i < len(self.node.inputs) and self.node.inputs[i] is not None

    def shape(self, i: int) -> tuple[int, ...]:
        """Concrete shape of input i."""
        value = self.node.inputs[i]
        assert value is not None
        return self._dims[value]

    def dynamic(self, i: int, axis: int) -> bool:
        """Whether the length of an axis of input i depends on a dynamic dimension."""
        value = self.node.inputs[i]
        assert value is not None
        other = self._other.get(value)
        return other is not None and other[axis] != self._dims[value][axis]

    def dims(self, value: ir.Value) -> tuple[int, ...] | None:
        """Concrete shape of any value, of a body's too; None where it is not known."""
        return self._dims.get(value)

    def out_shape(self, i: int = 0) -> tuple[int, ...]:
        """Concrete shape of output i."""
        return self._dims[self.node.outputs[i]]

    def const(self, i: int) -> np.ndarray | None:
        """Contents of input i where they are known (initializers and shape arithmetic)."""
        if not self.has(i):
            return None
        value = self.node.inputs[i]
        assert value is not None
        known = self._values.get(value)
        if known is None and value.is_initializer() and value.const_value is not None:
            known = value.const_value.numpy()
        return known

    def ints(self, i: int, name: str) -> list[int] | None:
        """Integers that older opsets hold in attribute `name` and newer ones in input i."""
        found = self.const(i) if self.has(i) else self.attr(name)
        return None if found is None else [int(v) for v in np.atleast_1d(np.asarray(found))]

    # -- labels ---------------------------------------------------------------------------------

    def labels(self, i: int) -> Labels:
        """Labels of input i; an initializer that this use has not adopted for yet is a weight."""
        value = self.node.inputs[i]
        assert value is not None
        if (self.node, i) in self.found.uses:
            return self.found.uses[self.node, i]
        state = self.found.states.get(value)
        if state is not None:
            return state
        return Labels(self._dims[value], weight=is_weight(value))

    def moved(self, i: int) -> Labels:
        """Labels of input i for an op that rearranges it: a weight gets labels of its own."""
        t = self.labels(i)
        if t.weight:
            t = self.alg.materialise(t)
            self.adopt(i, t.factors)
        return t

    def adopt(self, i: int, factors: Sequence[Factor]) -> None:
        """This use of an initializer carries `factors` (axes of the initializer)."""
        value = self.node.inputs[i]
        assert value is not None
        if is_weight(value):
            settled = self.alg.settle(factors)
            self.found.uses[self.node, i] = Labels(self._dims[value], settled)

    def set(self, labels: Labels | Sequence[Factor], i: int = 0) -> None:
        """Labels of output i."""
        if i >= len(self.node.outputs):
            return
        value = self.node.outputs[i]
        if not value.name:  # an optional output that nobody wants
            return
        if value not in self._dims:
            factors = labels.factors if isinstance(labels, Labels) else labels
            self.alg.pin(factors, "the shape of its result is not known before it runs")
            return
        if not isinstance(labels, Labels):
            labels = Labels(self._dims[value], tuple(labels))
        dims = self._dims[value]
        assert len(labels.shape) == len(dims), (self.name, labels.shape, dims)
        fits = []
        for factor in labels.factors:
            if tuple(dims[a] for a in factor.axes) == factor.labels.shape:
                fits.append(factor)
            else:  # a stand-in for a size that depends on data
                self.alg.pin(factor, "the shape of its result is not known before it runs")
        self.found.states[value] = Labels(dims, self.alg.settle(fits))

    def pin(self, i: int, reason: str) -> None:
        """Everything tracked on input i has to stay."""
        if self.has(i):
            self.alg.pin(self.labels(i).factors, reason)

    def boundary(self, reason: str) -> None:
        """Nothing is known: all inputs stay whole, outputs are not tracked."""
        for i in range(len(self.node.inputs)):
            self.pin(i, reason)

    def statistic(self, axes: Sequence[int], t: Labels) -> None:
        """This node takes statistics of its first input over `axes`; noted where tracked."""
        if any(t.on(a) is not None for a in axes):
            self.found.statistics[self.node] = tuple(axes)


def is_weight(value: ir.Value) -> bool:
    """An initializer that the caller of the model cannot replace."""
    return value.is_initializer() and not value.is_graph_input()


def from_weights(value: ir.Value | None, depth: int = 8) -> bool:
    """A weight, or computed from weights alone (an embedding table, transposed for the head)."""
    if value is None or is_weight(value):
        return value is not None
    node = value.producer()
    if node is None or depth == 0 or not node.inputs:
        return False
    return all(v is None or from_weights(v, depth - 1) for v in node.inputs)


def node_name(node: ir.Node) -> str:
    """Name of a node; where it has none, of its first output."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def positive(axis: int, rank: int) -> int:
    """A possibly negative axis, counted from the front."""
    return axis + rank if axis < 0 else axis
