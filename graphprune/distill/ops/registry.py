"""The table of ops that the interpreter can run, and what such a function sees of its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_ir as ir
import torch
from torch import Tensor

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.operands import attribute
from graphprune.rules.context import node_name

Result = Tensor | tuple[Tensor | None, ...]
CONTRIB = "com.microsoft"


@dataclass(frozen=True, eq=False)
class Call:
    """One node on the way of being run.

    Attributes:
        node: The node.
        version: The opset of its domain that the model asks for.
        inputs: One entry for each input, None where it is omitted.
    """

    node: ir.Node
    version: int
    inputs: tuple[Tensor | None, ...]

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute (strings as str, lists as tuples), `default` where not given."""
        return attribute(self.node, name, default)

    def at(self, i: int) -> Tensor | None:
        """Input i, None where it is omitted."""
        return self.inputs[i] if i < len(self.inputs) else None

    def x(self, i: int) -> Tensor:
        """Input i. Raises UnsupportedModelError where it is omitted."""
        found = self.at(i)
        if found is None:
            raise self.refusal(f"input {i} is missing")
        return found

    def ints(self, i: int, name: str = "") -> list[int] | None:
        """Sizes or axes: an input in newer opsets, the attribute `name` in older ones."""
        found = self.at(i)
        if found is not None:
            return [int(v) for v in found.reshape(-1).tolist()]
        given = self.attr(name) if name else None
        return None if given is None else [int(v) for v in given]

    @property
    def outputs(self) -> int:
        """How many outputs the node has, named or not."""
        return len(self.node.outputs)

    def wants(self, i: int) -> bool:
        """Whether somebody may read output i."""
        return i < len(self.node.outputs) and bool(self.node.outputs[i].name)

    def refusal(self, reason: str) -> UnsupportedModelError:
        """The error that names this node and its op."""
        return refusal(self.node, reason)


def refusal(node: ir.Node, reason: str) -> UnsupportedModelError:
    """The error of a node that cannot be run in torch."""
    return UnsupportedModelError(
        f"node '{node_name(node)}' ({spelled(node)}) cannot be run in torch: {reason}; prune "
        "without --distill and gradient criteria"
    )


def spelled(node: ir.Node) -> str:
    """`Conv`, or `com.microsoft::FusedConv` for an op of another domain."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


@dataclass(frozen=True, eq=False)
class Op:
    """How an op is run.

    Attributes:
        run: From a `Call` to the output, or a tuple of outputs.
        fixed: Inputs that are no weights even where they are initializers: statistics, exponents,
            limits, sizes, tables that are looked up.
        weights: Inputs that are weights even where they hold a single number.
    """

    run: Callable[[Call], Result]
    fixed: frozenset[int] = frozenset()
    weights: frozenset[int] = frozenset()


OPS: dict[tuple[str, str], Op] = {}
"""(domain, op type) -> how it is run; `""` is ai.onnx."""

Run = TypeVar("Run", bound=Callable[[Call], Result])


def torch_op(
    *names: str, domain: str = "", fixed: Sequence[int] = (), weights: Sequence[int] = ()
) -> Callable[[Run], Run]:
    """Register the decorated function for the ops called `names` (see `Op`)."""

    def register(run: Run) -> Run:
        for name in names:
            OPS[domain, name] = Op(run, frozenset(fixed), frozenset(weights))
        return run

    return register


def find(node: ir.Node) -> Op | None:
    """How the op of a node is run; None where it is not known."""
    return OPS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def together(*tensors: Tensor) -> tuple[Tensor, ...]:
    """On one device: sizes and constants are on the CPU, activations may be elsewhere."""
    device = next((t.device for t in tensors if t.device.type != "cpu"), None)
    if device is None:
        return tensors
    return tuple(t.to(device) for t in tensors)


def sizes(values: Sequence[int]) -> Tensor:
    """Sizes as ONNX has them: int64, on the CPU."""
    return torch.tensor(list(values), dtype=torch.int64)
