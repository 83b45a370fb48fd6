"""Coupled units of a module in terms of its parameters: sums over all slices that leave together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group, Member
from graphprune.errors import UsageError
from graphprune.selection.criteria import units_at
from graphprune.torch.capture import named_tensors


@dataclass(frozen=True, eq=False)
class Slices:
    """Where the units of a group lie in one parameter.

    Attributes:
        name: Canonical name of the parameter.
        axes: The axes that tell units apart.
        units: int64, one for each index of `axes` (row-major): the unit, or the group's size where
            there is none. Shape `(prod of the sizes of axes,)`.
        reads: The op sums over the unit here: the unit's channels end at this weight. A square
            weight of one residual width reads and writes the same units, and counts as reading.
    """

    name: str
    axes: tuple[int, ...]
    units: torch.Tensor
    reads: bool

    def sums(self, values: torch.Tensor, size: int) -> torch.Tensor:
        """Sum of `values` (of the parameter's shape) over each unit's slice. Shape `(size,)`."""
        return _added(self._rows(values).sum(1), self.units.to(values.device), size)

    def spread(self, per_unit: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """One value a unit, broadcastable over the parameter; 0 where no unit is."""
        padded = torch.cat([per_unit, per_unit.new_zeros(1)])
        flat = padded[self.units.to(per_unit.device)]
        order = sorted(range(len(self.axes)), key=lambda i: self.axes[i])
        flat = flat.reshape([shape[a] for a in self.axes]).permute(order)
        return flat.reshape([shape[a] if a in self.axes else 1 for a in range(len(shape))])

    def _rows(self, values: torch.Tensor) -> torch.Tensor:
        rest = [a for a in range(values.ndim) if a not in self.axes]
        return values.permute(*self.axes, *rest).reshape(self.units.numel(), -1)


def _added(sums: torch.Tensor, units: torch.Tensor, size: int) -> torch.Tensor:
    return sums.new_zeros(size + 1).index_add(0, units, sums)[:size]


@dataclass(frozen=True, eq=False)
class UnitIndex:
    """All groups of an analysis, by the parameters of one module.

    Attributes:
        sizes: Group name -> number of units.
        slices: Group name -> where its units lie.
        parameters: Canonical name -> parameter.
    """

    sizes: Mapping[str, int]
    slices: Mapping[str, tuple[Slices, ...]]
    parameters: Mapping[str, nn.Parameter]


def unit_index(module: nn.Module, graph: DependencyGraph, trained: bool = True) -> UnitIndex:
    """The units of `graph` in the parameters of `module`.

    Args:
        module: The module that was analysed.
        graph: Its analysis.
        trained: Parameters that take gradients only.

    Raises:
        UsageError: The analysis is of another module, or of one that was pruned since.
    """
    tensors = dict(named_tensors(module))
    parameters: dict[str, nn.Parameter] = {}
    slices: dict[str, tuple[Slices, ...]] = {}
    written: dict[str, set[int]] = {}
    for site in graph.sites:
        if not site.is_weight:
            classes = (r.classes.reshape(-1) for r in graph.resolved(site))
            written.setdefault(site.node, set()).update(*(c.tolist() for c in classes))
    for group in graph.groups:
        own = set(group.units.tolist())
        axes_of: dict[int, set[int]] = {}
        for member in group.members:
            axes_of.setdefault(id(member.site), set()).add(member.axis)
        found: dict[tuple[str, tuple[int, ...], bytes], Slices] = {}
        for member in group.members:
            tensor = tensors.get(member.site.name)
            if not member.site.is_weight or not isinstance(tensor, nn.Parameter):
                continue
            if tuple(tensor.shape) != member.site.shape:
                raise UsageError(
                    f"'{member.site.name}' has shape {tuple(tensor.shape)} where the analysis saw "
                    f"{member.site.shape}: analyse the module as it is now"
                )
            if trained and not tensor.requires_grad:
                continue
            parameters[member.site.name] = tensor
            slots = _slots(group, member)
            ends = not written.get(member.site.node, set()) & own
            reads = ends or len(axes_of[id(member.site)]) > 1
            key = member.site.name, member.resolved.axes, slots.tobytes()  # tied: both uses are one
            found.setdefault(key, Slices(*key[:2], torch.from_numpy(slots), reads))
        slices[group.name] = tuple(found.values())
    if graph.groups and not any(slices.values()):
        raise UsageError(
            "the module has none of the parameters of the analysis, or none takes gradients"
        )
    return UnitIndex({g.name: g.size for g in graph.groups}, slices, parameters)


def _slots(group: Group, member: Member) -> np.ndarray:
    units = units_at(group, member).astype(np.int64)
    return np.where(units < 0, group.size, units)
