"""Which attributes of a module the sizes in its `forward` are computed from.

A copy of the module, whose integer attributes are tagged, is exported again. A mode sees every call
of a torch function with its tagged arguments, and numbers it; torch.export keeps that number on the
nodes that the call became. So every literal size of a node has an origin, and its value after pruning
is an equation for the attributes.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import fx, nn

from graphprune.cut import pruned_shape
from graphprune.plan import Plan
from graphprune.rules.aten.registry import aten
from graphprune.torch.attributes import owner
from graphprune.torch.call import Call, call_of
from graphprune.torch.capture import Captured
from graphprune.torch.recording import MARK, Recorded, Recorder, attributes, exported, tag
from graphprune.torch.resize import AtenResize
from graphprune.torch.shapes import concrete, dims_of
from graphprune.torch.sites import Place
from graphprune.torch.slicing import parameter_cuts
from graphprune.torch.tags import (
    Leaf,
    Origin,
    Size,
    leaves,
    numbers,
    origin_of,
)

_PIECES = ("split_size", "chunks", "sections")
_MOST_NODES = 8000


@dataclass(frozen=True)
class Equation:
    """A number that is used as a size.

    Attributes:
        origin: What it is computed from.
        value: What it must be after pruning: a list of sizes where equal pieces become unequal;
            None where it cannot be said.
        node: Where it is used.
        place: Where that is in the source; None where it is not known, or the number is not the same
            for inputs of all sizes.
    """

    origin: Origin
    value: int | tuple[int, ...] | None
    node: str
    place: Place | None = None


@dataclass(frozen=True)
class Traced:
    """What tracing found.

    Attributes:
        equations: One a use of a number as a size.
        old: Values of all leaves in the original.
        sizes: Values of the sizes of tensors after pruning.
    """

    equations: tuple[Equation, ...]
    old: Mapping[Leaf, int]
    sizes: Mapping[Leaf, int]


def trace(captured: Captured, plan: Plan, module: nn.Module) -> Traced:
    """Equations for the attributes of a module.

    Args:
        captured: The module, captured.
        plan: What is removed.
        module: A copy of the module, which is changed: its attributes are tagged.

    Raises:
        Exception: Whatever torch.export raises.
    """
    old: dict[Leaf, int] = {}
    for holder, path, name in attributes(module):
        tag(holder, path, name, old)
    recorder = Recorder(module)
    graph = exported(captured, module, recorder)
    match = aligned(graph, captured.graph_module.graph)
    after = _After(captured, plan)
    nodes: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        mark = (node.meta.get("custom") or {}).get(MARK)
        if mark is not None and node.op == "call_function":
            nodes.setdefault(mark, []).append(node)
    equations: list[Equation] = []
    for call, recorded in recorder.calls.items():
        found = [match[n] for n in nodes.get(call, ()) if n in match]
        equations.extend(_equations(recorded, found, after))
    sizes: dict[Leaf, int] = {}
    for equation in equations:
        for leaf in leaves(equation.origin):
            if isinstance(leaf, Size) and leaf not in sizes:
                number = after.size(leaf, nodes, match)
                if number is not None:
                    sizes[leaf] = number
    return Traced(tuple(equations), old, sizes)


def aligned(one: fx.Graph, other: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Nodes of one trace of a module -> the same of another trace, by the order of ops."""
    a, b = _calls(one), _calls(other)
    first, second = ([f"{owner(n)} {n.target}" for n in nodes] for nodes in (a, b))
    if first == second:
        return dict(zip(a, b, strict=True))
    if max(len(a), len(b)) > _MOST_NODES:
        return {}
    found: dict[fx.Node, fx.Node] = {}
    for block in difflib.SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            found[a[block.a + i]] = b[block.b + i]
    return found


def _calls(graph: fx.Graph) -> list[fx.Node]:
    """Nodes that give tensors; arithmetic of sizes differs from trace to trace."""

    def counts(node: fx.Node) -> bool:
        value = node.meta.get("val")
        if node.target is torch.ops.aten.slice.Tensor:  # of a whole axis: not in every trace
            source = node.args[0]
            assert isinstance(source, fx.Node)
            return dims_of(value) != dims_of(source.meta.get("val"))
        leaves = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(v, torch.Tensor) for v in leaves)

    return [n for n in graph.nodes if n.op == "call_function" and counts(n)]


