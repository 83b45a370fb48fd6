"""The masked original in torch: what the pruned module is compared with.

Weights are zeroed where the plan cuts them, and every activation that the plan cuts is set to zero
where it is cut. Views of what was masked are masked already, and are left as they are: an op may
write through them. Nodes that take statistics over a cut axis take them over what is kept.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

import graphprune.rules.aten  # noqa: F401  (registers the rules)
from graphprune.cut import Cut
from graphprune.plan import Plan
from graphprune.rules.aten.registry import aten
from graphprune.torch.call import call_of, in_place, is_view
from graphprune.torch.capture import Captured
from graphprune.torch.resize import AtenResize
from graphprune.torch.slicing import parameter_cuts, slice_tensor

Look = Callable[[str, torch.Tensor], None]


class Twin:
    """The masked original of a captured module; called like the module.

    Args:
        captured: The module, captured.
        plan: What is removed.
        graph_module: The graph to run, if not the captured one (one that can be switched between
            train and eval mode); its nodes have the names of the captured graph.
        dtype: Weights are converted to it, where floating point.
    """

    def __init__(
        self,
        captured: Captured,
        plan: Plan,
        graph_module: fx.GraphModule | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.captured = captured
        self.plan = plan
        self.module = copy.deepcopy(graph_module or captured.graph_module)
        if dtype is not None:
            convert(self.module, dtype)
        self._zero()

    def __call__(self, *args: Any, look: Look | None = None, **kwargs: Any) -> Any:
        """Outputs of the masked original; `look` is shown every masked activation."""
        return _Masked(self, look).call(*args, **kwargs)

    def _zero(self) -> None:
        cuts = parameter_cuts(self.plan)
        done: set[int] = set()
        for node, name in self.captured.weights.names.items():
            tensor = _at(self.module, str(node.target))
            if id(tensor) in done or name not in cuts:
                continue
            done.add(id(tensor))
            with torch.no_grad():
                tensor.mul_(mask_of(tensor, cuts[name]).to(tensor.dtype))


class _Masked(fx.Interpreter):
    def __init__(self, twin: Twin, look: Look | None) -> None:
        super().__init__(twin.module)
        self.plan = twin.plan
        self.look = look
        self.weights = parameter_cuts(twin.plan)
        names = twin.captured.weights.names
        self.graph_module = twin.module
        self.order = {n: i for i, n in enumerate(twin.module.graph.nodes)}
        self.names = {str(n.target): name for n, name in names.items()}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        codegen: Any = self.graph_module.graph._codegen
        flat = flat_inputs(self.graph_module, args, kwargs)
        return codegen.process_outputs(self.run(*flat, enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        cuts = self.plan.tensors.get(n.name)
        written = in_place(n) if n.op == "call_function" else False
        if n.name in self.plan.statistics_nodes:
            result = self._kept_only(n)
        elif cuts and written and self._private(n):
            # On a copy: what autograd saved of the op must not be written over by the mask.
            source = n.args[0]
            assert isinstance(source, fx.Node)
            self.env[source] = self.env[source].clone()
            result, written = super().run_node(n), False
        else:
            result = super().run_node(n)
        if cuts and isinstance(result, torch.Tensor) and (written or not is_view(n)):
            mask = mask_of(result, cuts)
            if written:
                result.mul_(mask)
            else:
                result = torch.where(mask, result, torch.zeros((), dtype=result.dtype))
        if self.look is not None and isinstance(result, torch.Tensor):
            self.look(n.name, result)
        return result

    def _private(self, n: fx.Node) -> bool:
        """Whether nothing else shares the memory that an in-place op writes to, and reads it later."""
        source = n.args[0]
        while isinstance(source, fx.Node):
            if source.op == "get_attr" or any(
                u is not n and self._after(u, n) for u in source.users
            ):
                return False
            if not is_view(source) or not source.args:
                return True
            source = source.args[0]
        return False

    def _after(self, user: fx.Node, n: fx.Node) -> bool:
        return self.order[user] > self.order[n]

    def cuts_of(self, node: fx.Node) -> Sequence[Cut]:
        if node.op == "get_attr":
            return self.weights.get(self.names.get(str(node.target), ""), ())
        return self.plan.tensors.get(node.name, ())

    def _kept_only(self, n: fx.Node) -> Any:
        """The op on what is kept, its result put back among zeros."""
        call = call_of(n)
        rule = aten.find(call.domain, call.op, None)
        assert rule is not None
        resize = AtenResize(call, self.cuts_of)
        rule.resize(resize)
        arguments: dict[str, Any] = {}
        for name, given in call.arguments.items():
            if name in resize.edits:
                arguments[name] = resize.edits[name]
            elif name in resize.wanted:
                arguments[name] = resize.wanted[name]
            else:
                arguments[name] = fx.node.map_arg(given, self._taken)
        result = n.target(**arguments)  # type: ignore[operator]
        made = [n] if isinstance(result, torch.Tensor) else []
        for node in made:
            return put_back(result, self.cuts_of(node))
        return tuple(
            put_back(
                r,
                next(
                    (
                        self.cuts_of(u)
                        for u in n.users
                        if u.target is operator.getitem and u.args[1] == i
                    ),
                    (),
                ),
            )
            for i, r in enumerate(result)
        )

    def _taken(self, node: fx.Node) -> Any:
        value = self.env[node]
        if not isinstance(value, torch.Tensor):
            return value
        return slice_tensor(value, fitted(self.cuts_of(node), value.shape))


def mask_of(tensor: torch.Tensor, cuts: Sequence[Cut]) -> torch.Tensor:
    """True where an element is kept, of the shape of `tensor`."""
    mask = torch.ones((), dtype=torch.bool)
    done: list[Cut] = []
    for cut in fitted(cuts, tensor.shape):
        mask = mask & _mask(tensor.shape, cut, done)
        done.append(cut)
    return mask.expand(tensor.shape).to(tensor.device)


def _mask(shape: Sequence[int], cut: Cut, done: Sequence[Cut]) -> torch.Tensor:
    size = int(shape[cut.axis])
    view = [1] * len(shape)
    view[cut.axis] = size
    if not cut.blocks:
        keep = np.zeros(size, bool)
        keep[cut.kept] = True
        return torch.from_numpy(keep.reshape(view))
    # Rows of `kept` are counted after the cuts of the block axes: spread them over the full axes.
    full = [int(shape[a]) for a in cut.blocks]
    keep = np.zeros((*full, size), bool)
    places = []
    for axis, n in zip(cut.blocks, full, strict=True):
        other = next((c for c in done if c.axis == axis), None)
        places.append(np.arange(n) if other is None else other.kept)
    small = np.zeros((*cut.kept.shape[:-1], size), bool)
    np.put_along_axis(small, cut.kept, True, axis=-1)
    keep[np.ix_(*places, np.arange(size))] = small
    axes = [*cut.blocks, cut.axis]
    order = np.argsort(axes)
    for axis in axes:
        view[axis] = int(shape[axis])
    return torch.from_numpy(np.ascontiguousarray(np.transpose(keep, order)).reshape(view))


def fitted(cuts: Sequence[Cut], shape: Sequence[int]) -> list[Cut]:
    """`cuts` at the sizes of `shape`, where dynamic dimensions have another length; plain ones first.

    Raises:
        ValueError: A cut does not say what to do at another length.
    """
    result: list[Cut] = []
    for cut in sorted(cuts, key=lambda c: (len(c.blocks), c.axis)):
        size, kept = int(shape[cut.axis]), cut.kept
        for position, axis in enumerate(cut.blocks):
            other = next((c for c in result if c.axis == axis), None)
            rows = int(shape[axis]) if other is None else other.count
            kept = np.moveaxis(stretched(np.moveaxis(kept, position, 0), rows), 0, position)
        if size != cut.size:
            if cut.blocks:
                raise ValueError(f"an axis of {cut.size} cannot be followed to {size}")
            keep = np.zeros(cut.size, bool)
            keep[kept] = True
            kept = np.flatnonzero(stretched(keep, size))
        result.append(replace(cut, size=size, kept=kept))
    return result


def stretched(rows: np.ndarray, size: int) -> np.ndarray:
    """Entries of an axis that merges a dynamic dimension with another, at another length.

    The dynamic one lies outside (the pattern repeats) or inside (every entry repeats).
    """
    count = len(rows)
    if size == count:
        return rows
    for period in range(1, count):
        fits = count % period == 0 and size % period == 0
        if fits and (rows.reshape(-1, period, *rows.shape[1:]) == rows[:period]).all():
            return np.concatenate([rows[:period]] * (size // period))
    for run in range(count, 1, -1):
        first = rows[::run]
        fits = count % run == 0 and size % len(first) == 0
        if fits and (rows.reshape(-1, run, *rows.shape[1:]) == first[:, None]).all():
            return np.repeat(first, size // len(first), axis=0)
    raise ValueError(f"an axis of {count} cannot be followed to {size}")


def put_back(small: torch.Tensor, cuts: Sequence[Cut]) -> torch.Tensor:
    """The inverse of `slice_tensor`: zeros where something was cut."""
    full = list(small.shape)
    for cut in cuts:
        full[cut.axis] = small.shape[cut.axis] * cut.size // cut.count
    for cut in reversed(fitted(cuts, full)):
        shape = list(small.shape)
        shape[cut.axis] = cut.size
        index = _indices(small.shape, cut)
        zeros = torch.zeros(shape, dtype=small.dtype, device=small.device)
        small = zeros.scatter(cut.axis, index.to(small.device), small)
    return small


def _indices(shape: Sequence[int], cut: Cut) -> torch.Tensor:
    view = [1] * len(shape)
    for position, axis in enumerate(cut.blocks):
        view[axis] = cut.kept.shape[position]
    view[cut.axis] = cut.count
    order = np.argsort([*cut.blocks, cut.axis])
    index = np.ascontiguousarray(np.transpose(cut.kept, order).reshape(view))
    return torch.from_numpy(index).expand(list(shape))


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Floating-point weights, and the types that the graph itself names, become `dtype`.

    So does what ops make of sizes and integers alone, which is of the default type.
    """
    module.to(dtype)
    if not isinstance(module, fx.GraphModule):
        return
    floats = (torch.float32, torch.float16, torch.bfloat16)
    for node in list(module.graph.nodes):
        node.args = fx.node.map_aggregate(node.args, lambda a: dtype if a in floats else a)
        node.kwargs = fx.node.map_aggregate(node.kwargs, lambda a: dtype if a in floats else a)
        if _of_default_type(node):
            with module.graph.inserting_after(node):
                cast = module.graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
            node.replace_all_uses_with(cast, lambda user, cast=cast: user is not cast)
    module.recompile()


def _of_default_type(node: fx.Node) -> bool:
    """Whether floating-point numbers are made of no others."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    if node.op != "call_function" or in_place(node):
        return False
    return not any(_floating(n) for n in node.all_input_nodes)


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return any(isinstance(v, torch.Tensor) and v.is_floating_point() for v in value)
    if value is None:  # a weight
        return node.op == "get_attr"
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def flat_inputs(
    module: fx.GraphModule, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Any]:
    """The graph's placeholders, from arguments of the module that was exported."""
    info = module.graph._codegen.pytree_info  # type: ignore[attr-defined]
    names = [n for n in info.orig_args if n != "self"]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    positional = info.in_spec.child(0).num_children
    ordered = [given[n] for n in names if n in given]
    keys = info.in_spec.child(1).context
    flat, _ = pytree.tree_flatten((tuple(ordered[:positional]), {k: given[k] for k in keys}))
    return list(flat)


def _at(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name)
    return found
