"""What a resize rule sees: the sizes of an ATen node before and after pruning.

A rule says what the literal arguments of its node become; sizes that are computed in the graph are
followed when the graph is rewritten (`torch/rewrite.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from graphprune.cut import Cut, pruned_shape
from graphprune.torch.call import Call, is_tensor
from graphprune.torch.shapes import concrete, dims_of


class AtenResize:
    """Old and new sizes of one node; collects edits.

    Attributes:
        call: The node and its arguments.
        edits: Argument name -> new value. A list may hold size nodes of the graph.
        split_at: (axis, sizes): the node must become a split into these sizes.
    """

    def __init__(
        self,
        call: Call,
        cuts_of: Callable[[fx.Node], Sequence[Cut]],
    ) -> None:
        self.call = call
        self._cuts_of = cuts_of
        self.edits: dict[str, Any] = {}
        self.wanted: dict[str, list[int]] = {}
        self.split_at: tuple[int, list[int]] | None = None

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument of the original, its size nodes as numbers."""
        given = self.call.arguments.get(name, default)
        return default if given is None else concrete(given)

    def _operand(self, name: str) -> fx.Node:
        number = self.call.numbers[name]
        assert isinstance(number, int)
        node = self.call.operands[number]
        assert node is not None
        return node

    def old(self, name: str) -> tuple[int, ...]:
        """Shape of an operand in the original."""
        return _known(self._operand(name))

    def new(self, name: str) -> tuple[int, ...]:
        """Shape of an operand after pruning."""
        node = self._operand(name)
        return pruned_shape(_known(node), self._cuts_of(node))

    def cut(self, name: str, axis: int) -> Cut | None:
        """The cut of one axis of an operand."""
        return next((c for c in self._cuts_of(self._operand(name)) if c.axis == axis), None)

    def out_cut(self, axis: int) -> Cut | None:
        """The cut of one axis of the result."""
        return next((c for c in self._cuts_of(self.call.node) if c.axis == axis), None)

    def new_out(self) -> tuple[int, ...]:
        """Shape of the result after pruning."""
        node = self.call.node
        return pruned_shape(_known(node), self._cuts_of(node))

    def new_results(self, axis: int) -> list[int]:
        """Lengths of all results along `axis` after pruning."""
        node = self.call.node
        lengths = [(dims_of(v) or ())[axis] for v in node.meta["val"]]
        for user in node.users:
            if is_tensor(user) and isinstance(user.args[1], int):
                shape = pruned_shape(_known(user), self._cuts_of(user))
                lengths[user.args[1]] = shape[axis]
        return lengths

    def set(self, name: str, value: Any) -> None:
        """Argument `name` becomes `value`."""
        if value != self.arg(name):
            self.edits[name] = value

    def set_sizes(self, name: str, sizes: Sequence[int]) -> None:
        """List `name` must come to `sizes`: literals are replaced, computed entries followed."""
        self.wanted[name] = list(sizes)

    def use_split(self, axis: int, sizes: Sequence[int]) -> None:
        """Pieces of different length: the node becomes a split into `sizes`."""
        self.split_at = axis, list(sizes)


def _known(node: fx.Node) -> tuple[int, ...]:
    found = dims_of(node.meta.get("val"))
    assert found is not None, node
    return found
