"""Running a graph part by part, so that no node runs twice for an input.

A `Frontier` is asked for some values at one stop after the other, in the order of the graph. Between
two stops it runs only the nodes that lie between them, and keeps the activations that later nodes
read. Weights of nodes that have not run yet may change in between. Kept activations are bounded, in
memory and beyond that on disk: a batch for which there is no room stays behind, at an earlier stop, and
is run from there again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.shelf import Shelf
from graphprune.onnx.runtime import Session
from graphprune.onnx.trace import captured

Array = np.ndarray[Any, Any]

MEMORY = 128 << 20
"""Bytes of activations that one frontier keeps in memory."""

DISK = 2 << 30
"""Bytes that it keeps in temporary files beside."""


class Frontier:
    """Values of a graph on some inputs, stop by stop; a context, in which temporary files live.

    Args:
        model: A graph in memory. It is not changed.
        feeds: Batches of inputs.
        stops: What is asked for at each stop: names of values of the top graph, none of them
            initializers. A value may stand before what an earlier stop asked for.
        threads: Of onnxruntime.
        memory: Bytes of activations to keep in memory, at most.
        disk: Bytes to keep on disk beside, at most.
    """

    def __init__(
        self,
        model: ir.Model,
        feeds: Sequence[Mapping[str, Array]],
        stops: Sequence[Sequence[str]],
        *,
        threads: int = 1,
        memory: int = MEMORY,
        disk: int = DISK,
    ) -> None:
        self._model = model
        self._feeds = feeds
        self._stops = [tuple(s) for s in stops]
        self._threads = threads
        self._shelf = Shelf(memory, disk)
        self._reached = [-1 for _ in feeds]
        """The stop whose activations each batch has (-1: its inputs)."""
        self._live = _live_values(model.graph, self._stops)
        self._at = -1

    def __enter__(self) -> Frontier:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shelf.close()

    def advance(self, stop: int, first: int = 0) -> Iterator[dict[str, Array]]:
        """What the stop asks for, batch by batch. Stops come in order; some may be left out.

        Args:
            stop: By number.
            first: The batch to begin with: those before it stay where they are.

        Raises UnsupportedModelError where the model does not run on the inputs. All batches must
        be taken before the next stop.
        """
        assert stop > self._at
        self._at = stop
        sessions: dict[int, Session | None] = {}
        try:
            for batch in range(first, len(self._feeds)):
                feed = self._feeds[batch]
                known = {**feed, **self._shelf.get(batch)}
                reached = self._reached[batch]
                if reached not in sessions:
                    sessions[reached] = self._session(known, stop)
                session = sessions[reached]
                if session is not None:
                    known.update(session.run({n: known[n] for n in session.input_names}))
                if self._shelf.put(batch, {n: known[n] for n in self._live[stop] if n not in feed}):
                    self._reached[batch] = stop
                yield {n: known[n] for n in self._stops[stop]}
        finally:
            for session in sessions.values():
                if session is not None:
                    session.close()

    def _session(self, known: Mapping[str, Array], stop: int) -> Session | None:
        """What runs from known values to a stop; None where everything is there already."""
        asked = dict.fromkeys([*self._stops[stop], *self._live[stop]])
        outputs = [n for n in asked if n not in known]
        if not outputs:
            return None
        return Session(part(self._model, known, outputs), threads=self._threads, arena=True)


def _live_values(graph: ir.Graph, stops: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """For each stop what must be kept: read by later nodes, or asked for later."""
    nodes = list(graph)
    order = {node: i for i, node in enumerate(nodes)}
    values = {o.name: o for node in nodes for o in node.outputs if o.name}
    reads = [_reads(node, order) for node in nodes]
    asked = [[values[n] for n in names if n in values] for names in stops]
    needed = _ancestors((v for names in asked for v in names), reads, order)
    last: dict[ir.Value, int] = {}  # index of the last node that reads a value
    for i in sorted(needed):
        for value in reads[i]:
            last[value] = i
    final: dict[ir.Value, int] = {}  # the last stop that asks for a value
    for stop, names in enumerate(asked):
        for value in names:
            final[value] = stop
    live: list[tuple[str, ...]] = []
    position = 0
    made = sorted({*last, *final}, key=lambda v: (order[_maker(v)], v.name or ""))
    for stop, names in enumerate(asked):
        position = max([position, *(order[_maker(v)] + 1 for v in names)])
        live.append(
            tuple(
                v.name or ""
                for v in made
                if order[_maker(v)] < position
                and (last.get(v, -1) >= position or final.get(v, -1) > stop)
            )
        )
    return live


def _maker(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _reads(node: ir.Node, order: Mapping[ir.Node, int]) -> list[ir.Value]:
    """Values made by nodes of the top graph that a node reads, its bodies included."""
    found = [*(v for v in node.inputs if v is not None), *captured(node)]
    return [v for v in dict.fromkeys(found) if v.producer() in order]


def _ancestors(
    values: Iterable[ir.Value], reads: Sequence[Sequence[ir.Value]], order: Mapping[ir.Node, int]
) -> set[int]:
    seen: set[int] = set()
    stack = list(values)
    while stack:
        i = order[_maker(stack.pop())]
        if i not in seen:
            seen.add(i)
            stack.extend(reads[i])
    return seen


def part(model: ir.Model, known: Mapping[str, Array], outputs: Sequence[str]) -> ir.Model:
    """What of a model computes `outputs` from `known` values, as a model of its own.

    Args:
        model: The whole. It is not changed.
        known: Name -> array of the values that need not be computed; of these only the types count.
        outputs: Names of values made by nodes of the top graph.
    """
    graph = model.graph
    values = {v.name: v for v in graph.inputs if v.name}
    values.update({o.name: o for node in graph for o in node.outputs if o.name})
    wanted = [values[n] for n in outputs]
    inputs: dict[ir.Value, None] = {}
    seen: set[ir.Node] = set()
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value.name in known and values.get(value.name or "") is value:
            inputs[value] = None
            continue
        node = value.producer()
        if node is not None and node not in seen:
            seen.add(node)
            stack.extend([*(v for v in node.inputs if v is not None), *captured(node)])
    piece = ir.convenience.extract(graph, list(inputs), wanted)
    for value in piece.inputs:
        array = known[value.name or ""]
        value.dtype = ir.DataType.from_numpy(array.dtype)
        value.shape = ir.Shape([None] * array.ndim)
    for value in piece.outputs:
        value.shape = None  # onnxruntime infers it
    return ir.Model(piece, ir_version=model.ir_version, functions=list(model.functions.values()))
