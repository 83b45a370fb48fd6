"""Scores from the user's own loss: what removing a coupled unit does to it.

A unit (all slices that leave together) is removed exactly by zeroing the weights that read it, so
the first-order change of the loss is `-sum w * dL/dw` over those weights. Taking producers and
norms along as well counts the same change again for every layer between (2 to 6 times, depending on
the group), which biases comparisons between groups; `over="all"` does it, for those who want the
group Taylor score of Torch-Pruning.

All criteria but movement estimate a change of the loss. They are in its units in every group, and
are therefore not normalised: with `scope="global"` one threshold over the whole model is meant.

Sources: Taylor (Molchanov et al., ICLR'17, CVPR'19), Fisher (Theis et al., 2018; Liu et al.,
Group Fisher, ICML'21), OBD (LeCun et al., NIPS'89), movement (Sanh et al., NeurIPS'20).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from graphprune.analysis.dependency import DependencyGraph
from graphprune.decide import Scores
from graphprune.errors import UsageError
from graphprune.torch.gradients import GradientTotals
from graphprune.torch.units import Slices, UnitIndex, unit_index

CRITERIA = ("taylor", "taylor-abs", "fisher", "hessian", "movement")


class GradientScores(GradientTotals):
    """Scores of all units, collected over batches of the user's loop; `scores=` of `prune`.

    With s = sum of w * dL/dw over a unit's weights in one call of `accumulate`, and n calls:

    - `taylor`: |mean s|, the first-order change of the mean loss. Says little once that is near
      its minimum, where gradients cancel.
    - `taylor-abs`: mean |s|; does not vanish where the mean gradient does, at convergence.
    - `fisher`: mean s^2 / 2, the second-order change with the empirical Fisher for Hessian. The
      default: it hurt least on average when small residual nets were pruned without training.
    - `hessian`: sum over the weights of w^2 * mean (dL/dw)^2 / 2, its diagonal (optimal brain
      damage); interactions within the unit do not count.
    - `movement`: -sum s, over the steps of a training in which the weights move: positive where
      they grow. Not an estimate of the loss; negative for most units.

    All but `taylor` and `movement` mean gradients of *single samples*: call `accumulate` with the
    vector of losses of the samples, or once for each sample. A call after the backward pass of a
    mean over a batch counts as one sample: a cheaper and noisier figure, smaller by up to the batch
    size, which ranks units all the same.

    Args:
        module: The module as it is pruned; never changed.
        graph: Its analysis.
        criterion: One of `CRITERIA`.
        over: `readers`: the weights that read a unit; `all`: everything that leaves with it.

    Raises:
        UsageError: Unknown criterion, or an analysis of another module.
    """

    def __init__(
        self,
        module: nn.Module,
        graph: DependencyGraph,
        criterion: str = "fisher",
        *,
        over: str = "readers",
    ) -> None:
        if criterion not in CRITERIA:
            raise UsageError(
                f"unknown criterion '{criterion}': choose one of {', '.join(CRITERIA)}"
            )
        if over not in ("readers", "all"):
            raise UsageError(f"over '{over}' is neither 'readers' nor 'all'")
        self._index: UnitIndex = unit_index(module, graph)
        self._slices = {g: _counted(s, over) for g, s in self._index.slices.items()}
        used = {s.name for slices in self._slices.values() for s in slices}
        super().__init__({n: p for n, p in self._index.parameters.items() if n in used}, criterion)

    def _add(self, gradients: Mapping[str, torch.Tensor]) -> None:
        products = {n: self._product(self._parameters[n], g) for n, g in gradients.items()}
        for group, slices in self._slices.items():
            change = torch.zeros(self._index.sizes[group], dtype=torch.float64)
            for part in slices:
                if part.name in products:
                    change += part.sums(products[part.name], change.numel()).cpu()
            self._total(group, change)

    def _product(self, parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        found = parameter.detach().double() * gradient.double()
        return found.square() if self.criterion == "hessian" else found

    def of(self, group: str) -> np.ndarray:
        """Score of each unit of one group, larger stays. Shape `(units,)`."""
        if not self.calls:
            raise UsageError("no gradients were counted: call accumulate() after loss.backward()")
        score: np.ndarray = self._score(group).numpy()
        return score

    def __call__(self, graph: DependencyGraph, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Scores of the named groups (`graphprune.decide.Scores`).

        Raises:
            UsageError: The groups are not those that gradients were collected for.
        """
        result = {}
        for name in names:
            if self._index.sizes.get(name) != graph.by_name[name].size:
                raise UsageError(
                    f"no gradients were collected for the {graph.by_name[name].size} units of "
                    f"'{name}': analyse the module as it is now, and prune head dims in a step of "
                    "their own"
                )
            result[name] = self.of(name)
        return result


def scores_from(
    module: nn.Module,
    losses: Callable[[], Iterable[torch.Tensor]],
    criterion: str = "fisher",
    *,
    over: str = "readers",
) -> Scores:
    """Scores that are computed when a decision asks for them.

    Args:
        module: The module as it is pruned.
        losses: Gives one loss (a scalar, or a vector with a loss for each sample) a batch, computed
            with `module`. Gradients in `.grad` are left alone.
        criterion: One of `CRITERIA`.
        over: As for `GradientScores`.

    Returns:
        What `prune` takes as `scores=`.
    """

    def scored(graph: DependencyGraph, names: Sequence[str]) -> dict[str, np.ndarray]:
        collected = GradientScores(module, graph, criterion, over=over)
        for loss in losses():
            collected.accumulate(loss)
        return collected(graph, names)

    return scored


def _counted(slices: Sequence[Slices], over: str) -> tuple[Slices, ...]:
    readers = tuple(s for s in slices if s.reads)
    return tuple(slices) if over == "all" or not readers else readers
