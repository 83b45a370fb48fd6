"""What a changed model still computes as the original does, so that it need not run again.

A change of one layer leaves all that stands before it as it was: `unchanged` finds these values by
comparing the two graphs node by node, and `Prefix` keeps those of them that the rest reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import part
from graphprune.onnx.runtime import Session
from graphprune.onnx.trace import captured

Array = np.ndarray[Any, Any]

MEMORY = 512 << 20
"""Bytes of activations to keep; where a change needs more, models run from their inputs."""


def unchanged(original: ir.Model, model: ir.Model) -> frozenset[str]:
    """Names of activations of `model` that are certain to be what they are in `original`.

    Only a node that has the same op, outputs, attributes and weights (the same tensors, as in a clone),
    and reads nothing but such activations, makes them; one with a body of its own never does.

    Args:
        original: With names for all values.
        model: What became of a clone of it.
    """
    olds = {node.outputs[0].name: node for node in original.graph if node.outputs}
    weights = original.graph.initializers
    same = {v.name for v in original.graph.inputs} & {v.name for v in model.graph.inputs}
    inputs = frozenset(same)

    def known(value: ir.Value | None, old: ir.Value | None) -> bool:
        if value is None or old is None:
            return value is old
        if value.name != old.name:
            return False
        if value.const_value is not None:
            before = weights.get(value.name or "")
            return before is not None and before.const_value is value.const_value
        return value.name in same

    for node in model.graph:
        old = olds.get(node.outputs[0].name) if node.outputs else None
        if old is None or (node.domain, node.op_type) != (old.domain, old.op_type):
            continue
        if len(node.inputs) != len(old.inputs) or captured(node) or _has_body(node):
            continue
        if not all(map(known, node.inputs, old.inputs)) or node.attributes != old.attributes:
            continue
        if [v.name for v in node.outputs] == [v.name for v in old.outputs]:
            same.update(v.name for v in node.outputs)
    return frozenset(n for n in same - inputs if n)


def _has_body(node: ir.Node) -> bool:
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(a.type in kinds for a in node.attributes.values())


class Prefix:
    """Values of a model on fixed inputs, where other models go on from.

    Those of the last set that was asked for are kept: models that change the same layer come one
    after the other.

    Args:
        model: The original.
        feeds: Inputs, batch by batch.
        threads: Of onnxruntime.
    """

    def __init__(
        self, model: ir.Model, feeds: Sequence[Mapping[str, Array]], threads: int = 1
    ) -> None:
        self._model = model
        self._feeds = feeds
        self._threads = threads
        self._names: tuple[str, ...] = ()
        self._values: list[dict[str, Array]] = [{} for _ in feeds]

    def of(self, model: ir.Model, outputs: Sequence[str]) -> list[dict[str, Array]]:
        """For each batch, what of `model` is known and read on the way to `outputs`; maybe nothing.

        Raises:
            UnsupportedModelError: The original does not run.
        """
        names = _read(model, unchanged(self._model, model), outputs)
        if names != self._names:
            self._names, self._values = names, self._run(names)
        return self._values

    def _run(self, names: tuple[str, ...]) -> list[dict[str, Array]]:
        nothing: list[dict[str, Array]] = [{} for _ in self._feeds]
        if not names:
            return nothing
        found, total = [], 0
        with Session(part(self._model, self._feeds[0], names), threads=self._threads) as session:
            for feed in self._feeds:
                values = session.run({n: feed[n] for n in session.input_names})
                if not all(isinstance(a, np.ndarray) for a in values.values()):
                    return nothing
                total += sum(a.nbytes for a in values.values())
                if total > MEMORY:
                    return nothing
                found.append(values)
        return found


def _read(model: ir.Model, same: frozenset[str], outputs: Sequence[str]) -> tuple[str, ...]:
    """Of the values in `same`, those that a run to `outputs` reads if it starts from them."""
    made = {v.name: v for node in model.graph for v in node.outputs if v.name}
    found: dict[str, None] = {}
    seen: set[ir.Node] = set()
    stack = [made[n] for n in outputs if n in made]
    while stack:
        value = stack.pop()
        if value.name in same:
            found[value.name or ""] = None
            continue
        node = value.producer()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend([*(v for v in node.inputs if v is not None), *captured(node)])
    return tuple(sorted(found))
