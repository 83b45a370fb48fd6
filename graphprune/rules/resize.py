"""What a resize rule sees: the sizes of a node before and after pruning.

A rule says what the attributes and size operands of its node become. It runs once for each binding
of the dynamic dimensions; operands that come out differently stay dynamic (see `passes/prune.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.cut import Cut, pruned_shape


class Resize:
    """Old and new sizes of one node at one binding; collects edits.

    Attributes:
        opset: Version of the op's domain that the model imports.
        statistics: Axes over which the plan says that this node takes statistics of what is kept.
        attributes: Attribute name -> new value; None removes it.
        operands: Input number -> the contents it must have after pruning.
    """

    def __init__(
        self,
        node: ir.Node,
        dims: Mapping[ir.Value, tuple[int, ...]],
        values: Mapping[ir.Value, np.ndarray],
        cuts: Mapping[ir.Value, Sequence[Cut]],
        use_cuts: Mapping[tuple[ir.Node, int], Sequence[Cut]],
        opset: int,
        statistics: Sequence[int] = (),
    ) -> None:
        self.opset = opset
        self.statistics = tuple(statistics)
        self.node = node
        self._dims = dims
        self._values = values
        self._cuts = cuts
        self._use_cuts = use_cuts
        self.attributes: dict[str, Any] = {}
        self.operands: dict[int, np.ndarray] = {}

    def beside(self, node: ir.Node) -> Resize:
        """The same sizes as another node of the graph sees them."""
        tables = self._dims, self._values, self._cuts, self._use_cuts
        return Resize(node, *tables, self.opset)

    def has(self, i: int) -> bool:
        """Whether optional input i is given."""
        return i < len(self.node.inputs) and self.node.inputs[i] is not None

    def attr(self, name: str, default: Any = None) -> Any:
        """Original value of an attribute, `default` where it is absent."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def const(self, i: int) -> np.ndarray | None:
        """Original contents of input i, where known."""
        if not self.has(i):
            return None
        value = self.node.inputs[i]
        assert value is not None
        known = self._values.get(value)
        if known is None and value.is_initializer() and value.const_value is not None:
            known = value.const_value.numpy()
        return known

    def cuts(self, i: int) -> tuple[Cut, ...]:
        """Cuts of input i (of this use of it, where it is an initializer)."""
        value = self.node.inputs[i]
        assert value is not None
        return tuple(self._use_cuts.get((self.node, i), ())) or tuple(self._cuts.get(value, ()))

    def cut(self, i: int, axis: int) -> Cut | None:
        """The cut of one axis of input i."""
        return next((c for c in self.cuts(i) if c.axis == axis), None)

    def out_cuts(self, i: int = 0) -> tuple[Cut, ...]:
        """Cuts of output i."""
        return tuple(self._cuts.get(self.node.outputs[i], ()))

    def out_cut(self, axis: int, i: int = 0) -> Cut | None:
        """The cut of one axis of output i."""
        return next((c for c in self.out_cuts(i) if c.axis == axis), None)

    def old(self, i: int) -> tuple[int, ...]:
        """Shape of input i in the original."""
        value = self.node.inputs[i]
        assert value is not None
        return self._dims[value]

    def new(self, i: int) -> tuple[int, ...]:
        """Shape of input i after pruning."""
        return pruned_shape(self.old(i), self.cuts(i))

    def old_out(self, i: int = 0) -> tuple[int, ...]:
        """Shape of output i in the original."""
        return self._dims[self.node.outputs[i]]

    def new_out(self, i: int = 0) -> tuple[int, ...]:
        """Shape of output i after pruning."""
        return pruned_shape(self.old_out(i), self.out_cuts(i))

    def set_attr(self, name: str, value: Any) -> None:
        """Attribute `name` becomes `value`; None removes it."""
        self.attributes[name] = value

    def set_operand(self, i: int, contents: np.ndarray) -> None:
        """Input i must hold `contents` (same dtype as before); no edit where it already does."""
        self.operands[i] = np.asarray(contents)
