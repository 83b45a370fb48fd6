"""An Einsum of an activation and a weight as grouped matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Product:
    """How the axes of `x` and a weight meet. Axes are letters; `.` stands for those of the ellipsis.

    Attributes:
        x: Axes of the activation, in order.
        weight: Of the weight.
        out: Of the result.
        groups: In all three.
        inputs: Summed over.
        outputs: Of the weight alone, in the result.
    """

    x: str
    weight: str
    out: str
    groups: str
    inputs: str
    outputs: str

    @property
    def channel_axes(self) -> tuple[int, ...]:
        """Axes of the result that a weight stands behind, counted from the end."""
        return tuple(self.out.index(a) - len(self.out) for a in self.groups + self.outputs)

    def matrix(self, weight: Array) -> Array:
        """`(groups, inputs, outputs)`."""
        order = [self.weight.index(a) for a in self.groups + self.inputs + self.outputs]
        turned = weight.transpose(order)
        sizes = dict(zip(self.weight, weight.shape, strict=True))
        widths = [int(np.prod([sizes[a] for a in axes])) for axes in self._parts()]
        return turned.reshape(widths)

    def array(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        """The inverse, for a weight of `shape`."""
        sizes = dict(zip(self.weight, shape, strict=True))
        order = self.groups + self.inputs + self.outputs
        unfolded = matrix.reshape([sizes[a] for a in order])
        return unfolded.transpose([order.index(a) for a in self.weight])

    def rows(self, x: Array, groups: int, chosen: Array) -> Array:
        """`(groups, rows, inputs)` at some rows of the result."""
        dots = "".join(chr(0x100 + i) for i in range(x.ndim - len(self.x) + 1))
        given, out = (text.replace(".", dots) for text in (self.x, self.out))
        free = [a for a in out if a not in self.groups + self.outputs]
        turned = x.transpose([given.index(a) for a in (*free, *self.groups, *self.inputs)])
        inputs = int(np.prod(turned.shape[x.ndim - len(self.inputs) :]))
        flat = turned.reshape(-1, groups, inputs)
        return np.ascontiguousarray(flat[chosen].transpose(1, 0, 2))

    def _parts(self) -> tuple[str, str, str]:
        return self.groups, self.inputs, self.outputs


def product_of(equation: str, rank: int) -> Product | None:
    """The operands of an equation, an activation and a weight of `rank` axes; None for others."""
    text = equation.replace(" ", "")
    left, arrow, out = text.partition("->")
    x, comma, weight = left.partition(",")
    if not arrow or not comma or "," in weight or "." in weight or len(weight) != rank:
        return None
    x, out = x.replace("...", "."), out.replace("...", ".")
    if any(len(set(t)) != len(t) for t in (x, weight, out)) or ("." in x) != ("." in out):
        return None
    groups = "".join(a for a in out if a in weight and a in x)
    outputs = "".join(a for a in out if a in weight and a not in x)
    inputs = "".join(a for a in weight if a in x and a not in out)
    summed = [a for a in x if a not in out and a not in weight]
    if summed or not inputs or len(groups + inputs + outputs) != rank:
        return None
    return Product(x, weight, out, groups, inputs, outputs)
