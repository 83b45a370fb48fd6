"""What label rules of every front end speak to: one node, the labels of what it reads and makes.

The front ends (`rules/context.py` for ONNX, `torch/context.py` for ATen) say what an operand is; all
that is done with labels is here and in `rules/shared/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprune.labels import Algebra, Factor, Labels

_UNKNOWN = "the shape of its result is not known before it runs"


@dataclass
class Findings:
    """What an analysis collects while rules run over the nodes.

    Attributes:
        states: Value -> its labels.
        uses: (node, operand number) of an initializer -> the labels that this use adopted.
        statistics: Node -> axes over which it takes statistics of its first operand.
        residuals: Nodes that join the widths of two producers by addition.
    """

    states: dict[Any, Labels] = field(default_factory=dict)
    uses: dict[tuple[Any, int], Labels] = field(default_factory=dict)
    statistics: dict[Any, tuple[int, ...]] = field(default_factory=dict)
    residuals: list[Any] = field(default_factory=list)


class RuleContext(ABC):
    """One node, its operands' labels, and where its results' labels go.

    Attributes:
        node: The node of the front end.
        alg: The algebra.
        found: What the analysis has found so far.
    """

    def __init__(self, node: Any, alg: Algebra, found: Findings) -> None:
        self.node = node
        self.alg = alg
        self.found = found

    # -- what a front end says ------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the node."""

    @abstractmethod
    def has(self, i: int) -> bool:
        """Whether operand i is given."""

    @abstractmethod
    def operands(self) -> int:
        """How many operands there are, absent ones included."""

    @abstractmethod
    def value(self, i: int) -> Hashable:
        """What operand i is."""

    @abstractmethod
    def result(self, i: int) -> Hashable | None:
        """What result i is; None where nobody wants it."""

    @abstractmethod
    def is_weight(self, i: int) -> bool:
        """Whether operand i is an initializer."""

    @abstractmethod
    def from_weights(self, i: int) -> bool:
        """Whether operand i is a weight or computed from weights alone."""

    @abstractmethod
    def sizes(self, value: Any) -> tuple[int, ...] | None:
        """Concrete shape of a value; None where it is not known."""

    # -- labels ---------------------------------------------------------------------------------

    def shape(self, i: int) -> tuple[int, ...]:
        """Concrete shape of operand i."""
        found = self.sizes(self.value(i))
        if found is None:
            raise KeyError(self.name)
        return found

    def out_shape(self, i: int = 0) -> tuple[int, ...]:
        """Concrete shape of result i."""
        found = self.sizes(self.result(i))
        if found is None:
            raise KeyError(self.name)
        return found

    def labels(self, i: int) -> Labels:
        """Labels of operand i; an initializer that this use has not adopted for yet is a weight."""
        if (self.node, i) in self.found.uses:
            return self.found.uses[self.node, i]
        state = self.found.states.get(self.value(i))
        if state is not None:
            return state
        return Labels(self.shape(i), weight=self.is_weight(i))

    def moved(self, i: int) -> Labels:
        """Labels of operand i for an op that rearranges it: a weight gets labels of its own."""
        t = self.labels(i)
        if t.weight:
            t = self.alg.materialise(t)
            self.adopt(i, t.factors)
        return t

    def adopt(self, i: int, factors: Sequence[Factor]) -> None:
        """This use of an initializer carries `factors` (axes of the initializer)."""
        if self.is_weight(i):
            settled = self.alg.settle(factors)
            self.found.uses[self.node, i] = Labels(self.shape(i), settled)

    def set(self, labels: Labels | Sequence[Factor], i: int = 0) -> None:
        """Labels of result i."""
        value = self.result(i)
        if value is None:
            return
        dims = self.sizes(value)
        if dims is None:
            factors = labels.factors if isinstance(labels, Labels) else labels
            self.alg.pin(factors, _UNKNOWN)
            return
        if not isinstance(labels, Labels):
            labels = Labels(dims, tuple(labels))
        assert len(labels.shape) == len(dims), (self.name, labels.shape, dims)
        fits = []
        for factor in labels.factors:
            if tuple(dims[a] for a in factor.axes) == factor.labels.shape:
                fits.append(factor)
            else:  # a stand-in for a size that depends on data
                self.alg.pin(factor, _UNKNOWN)
        self.found.states[value] = Labels(dims, self.alg.settle(fits))

    def pin(self, i: int, reason: str) -> None:
        """Everything tracked on operand i has to stay."""
        if self.has(i):
            self.alg.pin(self.labels(i).factors, reason)

    def boundary(self, reason: str) -> None:
        """Nothing is known: all operands stay whole, results are not tracked."""
        for i in range(self.operands()):
            self.pin(i, reason)

    def statistic(self, axes: Sequence[int], t: Labels) -> None:
        """This node takes statistics of its first operand over `axes`; noted where tracked."""
        if any(t.on(a) is not None for a in axes):
            self.found.statistics[self.node] = tuple(axes)

    def residual(self) -> None:
        """This node joins the widths of two producers by addition."""
        self.found.residuals.append(self.node)


def positive(axis: int, rank: int) -> int:
    """A possibly negative axis, counted from the front."""
    return axis + rank if axis < 0 else axis
