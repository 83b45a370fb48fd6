"""Sites: the places in a model where labels sit. The adapters (ONNX, torch) make them, nothing else
of a model reaches the analysis."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.labels import Factor


@dataclass(frozen=True, eq=False)
class Site:
    """A tensor, or one use of an initializer, with its labels.

    Attributes:
        name: Name of the activation or the initializer.
        node: The producer of an activation, the consumer of an initializer (its name).
        op: Op type of that node.
        input: Which input of `node` an initializer is; -1 for an activation.
        shape: Concrete sizes at the binding of the analysis.
        factors: The labels.
        dynamic: Axes whose size depends on the binding.
        strong: An initializer that holds weights (floating point or quantised): only classes that
            run through one may leave.
        order: Position of `node` in the graph.
        owner: What the user calls the layer, e.g. the path of a torch module; empty if unknown.
    """

    name: str
    node: str
    op: str
    input: int
    shape: tuple[int, ...]
    factors: tuple[Factor, ...]
    dynamic: frozenset[int]
    strong: bool
    order: int
    owner: str = ""

    @property
    def is_weight(self) -> bool:
        """Whether this is a use of an initializer."""
        return self.input >= 0


@dataclass(frozen=True, eq=False)
class Statistic:
    """A node that takes statistics of its input over `axes`."""

    node: str
    op: str
    axes: tuple[int, ...]
    factors: tuple[Factor, ...]


@dataclass(frozen=True, eq=False)
class Residual:
    """A node that adds two tensors whose channels come from different producers."""

    node: str
    factors: tuple[Factor, ...]


@dataclass(frozen=True)
class Link:
    """One node, and the names of the tracked tensors and initializers it reads and writes."""

    node: str
    op: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
