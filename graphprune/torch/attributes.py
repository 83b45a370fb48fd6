"""Attributes of torch's own layers, made to agree with the sliced weights of the layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from graphprune.cut import pruned_shape
from graphprune.plan import Plan
from graphprune.torch.capture import Captured
from graphprune.torch.modules import MultiheadAttention
from graphprune.torch.rewrite import Edit
from graphprune.torch.shapes import dims_of
from graphprune.torch.slicing import parameter_cuts

_ChannelNorm = nn.modules.batchnorm._NormBase
_Conv = nn.modules.conv._ConvNd
_ConvTranspose = nn.modules.conv._ConvTransposeNd


@dataclass(frozen=True)
class Change:
    """One attribute that changes.

    Attributes:
        path: Of the module that holds it.
        name: Of the attribute; with dots where an object that the module holds has it.
        old: Its value.
        new: What it becomes.
    """

    path: str
    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}.{self.name}: {self.old} -> {self.new}".removeprefix(".")


def owner(node: fx.Node) -> str:
    """Path of the innermost module that ran a node."""
    stack = node.meta.get("nn_module_stack") or {}
    places = [str(entry[0]) for entry in stack.values()]
    # A module that is called again has "@1" behind its path.
    return places[-1].partition("@")[0] if places else ""


def first_paths(module: nn.Module) -> dict[str, str]:
    """Path of a part -> the first of its paths: a module may be found at several."""
    first: dict[int, str] = {}
    found = module.named_modules(remove_duplicate=False)
    return {path: first.setdefault(id(part), path) for path, part in found}


class Standard:
    """Adapts torch's layers in copies of a captured module.

    Args:
        captured: The module, captured.
        plan: What is removed.
        edits: What became of the literal sizes of its graph.
    """

    def __init__(self, captured: Captured, plan: Plan, edits: Sequence[Edit]) -> None:
        self._plan = plan
        self._cuts = parameter_cuts(plan)
        self._names = {p: n for n, paths in captured.weights.aliases.items() for p in paths}
        self._edits = {e.node: e.arguments for e in edits}
        self._nodes: dict[str, list[fx.Node]] = {}
        first = first_paths(captured.module) if captured.module is not None else {}
        for node in captured.nodes:
            if node.op == "call_function":
                path = owner(node)
                self._nodes.setdefault(first.get(path, path), []).append(node)

    def adapt(self, old: nn.Module, new: nn.Module) -> tuple[Change, ...]:
        """Change the layers of `new`, a sliced copy of `old`, in place; says what was changed."""
        changes: list[Change] = []
        parts = dict(new.named_modules())
        for path, layer in old.named_modules():
            part = parts[path]
            for name, value in self._attributes(path, layer, part):
                before = getattr(layer, name, None)
                if before != value:
                    part.__dict__[name] = value
                    changes.append(Change(path, name, before, value))
        for path, part in parts.items():
            if isinstance(part, nn.RNNBase):
                part._init_flat_weights()
            if isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor:
                attentions = [m for m in part.modules() if isinstance(m, nn.MultiheadAttention)]
                if any(isinstance(m, MultiheadAttention) or m.num_heads % 2 for m in attentions):
                    part.use_nested_tensor = False
                    changes.append(Change(path, "use_nested_tensor", True, False))
        return tuple(changes)

    def _attributes(self, path: str, old: nn.Module, new: nn.Module) -> Iterator[tuple[str, Any]]:
        """Name and value of what a layer's attributes must be."""
        weight = _shape(new, "weight")
        if isinstance(new, _Conv):
            groups = self._edit(path, "groups", int(new.groups))
            first, second = (weight or (0, 0))[:2]
            wide = second * groups
            yield "groups", groups
            transposed = isinstance(new, _ConvTranspose)
            yield "in_channels", first if transposed else wide
            yield "out_channels", wide if transposed else first
        elif isinstance(new, nn.Linear) and weight:
            yield from (("out_features", weight[0]), ("in_features", weight[1]))
        elif isinstance(new, nn.Bilinear) and weight:
            yield "out_features", weight[0]
            yield from (("in1_features", weight[1]), ("in2_features", weight[2]))
        elif isinstance(new, _ChannelNorm):
            yield "num_features", self._channels(path, new, int(new.num_features))
        elif isinstance(new, nn.GroupNorm):
            yield "num_groups", self._edit(path, "num_groups", int(new.num_groups))
            yield "num_channels", self._channels(path, new, int(new.num_channels))
        elif isinstance(new, nn.LayerNorm | nn.RMSNorm):
            given = tuple(new.normalized_shape)
            shape = weight or self._edit(path, "normalized_shape", given)
            yield "normalized_shape", type(new.normalized_shape)(shape)
        elif isinstance(new, nn.Embedding | nn.EmbeddingBag) and weight:
            yield from (("num_embeddings", weight[0]), ("embedding_dim", weight[1]))
        elif isinstance(new, nn.PReLU) and weight:
            yield "num_parameters", weight[0]
        elif isinstance(new, nn.RNNBase | nn.RNNCellBase):
            yield from _recurrent(new)
        elif isinstance(new, nn.MultiheadAttention):
            yield from self._attention(path, old, new)
        elif weight and (getattr(old, "nx", 0), getattr(old, "nf", 0)) == _shape(old, "weight"):
            yield from (("nx", weight[0]), ("nf", weight[1]))  # transformers' Conv1D

    def _edit(self, path: str, argument: str, otherwise: Any) -> Any:
        """What an argument of the layer's own op becomes."""
        for node in self._nodes.get(path, ()):
            found = self._edits.get(node.name, {})
            if argument in found:
                return found[argument][1]
        return otherwise

    def _channels(self, path: str, new: nn.Module, otherwise: int) -> int:
        """Length of the channel axis of a norm, from its weights or from what it gives."""
        for name in ("weight", "running_mean"):
            shape = _shape(new, name)
            if shape:
                return shape[0]
        for node in self._nodes.get(path, ()):
            cuts = [c for c in self._plan.tensors.get(node.name, ()) if c.axis == 1]
            dims = dims_of(node.meta.get("val"))
            if cuts and dims and dims[1] == otherwise:
                return pruned_shape(dims, cuts)[1]
        return otherwise

    def _attention(
        self, path: str, old: nn.Module, new: nn.MultiheadAttention
    ) -> Iterator[tuple[str, Any]]:
        """Heads and sizes of `nn.MultiheadAttention`, from the rows and columns that are left."""
        assert isinstance(old, nn.MultiheadAttention)
        if isinstance(old, MultiheadAttention):
            query, value, scale = old.query_dim, old.value_dim, old.scale
        else:
            query = value = int(old.head_dim)
            scale = query**-0.5
        kept = self._kept(f"{path}.out_proj.weight", 1, value, old.num_heads)
        if old.in_proj_weight is not None:
            rows = self._kept(f"{path}.in_proj_weight", 0, query, old.num_heads)
            width = new.in_proj_weight.shape[1]
        else:
            rows = self._kept(f"{path}.q_proj_weight", 0, query, old.num_heads)
            width = new.q_proj_weight.shape[1]
            yield from (("kdim", new.k_proj_weight.shape[1]), ("vdim", new.v_proj_weight.shape[1]))
        heads, value_dim = kept
        _, query_dim = rows
        yield "embed_dim", width
        if old.in_proj_weight is not None:
            yield from (("kdim", width), ("vdim", width))
        yield "num_heads", heads
        yield "head_dim", value_dim
        plain = type(old) is nn.MultiheadAttention
        fits = query_dim == value_dim == query and heads * value_dim == width
        if not (plain and fits) and type(old) in (nn.MultiheadAttention, MultiheadAttention):
            if plain:
                MultiheadAttention.from_sliced(new, heads, query_dim, value_dim, scale)
            yield from (("query_dim", query_dim), ("value_dim", value_dim), ("scale", scale))

    def _kept(self, path: str, axis: int, size: int, heads: int) -> tuple[int, int]:
        """(heads, size of one) of what is kept of an axis that holds heads of `size` first."""
        for cut in self._cuts.get(self._names.get(path, path), ()):
            if cut.axis != axis:
                continue
            kept = [int(i) for i in cut.kept.reshape(-1) if i < heads * size]
            found = len({i // size for i in kept})
            return found, len(kept) // max(found, 1)
        return heads, size


def _shape(module: nn.Module, name: str) -> tuple[int, ...] | None:
    """Shape of a weight; old-style weight_norm and spectral_norm keep it under another name."""
    for kept in (name, f"{name}_orig", f"{name}_v"):
        found: torch.Tensor | None = module._parameters.get(kept)
        if found is None and kept == name:
            found = module._buffers.get(kept)
        if found is not None:
            return tuple(found.shape)
    if parametrize.is_parametrized(module, name):
        with torch.no_grad():
            found = getattr(module, name)
        return tuple(found.shape)
    return None


def _recurrent(new: nn.Module) -> Iterator[tuple[str, Any]]:
    """Sizes of recurrent layers and cells."""
    suffix = "_l0" if isinstance(new, nn.RNNBase) else ""
    inputs, states = _shape(new, f"weight_ih{suffix}"), _shape(new, f"weight_hh{suffix}")
    if inputs is None or states is None:
        return
    gates = 4 if isinstance(new, nn.LSTM | nn.LSTMCell) else 1
    gates = 3 if isinstance(new, nn.GRU | nn.GRUCell) else gates
    yield "input_size", inputs[1]
    yield "hidden_size", states[0] // gates
    if getattr(new, "proj_size", 0):
        yield "proj_size", states[1]


def put(module: nn.Module, changes: Sequence[Change]) -> None:
    """Set attributes of a module and of its parts, in place."""
    parts: Mapping[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    for change in changes:
        *owners, name = change.name.split(".")
        found: Any = parts[change.path]
        for step in owners:
            found = found[step] if isinstance(found, dict) else getattr(found, step)
        _assign(found, name, change.new)


def _assign(holder: Any, name: str, value: Any) -> None:
    before = holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
    if isinstance(value, tuple) and isinstance(before, tuple | list):
        value = type(before)(value)
    if isinstance(holder, dict):
        holder[name] = value
    elif name in getattr(holder, "__dict__", {}):
        holder.__dict__[name] = value
    else:
        setattr(holder, name, value)
