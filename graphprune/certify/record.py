"""Failures and notes while the structural check collects them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphprune.certify.graphs import describe


@dataclass
class Record:
    """What is wrong, where, and what could not be checked.

    Attributes:
        order: Node of the original -> its place in topological order.
        failures: (place, text).
        notes: What could not be checked without running the graphs.
        checked: Initializer uses and nodes that were checked.
    """

    order: Mapping[ir.Node, int]
    failures: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: int = 0

    def fail(self, node: ir.Node, reason: str) -> None:
        """`node` (of the original) is wrong in the pruned graph."""
        self.failures.append((self.order.get(node, -1), f"{describe(node)}: {reason}"))

    def note(self, node: ir.Node, reason: str) -> None:
        """Something about `node` could not be checked."""
        self.notes.append(f"{describe(node)}: {reason}")
