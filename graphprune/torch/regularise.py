"""Training towards group sparsity: coupled units that shall leave are driven to zero beforehand.

Nothing here owns the training loop: a term to add to the loss, or the same as gradients added after
`backward()`, without a graph of their own.

Sources: group lasso (Wen et al., NIPS'16; over coupled groups: Fang et al., DepGraph, CVPR'23),
growing regularisation (Wang et al., ICLR'21).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.errors import UsageError
from graphprune.plan import Plan
from graphprune.torch.capture import named_tensors
from graphprune.torch.slicing import parameter_cuts
from graphprune.torch.twin import mask_of
from graphprune.torch.units import UnitIndex, unit_index

KINDS = ("lasso", "ranked")
_TINY = 1e-12


class GroupSparsity:
    """Group-lasso or ranked L2 penalty over the coupled units of a module.

    With n_u the squared norm of all weights of unit u (of every layer it runs through):

    - `lasso`: strength * sum over groups of sqrt(weights a unit) * sum of sqrt(n_u).
    - `ranked`: strength * sum of 2^(4 * (max - I_u) / (max - min)) * n_u, with I_u = sqrt(n_u) held
      constant: weak units are pressed up to 16 times as hard as strong ones (DepGraph).

    Args:
        module: The module; never changed but for gradients.
        graph: Its analysis.
        strength: The factor in front.
        kind: `lasso` or `ranked`.
        only: Names of groups to press; None: all but trunks.

    Raises:
        UsageError: Unknown kind or group, or an analysis of another module.
    """

    def __init__(
        self,
        module: nn.Module,
        graph: DependencyGraph,
        strength: float = 1e-4,
        kind: str = "lasso",
        only: tuple[str, ...] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UsageError(f"unknown penalty '{kind}': choose one of {', '.join(KINDS)}")
        for name in only or ():
            if name not in graph.by_name:
                raise UsageError(f"'{name}' is no group of the module")
        self.strength = strength
        self.kind = kind
        self._index: UnitIndex = unit_index(module, graph)
        wanted = [g.name for g in graph.groups if not g.trunk] if only is None else list(only)
        self._groups = [n for n in wanted if self._index.slices[n]]

    def penalty(self) -> torch.Tensor:
        """The term to add to the loss. Differentiable; a scalar."""
        squares = {n: p.square() for n, p in self._index.parameters.items()}
        total: torch.Tensor | None = None
        for group in self._groups:
            term = self._term(group, self._norms(group, squares))
            total = term if total is None else total + term
        if total is None:
            raise UsageError("no group has weights that take gradients: there is nothing to press")
        return self.strength * total

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the penalty's gradients to `.grad`: as `penalty().backward()`, at a fraction of it."""
        squares = {n: p.square() for n, p in self._index.parameters.items()}
        factors: dict[str, torch.Tensor] = {}
        for group in self._groups:
            norms = self._norms(group, squares)
            # d penalty / dw = factor * w, one factor a unit.
            if self.kind == "lasso":
                per_unit = self._weight(group) * (norms + _TINY).rsqrt()
            else:
                per_unit = 2 * _pressure(norms)
            for part in self._index.slices[group]:
                here = part.spread(per_unit, self._index.parameters[part.name].shape)
                known = factors.get(part.name)
                factors[part.name] = here if known is None else known + here
        for name, factor in factors.items():
            parameter = self._index.parameters[name]
            added = self.strength * factor.to(parameter.dtype) * parameter
            if parameter.grad is None:
                parameter.grad = added
            else:
                parameter.grad.add_(added)

    def norms(self) -> dict[str, torch.Tensor]:
        """Group -> norm of each unit's weights: what the penalty drives to zero. Shape `(units,)`."""
        squares = {n: p.detach().square() for n, p in self._index.parameters.items()}
        return {g: self._norms(g, squares).sqrt() for g in self._groups}

    def _norms(self, group: str, squares: dict[str, torch.Tensor]) -> torch.Tensor:
        size = self._index.sizes[group]
        parts = [s.sums(squares[s.name], size) for s in self._index.slices[group]]
        return torch.stack(parts).sum(0)

    def _weight(self, group: str) -> float:
        """Square root of how many weights a unit has: large units are pressed in proportion."""
        slices = self._index.slices[group]
        weights = sum(self._index.parameters[s.name].numel() for s in slices)
        return float((weights / self._index.sizes[group]) ** 0.5)

    def _term(self, group: str, norms: torch.Tensor) -> torch.Tensor:
        if self.kind == "lasso":
            return self._weight(group) * (norms + _TINY).sqrt().sum()
        return (_pressure(norms.detach()) * norms).sum()


def _pressure(norms: torch.Tensor) -> torch.Tensor:
    """From 1 for the strongest unit of a group to 16 for the weakest."""
    sizes = norms.sqrt()
    span = sizes.max() - sizes.min()
    return 2.0 ** (4 * (sizes.max() - sizes) / span.clamp_min(_TINY))


class Removal:
    """Growing L2 penalty on what a plan removes: strength * sum of the squares of what is cut.

    Raise `strength` between steps (`grow`), train on, then prune by the same plan: nothing is lost
    that had not become small (GReg-1).

    Args:
        module: The module that the plan is for; never changed but for gradients.
        plan: What will be removed.
        strength: The factor in front, at first.

    Raises:
        UsageError: The plan is of another module.
    """

    def __init__(self, module: nn.Module, plan: Plan, strength: float = 0.0) -> None:
        self.strength = strength
        self._cut: list[tuple[nn.Parameter, torch.Tensor]] = []
        tensors = dict(named_tensors(module))
        for name, cuts in parameter_cuts(plan).items():
            tensor = tensors.get(name)
            if tensor is None or any(tensor.shape[c.axis] != c.size for c in cuts):
                raise UsageError(f"the plan cuts '{name}' otherwise than this module has it")
            if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                self._cut.append((tensor, ~mask_of(tensor, cuts)))

    def grow(self, by: float, most: float = 1.0) -> float:
        """Raise the strength by `by`, up to `most`; gives the new one."""
        self.strength = min(self.strength + by, most)
        return self.strength

    def penalty(self) -> torch.Tensor:
        """The term to add to the loss. Differentiable; a scalar."""
        return self.strength * torch.stack(list(self._squares())).sum()

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the penalty's gradients to `.grad`."""
        for parameter, gone in self._cut:
            added = 2 * self.strength * parameter * gone
            if parameter.grad is None:
                parameter.grad = added
            else:
                parameter.grad.add_(added)

    def size(self) -> float:
        """Norm of what will be removed."""
        with torch.no_grad():
            return float(torch.stack(list(self._squares())).sum().sqrt())

    def _squares(self) -> Iterator[torch.Tensor]:
        for parameter, gone in self._cut:
            yield (parameter * gone).square().sum()


def penalty(
    module: nn.Module, where: DependencyGraph | Plan, strength: float = 1e-4, kind: str = "lasso"
) -> torch.Tensor:
    """A penalty in one call: group sparsity of an analysis, or the removal of a plan.

    In a loop, make `GroupSparsity` or `Removal` once: what is prepared here costs more than the
    penalty itself.
    """
    if isinstance(where, Plan):
        return Removal(module, where, strength).penalty()
    return GroupSparsity(module, where, strength, kind).penalty()
