"""How much each single weight of a module matters: from itself, its inputs, or its gradients.

- `magnitude`: |w| (Han et al., NeurIPS'15).
- `l<P>`: |w| over the layer's Lp mean, (mean |w|^P)^(1/P).
- `wanda`: |w| times the root mean square of the input it multiplies (Sun et al., ICLR'24). Weights
  that no layer's input is multiplied with (embeddings, recurrences) count with 1.
- `random`: the baseline.
- `taylor`, `taylor-abs`, `fisher`, `movement`: `WeightScores`, from gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from graphprune.errors import UsageError
from graphprune.options import norm_order
from graphprune.torch.gradients import GradientTotals
from graphprune.torch.prunable import Weight, prunable

Array = np.ndarray[Any, Any]

GRADIENT = ("taylor", "taylor-abs", "fisher", "movement")

_ZERO, _LEAST = np.float32(2.0**-120), np.float32(2.0**-110)
"""Scores of a weight that is zero, and the least one of any other. What is masked scores 0."""


class WeightScores(GradientTotals):
    """Scores of single weights, collected over batches of the user's loop; `scores=` of `sparsify`.

    With w g a weight times its gradient in one call of `accumulate`, and n calls:

    - `taylor`: |mean w g|, the first-order change of the mean loss (Molchanov et al., ICLR'17).
    - `taylor-abs`: mean |w g|.
    - `fisher`: mean (w g)^2 / 2, the second-order change with the empirical Fisher for Hessian
      (Theis et al., 2018).
    - `movement`: -sum w g, over the steps of a training: positive where weights grow (Sanh et al.,
      NeurIPS'20).

    `taylor-abs` and `fisher` mean gradients of *single samples*: give `accumulate` the vector of
    losses; a call after the backward pass of a batch's mean counts as one sample.

    Args:
        module: The module, masked or not; never changed.
        criterion: One of these.

    Raises:
        UsageError: Unknown criterion.
    """

    _what = "weight"

    def __init__(self, module: nn.Module, criterion: str = "taylor") -> None:
        if criterion not in GRADIENT:
            raise UsageError(
                f"unknown criterion '{criterion}': choose one of {', '.join(GRADIENT)}"
            )
        parameters = {
            w.name: w.original
            for w in prunable(module)
            if not w.refusal and w.original.requires_grad
        }
        super().__init__(parameters, criterion)

    def _add(self, gradients: Mapping[str, torch.Tensor]) -> None:
        for name, gradient in gradients.items():
            self._total(name, self._parameters[name].detach().float() * gradient.float())

    def of(self, name: str) -> torch.Tensor:
        """Score of each element of one weight, larger stays. Shape that of the weight.

        Raises:
            UsageError: No gradients of it were counted.
        """
        if name not in self._totals:
            raise UsageError(
                f"no gradients of '{name}' were counted: call accumulate() after loss.backward(), or "
                f"leave it with exclude='{name}'"
            )
        return self._score(name)


def score(
    weight: Weight,
    criterion: str,
    seed: int,
    inputs: Mapping[str, torch.Tensor],
    gradients: WeightScores | None,
) -> Array:
    """Of each element, float32, at least 0; larger stays: masked 0, then zeros, then all others.

    Args:
        weight: It.
        criterion: See above.
        seed: Of `random`.
        inputs: Of `wanda`: name of a weight -> root mean square, see `input_norms`.
        gradients: Of criteria by gradient.

    Raises:
        UsageError: The weight holds NaN or infinity, or no gradients of it were counted.
    """
    value = weight.value()
    if not bool(torch.isfinite(value).all()):
        raise UsageError(f"'{weight.name}' holds NaN or infinity: train or load it again")
    size = value.abs().float()
    if gradients is not None:
        found = gradients.of(weight.name)
        if found.shape != value.shape:
            raise UsageError(f"gradients of '{weight.name}' were counted at another shape of it")
    elif criterion == "random":
        rng = np.random.default_rng([seed, *weight.name.encode()])
        found = torch.from_numpy(rng.random(weight.shape, np.float32))
    elif criterion == "wanda":
        norms = inputs.get(weight.name)
        found = size if norms is None else size * norms.to(size.device)
    elif criterion == "magnitude":
        found = size
    else:
        order = norm_order(criterion)
        assert order is not None
        mean = float(size.double().pow(order).mean()) ** (1 / order) if size.numel() else 0.0
        found = size / mean if mean > 0 else size
    scores: Array = found.cpu().numpy()
    if criterion == "movement":
        # Negative ones too: as floats that are not negative and sort alike.
        bits = np.ascontiguousarray(scores, np.float32).view(np.uint32)
        keys = np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31)) >> np.uint32(1)
        scores = keys.astype(np.uint32).view(np.float32)
    scores = np.where(value.cpu().numpy() == 0, _ZERO, np.maximum(scores, _LEAST))
    if weight.mask is not None:
        scores = np.where(weight.mask.cpu().numpy(), scores, np.float32(0))
    return scores.astype(np.float32, copy=False)


def input_norms(
    module: nn.Module, weights: Sequence[Weight], inputs: Iterable[Any]
) -> dict[str, torch.Tensor]:
    """Name of a weight -> root mean square of each channel of its input, laid along the weight.

    The module runs on every batch, in eval mode, and is left as it was.

    Args:
        module: It.
        weights: Those asked for.
        inputs: Batches: a tensor, a tuple of positional or a dict of named arguments.

    Raises:
        UsageError: There is no batch.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(weight: Weight, part: nn.Module, attribute: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            for rows, block in _seen(part, attribute, args, kwargs):
                total = rows.detach().double().square().sum(0)
                key = f"{weight.name} {block}"
                sums[key] = sums.get(key, torch.zeros_like(total)) + total
                counts[key] = counts.get(key, 0) + len(rows)

        return part.register_forward_pre_hook(hook, with_kwargs=True)

    handles = [watch(w, h.part, h.attribute) for w in weights for h in w.holders]
    training = {part: part.training for part in module.modules()}
    batches = 0
    try:
        module.eval()
        with torch.no_grad():
            for batch in inputs:
                batches += 1
                if isinstance(batch, Mapping):
                    module(**batch)
                else:
                    module(*(batch if isinstance(batch, tuple | list) else (batch,)))
    finally:
        for handle in handles:
            handle.remove()
        for part, was in training.items():
            part.training = was
    if not batches:
        raise UsageError("criterion 'wanda' needs inputs: give at least one batch")
    found = {}
    for weight in weights:
        norms = [
            (sums[k] / max(1, counts[k])).sqrt().float()
            for k in sorted(k for k in sums if k.rpartition(" ")[0] == weight.name)
        ]
        if norms:
            found[weight.name] = _along(weight, norms)
    return found


def _seen(
    part: nn.Module, attribute: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterable[tuple[torch.Tensor, int]]:
    """Inputs that a weight is multiplied with, as rows, and which block of its outputs that is."""
    if isinstance(part, nn.MultiheadAttention):
        for i, name in enumerate(("query", "key", "value")):
            x = args[i] if len(args) > i else kwargs[name]
            if attribute in ("in_proj_weight", f"{name[0]}_proj_weight"):
                yield x.reshape(-1, x.shape[-1]), i
        return
    x = args[0] if args else next(iter(kwargs.values()), None)
    x = x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return
    recurrent = isinstance(part, RNNBase | RNNCellBase)
    if recurrent and attribute not in ("weight_ih_l0", "weight_ih_l0_reverse", "weight_ih"):
        return
    if isinstance(part, _ConvNd):
        spatial = len(part.kernel_size)
        x = x.movedim(-1 - spatial, -1)
    yield x.reshape(-1, x.shape[-1]), 0


def _along(weight: Weight, norms: Sequence[torch.Tensor]) -> torch.Tensor:
    shape = [1] * len(weight.shape)
    part = weight.holders[0].part
    if len(norms) == 3:  # packed queries, keys and values
        return torch.stack(list(norms)).repeat_interleave(weight.shape[0] // 3, 0)
    if isinstance(part, _ConvNd) and part.groups > 1 and not isinstance(part, _ConvTransposeNd):
        rows = norms[0].reshape(part.groups, -1)
        rows = rows.repeat_interleave(weight.shape[0] // part.groups, 0)
        return rows.reshape(*rows.shape, *shape[2:])
    shape[weight.role.reduction] = weight.shape[weight.role.reduction]
    return norms[0].reshape(shape)