class _After:
    """Sizes after pruning."""

    def __init__(self, captured: Captured, plan: Plan) -> None:
        self._plan = plan
        self._weights = captured.weights
        self._cuts = parameter_cuts(plan)
        self._names = {p: n for n, paths in captured.weights.aliases.items() for p in paths}

    def cuts_of(self, node: fx.Node) -> Any:
        if self._weights.holds(node):
            return self._cuts.get(self._weights.names[node], ())
        return self._plan.tensors.get(node.name, ())

    def numbers(self, node: fx.Node) -> list[tuple[int, int | tuple[int, ...] | None, bool]]:
        """The integers among the arguments of a node: before, after, and whether literal."""
        call = call_of(node)
        changed = self._changed(call)
        given = [*list(call.arguments)[: len(node.args)], *node.kwargs]
        result: list[tuple[int, int | tuple[int, ...] | None, bool]] = []
        for name in given:
            argument = call.arguments[name]
            entries = argument if isinstance(argument, list | tuple) else [argument]
            literal = [not isinstance(e, fx.Node) for e in entries]
            before = list(numbers(concrete(argument)))
            after: list[int | tuple[int, ...] | None] = list(before)
            if name in changed:
                value = changed[name]
                after = [value] if isinstance(value, tuple) else list(numbers(concrete(value)))
            if len(after) != len(before):
                after = [None] * len(before)
            if len(literal) != len(before):
                literal = [False] * len(before)
            for b, a, fixed in zip(before, after, literal, strict=True):
                result.append((b, b if b == -1 else a, fixed))
        return result

    def _changed(self, call: Call) -> dict[str, Any]:
        """Arguments of a node that change."""
        rule = aten.find(call.domain, call.op, None)
        reads = [n for n in call.operands if n is not None]
        made = [call.node, *(u for u in call.node.users if u.target is operator.getitem)]
        if rule is None or not any(self.cuts_of(n) for n in [*reads, *made]):
            return {}
        resize = AtenResize(call, self.cuts_of)
        rule.resize(resize)
        changed = {**resize.edits, **resize.wanted}
        if resize.split_at is not None:
            name = next((n for n in _PIECES if n in call.arguments), "")
            changed[name] = tuple(resize.split_at[1])
        return changed

    def size(
        self, leaf: Size, nodes: Mapping[int, list[fx.Node]], match: Mapping[fx.Node, fx.Node]
    ) -> int | None:
        """A size of a tensor after pruning; None where the tensor is not in the graph."""
        if isinstance(leaf.call, str):
            name = self._names.get(leaf.call, leaf.call)
            tensor = self._weights.tensors.get(name)
            if tensor is None:
                return None
            return pruned_shape(tensor.shape, self._cuts.get(name, ()))[leaf.axis]
        made = [n for n in nodes.get(leaf.call, ()) if isinstance(n.meta.get("val"), torch.Tensor)]
        picked = [n for n in made if len(n.args) == 2 and n.args[1] == leaf.result]
        several = any(isinstance(n.meta.get("val"), list | tuple) for n in nodes.get(leaf.call, ()))
        found = picked if several else made
        node = match.get(found[-1]) if found else None
        dims = dims_of(node.meta.get("val")) if node is not None else None
        if node is None or dims is None or leaf.axis >= len(dims):
            return None
        return pruned_shape(dims, self.cuts_of(node))[leaf.axis]


def _equations(recorded: Recorded, nodes: list[fx.Node], after: _After) -> Iterator[Equation]:
    """Each tagged number of a call, found again in order among the numbers of its nodes."""
    there = [(*entry, n.name) for n in nodes for entry in after.numbers(n)]
    position = 0
    for number, place in zip(recorded.numbers, recorded.places, strict=True):
        at = next((i for i in range(position, len(there)) if there[i][0] == int(number)), None)
        if at is None:
            continue
        position = at + 1
        _, value, literal, node = there[at]
        yield Equation(origin_of(number), value, node, place if literal else None)
