"""A plan made true in an FX graph: sliced weights, literal sizes rewritten, computed sizes followed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

import graphprune.rules.aten  # noqa: F401  (registers the rules)
from graphprune.analysis.dependency import DependencyGraph, groups_at
from graphprune.cut import Cut, pruned_shape
from graphprune.decide import Again
from graphprune.errors import UsageError
from graphprune.plan import Plan, Unpruned
from graphprune.rules.aten.registry import aten
from graphprune.torch.call import Call, call_of, op_name
from graphprune.torch.capture import Captured, Weights
from graphprune.torch.resize import AtenResize
from graphprune.torch.shapes import concrete, dims_of, number
from graphprune.torch.slicing import parameter_cuts, slice_tensor


class SizeError(UsageError):
    """A computed size that cannot be followed.

    Attributes:
        node: The node that needs it.
    """

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node


@dataclass(frozen=True, eq=False)
class Edit:
    """What becomes of one node.

    Attributes:
        node: Its name.
        arguments: Argument name -> (old, new), concrete.
    """

    node: str
    arguments: Mapping[str, tuple[Any, Any]]


def pruned_graph(captured: Captured, plan: Plan) -> tuple[fx.GraphModule, tuple[Edit, ...]]:
    """The graph of `captured` after `plan`, with its own sliced copies of all weights.

    Raises:
        UsageError: The plan names what the graph does not have.
        SizeError: A size cannot be followed.
    """
    run = _Rewrite(captured, plan)
    return run.run(), tuple(run.edits)


class _Rewrite:
    def __init__(self, captured: Captured, plan: Plan) -> None:
        self.captured = captured
        self.plan = plan
        self.weights: Weights = captured.weights
        self.graph = fx.Graph()
        self.map: dict[fx.Node, fx.Node] = {}
        self.cuts_by_weight = parameter_cuts(plan)
        self.edits: list[Edit] = []
        self._sizes: dict[fx.Node, int | None] = {}
        known = {n.name for n in captured.nodes} | set(self.weights.tensors)
        for name in [*plan.tensors, *self.cuts_by_weight]:
            if name not in known:
                raise UsageError(f"the plan cuts '{name}', which this module does not have")

    def run(self) -> fx.GraphModule:
        for node in self.captured.nodes:
            self.map[node] = self.graph.node_copy(node, lambda n: self.map[n])
            self.map[node].meta = dict(node.meta)
        for node in self.captured.nodes:
            if node.op == "call_function" and node.target is not operator.getitem:
                self._resize(node)
        root = nn.Module()
        copies: dict[str, torch.Tensor] = {}
        for node, name in self.weights.names.items():
            tensor = self.weights.tensors[name]
            if name not in copies:
                copies[name] = sliced_copy(tensor, self.cuts_by_weight.get(name, ()))
            place(root, str(node.target), copies[name])
        for node in self.captured.nodes:
            if node.op == "call_module" or (node.op == "get_attr" and node not in self.map):
                raise UsageError(f"'{node.name}' calls a module that was not traced")
            if node.op == "get_attr" and not self.weights.holds(node):
                from graphprune.torch.capture import read

                place(root, str(node.target), read(self.captured.graph_module, str(node.target)))
        self.graph.set_codegen(self.captured.graph_module.graph._codegen)
        self.graph.lint()
        made = fx.GraphModule(root, self.graph, class_name="PrunedGraph")
        for name, copy in copies.items():  # tied weights at all of their paths
            for path in self.weights.aliases.get(name, ()):
                place(made, path, copy)
        made.train(self.captured.training)
        return made

    def cuts_of(self, node: fx.Node) -> Sequence[Cut]:
        if self.weights.holds(node):
            return self.cuts_by_weight.get(self.weights.names[node], ())
        return self.plan.tensors.get(node.name, ())

    def _touched(self, call: Call) -> bool:
        reads = [n for n in call.operands if n is not None]
        made = [call.node, *(u for u in call.node.users if u.target is operator.getitem)]
        return any(self.cuts_of(n) for n in [*reads, *made])

    def _resize(self, node: fx.Node) -> None:
        call = call_of(node)
        rule = aten.find(call.domain, call.op, None)
        if rule is None or not self._touched(call):
            self._keep_sizes(call)
            return
        resize = AtenResize(call, self.cuts_of)
        rule.resize(resize)
        changed: dict[str, tuple[Any, Any]] = {}
        for name, value in resize.edits.items():
            given = call.arguments[name]
            changed[name] = concrete(given), value
            if _is_size(given):
                value = self._listed(node, [given], [value])[0]
            self._set(node, name, value)
        for name, wanted in resize.wanted.items():
            old = call.arguments[name]
            value = self._listed(node, list(old), wanted)
            changed[name] = concrete(old), concrete(value)
            self._set(node, name, value)
        if resize.split_at is not None:
            axis, sizes = resize.split_at
            copy = self.map[node]
            copy.target = torch.ops.aten.split_with_sizes.default
            copy.args, copy.kwargs = (copy.args[0], sizes, axis), {}
            changed["split_sizes"] = (None, sizes)
        if changed:
            self.edits.append(Edit(node.name, changed))

    def _keep_sizes(self, call: Call) -> None:
        """A node that is not cut must get the sizes it had, even if they are computed from cut ones."""
        for name, given in call.arguments.items():
            entries = given if isinstance(given, list | tuple) else [given]
            if not any(_is_size(e) for e in entries):
                continue
            old = [concrete(e) for e in entries]
            if [self.size_after(e) for e in entries] == old:
                continue
            value = self._listed(call.node, list(entries), [int(n) for n in old])
            self._set(call.node, name, value if isinstance(given, list | tuple) else value[0])

    def _listed(self, node: fx.Node, entries: list[Any], wanted: Sequence[int]) -> list[Any]:
        """Entries that come to `wanted`: -1 stays, a literal is replaced, a computed one scaled."""
        result: list[Any] = []
        for entry, size in zip(entries, wanted, strict=True):
            if isinstance(entry, int):
                result.append(entry if entry == -1 else size)
                continue
            got = self.size_after(entry)
            copy = self.map[entry]
            if got == size:
                result.append(copy)
            elif isinstance(entry.meta.get("val"), int):
                result.append(size)
            elif got:
                with self.graph.inserting_before(self.map[node]):
                    more = self.graph.call_function(operator.mul, (copy, size))
                    less = self.graph.call_function(operator.floordiv, (more, got))
                for made in (more, less):
                    made.meta["val"] = entry.meta["val"]
                result.append(less)
            else:
                raise SizeError(node.name, f"the size '{entry.name}' cannot be followed")
        return result

    def _set(self, node: fx.Node, name: str, value: Any) -> None:
        copy = self.map[node]
        assert isinstance(node.target, torch._ops.OpOverload)
        for i, argument in enumerate(node.target._schema.arguments):
            if argument.name != name:
                continue
            if not argument.kwarg_only and i < len(copy.args):
                copy.update_arg(i, value)
            else:
                copy.update_kwarg(name, value)

    def size_after(self, entry: Any) -> int | None:
        """What a size comes to in the pruned graph if nothing is done about it."""
        if not isinstance(entry, fx.Node):
            return entry if isinstance(entry, int) else None
        if entry not in self._sizes:
            self._sizes[entry] = self._size_after(entry)
        return self._sizes[entry]

    def _size_after(self, node: fx.Node) -> int | None:
        name = op_name(node)[1]
        if name in ("sym_size", "size"):
            source, axis = node.args[0], node.args[1]
            assert isinstance(source, fx.Node)
            assert isinstance(axis, int)
            dims = dims_of(source.meta.get("val"))
            return None if dims is None else pruned_shape(dims, self.cuts_of(source))[axis]
        if node.op != "call_function" or not _is_size(node):
            return number(node.meta.get("val"))
        values = [self.size_after(a) if _is_size(a) else a for a in node.args]
        if any(v is None for v in values):
            return number(node.meta.get("val"))
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        try:
            return int(function(*values, **node.kwargs))
        except (TypeError, ValueError, ArithmeticError):
            return number(node.meta.get("val"))


def _is_size(entry: Any) -> bool:
    return isinstance(entry, fx.Node) and isinstance(entry.meta.get("val"), int | torch.SymInt)


def sliced_copy(tensor: torch.Tensor, cuts: Sequence[Cut]) -> torch.Tensor:
    """A parameter of its own, or a tensor, cut."""
    data = slice_tensor(tensor.detach(), cuts).clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


def place(root: nn.Module, path: str, value: Any) -> None:
    """Put a parameter, a buffer or anything else at a dotted path, with modules on the way."""
    *owners, name = path.split(".")
    module = root
    for owner in owners:
        if not isinstance(getattr(module, owner, None), nn.Module):
            module.add_module(owner, nn.Module())
        module = getattr(module, owner)
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    elif isinstance(value, torch.Tensor):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def rewrite(
    captured: Captured, plan: Plan, graph: DependencyGraph | None, again: Again
) -> tuple[Plan, DependencyGraph | None, fx.GraphModule, tuple[Edit, ...]]:
    """A smaller graph and the plan it follows; groups whose sizes cannot be followed are left.

    Args:
        captured: The module.
        plan: What is wanted.
        graph: The analysis it rests on; None for a plan from outside.
        again: Makes another plan when groups turned out impossible to rewrite.

    Raises:
        SizeError: A size cannot be followed, and no group of the plan runs through it.
    """
    refused: list[Unpruned] = []
    while True:
        try:
            made, edits = pruned_graph(captured, plan)
            return plan, graph, made, edits
        except SizeError as error:
            known = {u.group for u in refused}
            found = groups_at(graph, plan, error.node) if graph is not None else []
            through = [n for n in found if n not in known]
            if not through:
                raise
            refused += [Unpruned(error.node, str(error), name) for name in through]
        plan, graph = again(refused)
