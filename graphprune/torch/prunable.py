"""Which weights of a module are pruned one by one, and every place that holds them.

Weights of Linear, Conv, ConvTranspose, Embedding, MultiheadAttention, LSTM, GRU, RNN and their
cells, in floating point; the same as `graphprune.sparse.weights` takes of an ONNX model. Biases and
norms are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.nn.utils.parametrize import ParametrizationList

from graphprune.errors import NothingGainedError, UsageError
from graphprune.selection.ratios import named
from graphprune.sparse.weights import Role


class WeightMask(nn.Module):
    """The parametrisation of a masked weight: what is not in the mask is zero and gets no gradient.

    Args:
        mask: True: stays. Of the weight's shape.
    """

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with +0 where the mask is False, whatever stands there."""
        return torch.where(self.mask, weight, 0.0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """As it is: the original stays the same parameter."""
        return weight


@dataclass(frozen=True, eq=False)
class Holder:
    """One place of a weight: the part of the module, the attribute, and the dotted path."""

    part: nn.Module
    attribute: str
    path: str


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight that is pruned.

    Attributes:
        name: Path of its first place.
        original: The parameter, the same object with and without a mask.
        role: Which of its axes is summed over and which is that of outputs.
        holders: All its places; several where it is tied.
        mask: What stays; None where nothing is masked.
        refusal: Why it cannot be masked; empty where it can.
    """

    name: str
    original: torch.Tensor
    role: Role
    holders: tuple[Holder, ...]
    mask: torch.Tensor | None
    refusal: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of it."""
        return tuple(self.original.shape)

    @property
    def size(self) -> int:
        """Elements."""
        return self.original.numel()

    def value(self) -> torch.Tensor:
        """What the layer computes with; detached."""
        found = self.original.detach()
        return found if self.mask is None else torch.where(self.mask, found, 0.0)

    def matches(self, glob: str) -> bool:
        """Whether a glob names the weight or its layer, at any of its places."""
        return any(
            named(h.path, glob) or named(h.path.rpartition(".")[0], glob) for h in self.holders
        )


def prunable(module: nn.Module) -> list[Weight]:
    """All weights that are pruned, tied ones once, in the order of the module.

    Raises:
        UsageError: A weight has no shape yet.
    """
    places: dict[int, list[Holder]] = {}
    foreign: dict[int, str] = {}
    masks: dict[int, torch.Tensor] = {}
    found: list[tuple[torch.Tensor, Holder, Role]] = []
    computed: list[Weight] = []
    for path, part in module.named_modules():
        if isinstance(part, ParametrizationList | WeightMask):
            continue
        roles = _roles(part)
        tensors: dict[str, torch.Tensor] = dict(part.named_parameters(recurse=False))
        for name, mapping in parametrised(part).items():
            original = getattr(mapping, "original", None)
            holder = Holder(part, name, _join(path, name))
            if not isinstance(original, torch.Tensor) or not _is_mask(mapping):
                kinds = ", ".join(type(p).__name__ for p in mapping)
                why = f"'{holder.path}' carries a parametrisation already ({kinds})"
                if isinstance(original, torch.Tensor):
                    foreign[id(original)] = why
                    places.setdefault(id(original), [])
                if name in roles:
                    value = getattr(part, name)
                    computed.append(Weight(holder.path, value, roles[name], (holder,), None, why))
                continue
            masks[id(original)] = mask_in(mapping)
            tensors[name] = original
        for name, tensor in tensors.items():
            places.setdefault(id(tensor), []).append(Holder(part, name, _join(path, name)))
        for name, role in roles.items():
            value = vars(part).get(name)
            if name in tensors:
                found.append((tensors[name], places[id(tensors[name])][-1], role))
            elif isinstance(value, torch.Tensor):  # old style: a hook computes it
                holder = Holder(part, name, _join(path, name))
                why = f"'{holder.path}' is computed from other parameters by a hook"
                computed.append(Weight(holder.path, value, role, (holder,), None, why))
    weights: dict[int, Weight] = {}
    for tensor, holder, role in found:
        if nn.parameter.is_lazy(tensor):
            raise UsageError(
                f"'{holder.path}' has no shape yet: run the module once before pruning it"
            )
        if id(tensor) in weights or not tensor.is_floating_point():
            continue
        holders = tuple(places[id(tensor)])
        why = foreign.get(id(tensor), "") or _sparse_gradient(holders)
        mask = masks.get(id(tensor))
        weights[id(tensor)] = Weight(holders[0].path, tensor, role, holders, mask, why)
    return [*weights.values(), *computed]


def chosen(
    weights: Sequence[Weight], only: Sequence[str], exclude: Sequence[str], embeddings: bool = True
) -> list[Weight]:
    """Weights that the user wants pruned.

    Raises:
        NothingGainedError: There is none at all.
        UsageError: A glob names nothing, nothing is left, or a weight cannot be masked.
    """
    if not weights:
        raise NothingGainedError(
            "the module has no weight that is pruned (floating-point weights of Linear, Conv, "
            "Embedding, MultiheadAttention and recurrent layers)"
        )
    for option, globs in (("only", only), ("exclude", exclude)):
        for glob in globs:
            if not any(w.matches(glob) for w in weights):
                raise UsageError(f"{option}='{glob}' names no weight and no layer that is pruned")
    kept = [
        w
        for w in weights
        if (not only or any(w.matches(g) for g in only))
        and not any(w.matches(g) for g in exclude)
        and (embeddings or not any(_embeds(h.part) for h in w.holders))
    ]
    if not kept:
        raise UsageError("only, exclude and embeddings leave no weight to prune")
    for weight in kept:
        if weight.refusal:
            raise UsageError(
                f"{weight.refusal}: remove that first, or leave it with exclude='{weight.name}'"
            )
    return kept


def parametrised(part: nn.Module) -> Mapping[str, ParametrizationList]:
    """Attribute -> parametrisations of one part of a module."""
    found = part._modules.get("parametrizations")
    if not isinstance(found, nn.ModuleDict):
        return {}
    return {n: p for n, p in found.items() if isinstance(p, ParametrizationList)}


def _is_mask(mapping: ParametrizationList) -> bool:
    return len(mapping) == 1 and isinstance(mapping[0], WeightMask)


def mask_in(mapping: ParametrizationList) -> torch.Tensor:
    """The mask of a masked weight."""
    (found,) = mapping
    assert isinstance(found, WeightMask)
    return found.mask


def masked(part: nn.Module) -> dict[str, ParametrizationList]:
    """Attribute -> parametrisation, of the masked weights of one part."""
    return {n: p for n, p in parametrised(part).items() if _is_mask(p)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _roles(part: nn.Module) -> dict[str, Role]:
    """Attribute -> role, of the weights of one layer."""
    if isinstance(part, _ConvTransposeNd):
        return {"weight": Role(0, 1)}
    if isinstance(part, _ConvNd):
        return {"weight": Role(1, 0, None, part.groups)}
    if isinstance(part, nn.Linear) or _embeds(part):
        return {"weight": Role(1, 0)}
    if isinstance(part, nn.MultiheadAttention):
        attention = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return dict.fromkeys(attention, Role(1, 0))
    if isinstance(part, RNNBase):
        names = tuple(n for n in part._flat_weights_names if n.startswith("weight"))
        return dict.fromkeys(names, Role(1, 0))
    if isinstance(part, RNNCellBase):
        return {"weight_ih": Role(1, 0), "weight_hh": Role(1, 0)}
    if type(part).__name__.endswith("Conv1D") and type(part).__module__.startswith("transformers."):
        return {"weight": Role(0, 1)}  # a Linear with its weight the other way round
    return {}


def _embeds(part: nn.Module) -> bool:
    return isinstance(part, nn.Embedding | nn.EmbeddingBag)


def _sparse_gradient(holders: Sequence[Holder]) -> str:
    for holder in holders:
        if _embeds(holder.part) and holder.part.sparse:
            return f"'{holder.path}' is an embedding with sparse=True, which no mask can go through"
    return ""
