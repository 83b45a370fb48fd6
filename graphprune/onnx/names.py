"""Names for new values and nodes: none that the model uses already, bodies included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


class FreshNames:
    """Hands out names that are free in the whole model, so that a body can hide nothing."""

    def __init__(self, model: ir.Model) -> None:
        self._taken = set(_names(model))

    def near(self, name: str) -> str:
        """`name`, or `name_2`, `name_3`, ... where it is taken; taken from now on."""
        candidate, number = name, 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def _names(model: ir.Model) -> Iterator[str]:
    for graph in [model.graph, *model.graph.subgraphs()]:
        values = [*graph.inputs, *graph.initializers.values()]
        for node in graph:
            yield node.name or ""
            values += node.outputs
        yield from (value.name or "" for value in values)
