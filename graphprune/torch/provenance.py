"""Which attributes of a module the sizes in its `forward` are computed from.

A copy of the module, whose integer attributes are tagged, is exported again. A mode sees every call
of a torch function with its tagged arguments, and numbers it; torch.export keeps that number on the
nodes that the call became. So every literal size of a node has an origin, and its value after pruning
is an equation for the attributes.
"""

from __future__ import annotations

import difflib
import logging
import operator
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphprune.plan import Plan, pruned_shape
from graphprune.rules.aten.registry import aten
from graphprune.torch.attributes import owner
from graphprune.torch.call import Call, call_of
from graphprune.torch.capture import Captured, _two_rows, mode
from graphprune.torch.resize import AtenResize
from graphprune.torch.shapes import concrete, dims_of
from graphprune.torch.sites import Place, Sites
from graphprune.torch.slicing import parameter_cuts
from graphprune.torch.tags import (
    Attribute,
    Leaf,
    Origin,
    Size,
    Tag,
    leaves,
    numbers,
    origin_of,
    plain,
)

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
_MARK = "graphprune_call"
_PIECES = ("split_size", "chunks", "sections")
_LONGEST = 8
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


@dataclass
class _Recorded:
    numbers: list[int]
    places: list[Place | None]


class Recorder(TorchFunctionMode):
    """Sees calls of torch functions; sizes that are read come back tagged.

    Attributes:
        calls: Number of a call -> the numbers it was given, of calls that were given a tagged one.
        made: id of a tensor -> the call that gave it (or the path of a parameter), which result.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.sites = Sites(module)
        self.calls: dict[int, _Recorded] = {}
        self.count = 0
        self.made: dict[int, tuple[int | str, int]] = {}
        self._alive: list[Any] = []

    def know(self, module: nn.Module) -> None:
        """Tell parameters and buffers apart, as they are while the module runs."""
        for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self.made[id(tensor)] = path, 0
            self._alive.append(tensor)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.count += 1
        call = self.count
        given = list(numbers((args, kwargs)))
        if given:
            places = self.sites.places(_outside(), args, kwargs)
            self.calls[call] = _Recorded(given, places)
        if any(isinstance(n, Tag) for n in given):
            args, kwargs = plain(args), plain(kwargs)
        with torch.fx.traceback.annotate({_MARK: call}):
            result = func(*args, **kwargs)
        if func == _SHAPE or func is torch.Tensor.size:
            return self._tagged(args, kwargs, result)
        if isinstance(result, torch.Tensor):
            self._keep(result, call, 0)
        elif isinstance(result, list | tuple):
            for i, one in enumerate(result):
                if isinstance(one, torch.Tensor):
                    self._keep(one, call, i)
        return result

    def _keep(self, tensor: torch.Tensor, call: int, result: int) -> None:
        self.made[id(tensor)] = call, result
        self._alive.append(tensor)

    def _tagged(self, args: Any, kwargs: Any, result: Any) -> Any:
        source = self.made.get(id(args[0]))
        if source is None:
            return result
        if isinstance(result, tuple):
            return torch.Size(
                [Tag(n, Size(*source, a)) if type(n) is int else n for a, n in enumerate(result)]
            )
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if type(result) is int and isinstance(axis, int):
            return Tag(result, Size(*source, axis % args[0].dim()))
        return result


def _outside() -> types.FrameType | None:
    """The innermost frame that is not torch's or this file's."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and name.partition(".")[0] != "torch":
            return frame
        frame = frame.f_back
    return None


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
        _tag(holder, path, name, old)
    recorder = Recorder(module)
    graph = _exported(captured, module, recorder)
    match = aligned(graph, captured.graph_module.graph)
    after = _After(captured, plan)
    nodes: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        mark = (node.meta.get("custom") or {}).get(_MARK)
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


def attributes(module: nn.Module) -> Iterator[tuple[Any, str, str]]:
    """(holder, path of the module, dotted name) of what may be an integer attribute.

    A holder is the dict of a module, or of an object with settings that a module has (a
    configuration); such an object that several modules share comes once.
    """
    seen: set[int] = set()
    for path, part in module.named_modules():
        for name, value in list(part.__dict__.items()):
            yield part.__dict__, path, name
            yield from _settings(value, path, name, seen, 2)


def _settings(
    value: Any, path: str, name: str, seen: set[int], deep: int
) -> Iterator[tuple[Any, str, str]]:
    own = type(value).__module__.partition(".")[0]
    if isinstance(value, nn.Module | torch.Tensor | type) or callable(value) or id(value) in seen:
        return
    if own in ("torch", "builtins", "collections", "functools", "typing") or not deep:
        return
    fields = getattr(value, "__dict__", None)
    if not isinstance(fields, dict):
        return
    seen.add(id(value))
    for inner, entry in list(fields.items()):
        yield fields, path, f"{name}.{inner}"
        yield from _settings(entry, path, f"{name}.{inner}", seen, deep - 1)


def _tag(holder: dict[str, Any], path: str, name: str, old: dict[Leaf, int]) -> None:
    key = name.rpartition(".")[2]
    value = holder[key]
    if type(value) is int:
        leaf = Attribute(path, name)
        old[leaf], holder[key] = value, Tag(value, leaf)
    elif type(value) in (tuple, list, torch.Size) and 0 < len(value) <= _LONGEST:
        if any(type(n) is not int for n in value):
            return
        found = [Attribute(path, name, i) for i in range(len(value))]
        old.update(zip(found, value, strict=True))
        holder[key] = type(value)([Tag(n, a) for n, a in zip(value, found, strict=True)])


def _exported(captured: Captured, module: nn.Module, recorder: Recorder) -> fx.Graph:
    """The graph of a module, calls numbered."""
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        recorder.know(module)
        with recorder:
            return forward(*args, **kwargs)

    module.__dict__["forward"] = watched
    args, kwargs = example(captured)
    with mode(module, captured.training), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        with torch.fx.traceback.preserve_node_meta():
            program = torch.export.export(module, args, kwargs or None, strict=False)
    made = program.module(check_guards=False)
    assert isinstance(made, fx.GraphModule)
    return made.graph


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch logs of a module that it does not get through."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def example(captured: Captured) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of the sizes at which the module was captured."""
    given = captured.args, dict(captured.kwargs)
    twice = _two_rows(given)
    nodes = [n for n in captured.nodes if n.op == "placeholder"]
    wanted = [dims_of(n.meta.get("val")) for n in nodes]

    def shapes(inputs: Any) -> list[Any]:
        leaves = pytree.tree_leaves(inputs)
        return sorted(tuple(t.shape) for t in leaves if isinstance(t, torch.Tensor))

    chosen = twice if shapes(twice) == sorted(w for w in wanted if w is not None) else given
    return chosen[0], chosen[1]


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
        resize = AtenResize(call, self.cuts_of, concrete)
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


def _equations(recorded: _Recorded, nodes: list[fx.Node], after: _After) -> Iterator[Equation]:
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
