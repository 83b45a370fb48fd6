"""What a label rule sees of the node it speaks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.labels import Algebra
from graphprune.rules.base import Findings, RuleContext, positive

__all__ = ["Dims", "Findings", "OpContext", "from_weights", "is_weight", "node_name", "positive"]

Dims = Callable[[ir.Value], tuple[int, ...]]
"""Concrete shape of a value."""


class OpContext(RuleContext):
    """One ONNX node, its inputs' labels, and where its outputs' labels go."""

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
        super().__init__(node, alg, found)
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

    def operands(self) -> int:
        """How many inputs there are, absent ones included."""
        return len(self.node.inputs)

    def value(self, i: int) -> ir.Value:
        """Input i."""
        value: ir.Value | None = self.node.inputs[i]
        assert value is not None
        return value

    def result(self, i: int) -> ir.Value | None:
        """Output i; None for an optional one that nobody wants."""
        if i >= len(self.node.outputs):
            return None
        value: ir.Value = self.node.outputs[i]
        return value if value.name else None

    def is_weight(self, i: int) -> bool:
        """Whether input i is an initializer that the caller cannot replace."""
        return is_weight(self.value(i))

    def from_weights(self, i: int) -> bool:
        """Whether input i is a weight or computed from weights alone."""
        return from_weights(self.value(i))

    def sizes(self, value: Any) -> tuple[int, ...] | None:
        """Concrete shape of any value, of a body's too; None where it is not known."""
        return self._dims.get(value)

    def dynamic(self, i: int, axis: int) -> bool:
        """Whether the length of an axis of input i depends on a dynamic dimension."""
        value = self.node.inputs[i]
        assert value is not None
        other = self._other.get(value)
        return other is not None and other[axis] != self._dims[value][axis]

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
