"""Gradients of the user's loop, added up: the ground of scores of units and of single weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from graphprune.errors import UsageError


class GradientTotals(ABC):
    """First-order changes of the loss, weight times gradient, totalled over all that was counted.

    A subclass says of what, in `_add`: of single weights, or summed over those of a unit.

    Args:
        parameters: Those whose gradients are taken, by name.
        criterion: `taylor`, `taylor-abs`, `fisher`, `hessian` or `movement`.

    Attributes:
        criterion: It.
        calls: How many gradients were counted.
    """

    _what = "parameter"
    """What has no gradient, for the user."""

    def __init__(self, parameters: Mapping[str, torch.Tensor], criterion: str) -> None:
        self.criterion = criterion
        self.calls = 0
        self._parameters = dict(parameters)
        self._totals: dict[str, torch.Tensor] = {}

    def accumulate(self, losses: torch.Tensor | None = None) -> None:
        """Count the present gradients.

        Args:
            losses: None: the gradients that the user's `backward()` left in `.grad` (unscaled: with
                a GradScaler, after `unscale_`; zero them between batches). A vector of losses, one
                a sample: each sample's own gradient is taken, and `.grad` is left alone. A scalar:
                one gradient, likewise.

        Raises:
            UsageError: There are no gradients, or they are not finite.
        """
        if losses is None:
            self._count({n: p.grad for n, p in self._parameters.items()})
            return
        parameters = list(self._parameters.values())
        flat = losses.reshape(-1)
        for i, loss in enumerate(flat):
            last = i + 1 == len(flat)
            found = torch.autograd.grad(loss, parameters, retain_graph=not last, allow_unused=True)
            self._count(dict(zip(self._parameters, found, strict=True)))

    def _count(self, gradients: Mapping[str, torch.Tensor | None]) -> None:
        here = {n: g.detach().to_dense() for n, g in gradients.items() if g is not None}
        if not here:
            raise UsageError(
                f"no {self._what} has a gradient: call accumulate() after loss.backward()"
            )
        if not all(bool(torch.isfinite(g).all()) for g in here.values()):
            raise UsageError("a gradient holds NaN or infinity: nothing was counted")
        with torch.no_grad():
            self._add(here)
        self.calls += 1

    @abstractmethod
    def _add(self, gradients: Mapping[str, torch.Tensor]) -> None:
        """Hand the changes to `_total`; gradients are dense and finite, by name of the parameter."""

    def _total(self, name: str, change: torch.Tensor) -> None:
        """Add one change of the loss to its total; the tensor becomes the total's own."""
        if self.criterion == "taylor-abs":
            change = change.abs()
        elif self.criterion == "fisher":
            change = change.square()
        known = self._totals.get(name)
        self._totals[name] = change if known is None else known.add_(change)

    def _score(self, name: str) -> torch.Tensor:
        """What a total says: larger stays. Raises KeyError: nothing was counted."""
        total = self._totals[name]
        if self.criterion == "movement":
            return -total
        mean = total.abs() / self.calls
        return mean / 2 if self.criterion in ("fisher", "hessian") else mean
