"""What a label rule sees of the ATen node it speaks for."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

from torch import fx

from graphprune.labels import Algebra, Labels
from graphprune.rules.base import Findings, RuleContext
from graphprune.torch.call import Call, is_tensor
from graphprune.torch.capture import Weights
from graphprune.torch.shapes import concrete, dims_of, dynamic_axes


class AtenContext(RuleContext):
    """One ATen node. Operands are numbered; `at` gives the number of a named argument."""

    def __init__(
        self,
        call: Call,
        alg: Algebra,
        found: Findings,
        weights: Weights,
        shapes: dict[Any, tuple[int, ...] | None] | None = None,
    ) -> None:
        super().__init__(call.node, alg, found)
        self.call = call
        self._weights = weights
        self._shapes = {} if shapes is None else shapes

    @property
    def name(self) -> str:
        """Name of the node."""
        return str(self.node.name)

    @property
    def op(self) -> str:
        """Name of the op, without namespace and overload."""
        return self.call.op

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument that is no tensor, its size nodes as numbers."""
        given = self.call.arguments.get(name, default)
        return default if given is None else concrete(given)

    def at(self, name: str) -> int | None:
        """Number of the operand that argument `name` is; None where it is not given."""
        found = self.call.numbers.get(name)
        assert found is None or isinstance(found, int)
        return found

    def list_at(self, name: str) -> tuple[int, ...]:
        """Numbers of the operands in the list `name`."""
        found = self.call.numbers.get(name, ())
        assert isinstance(found, tuple)
        return found

    def has(self, i: int) -> bool:
        """Whether operand i is given."""
        return i < len(self.call.operands) and self.call.operands[i] is not None

    def operands(self) -> int:
        """How many tensors the op reads."""
        return len(self.call.operands)

    def value(self, i: int) -> Hashable:
        """Operand i: a node, or a node and which of its results."""
        node = self.call.operands[i]
        assert node is not None
        return value_of(node)

    def result(self, i: int) -> Hashable | None:
        """Result i: the node itself, or the node and i."""
        if is_tensor(self.node):
            return self.node if i == 0 else None
        return (self.node, i) if self.sizes((self.node, i)) is not None else None

    def is_weight(self, i: int) -> bool:
        """Whether operand i is a parameter or buffer."""
        node = self.call.operands[i]
        return node is not None and self._weights.holds(node)

    def from_weights(self, i: int) -> bool:
        """Whether operand i is computed from parameters and buffers alone."""
        node = self.call.operands[i]
        return node is not None and _from_weights(node, self._weights)

    def sizes(self, value: Any) -> tuple[int, ...] | None:
        """Concrete shape of a value; looked up once in an analysis."""
        if value not in self._shapes:
            self._shapes[value] = self._sizes(value)
        return self._shapes[value]

    def _sizes(self, value: Any) -> tuple[int, ...] | None:
        if isinstance(value, tuple):
            node, i = value
            results = node.meta.get("val")
            many = isinstance(results, list | tuple) and i < len(results)
            return dims_of(results[i]) if many else None
        return dims_of(value.meta.get("val"))

    def dynamic(self, i: int, axis: int) -> bool:
        """Whether the length of an axis of operand i depends on a dynamic dimension."""
        node = self.call.operands[i]
        return node is not None and axis in dynamic_axes(node.meta.get("val"))

    def reshaped(self, labels: Labels) -> None:
        """Set the result: row-major re-bracketing of `labels`."""
        self.set(self.alg.reshape(labels, self.out_shape()))


def value_of(node: fx.Node) -> Hashable:
    """The value that a node stands for: `x[i]` is result i of x."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return (node.args[0], node.args[1])
    return node


def _from_weights(node: fx.Node, weights: Weights, depth: int = 8) -> bool:
    if weights.holds(node):
        return True
    if depth == 0 or node.op != "call_function" or not node.all_input_nodes:
        return False
    read = [n for n in node.all_input_nodes if is_tensor(n)]
    return bool(read) and all(_from_weights(n, weights, depth - 1) for n in read)
