"""Pruning single weights of a module: masks where weights matter least, shapes as they were.

report = gpt.sparsify(module, sparsity=0.9)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.errors import UsageError
from graphprune.sparse import select
from graphprune.sparse.options import Sparsity
from graphprune.torch.masks import put_masks
from graphprune.torch.optim import innermost
from graphprune.torch.prunable import Weight, chosen, prunable
from graphprune.torch.weight_scores import GRADIENT, WeightScores, input_norms, score

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class MaskedWeight:
    """One weight afterwards: its path (the first, where it is tied), shape and zeros."""

    name: str
    shape: tuple[int, ...]
    zeros: int
    elements: int

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return self.zeros / max(1, self.elements)


@dataclass(frozen=True)
class MaskReport:
    """What masking did.

    Attributes:
        options: What was asked for.
        weights: Each weight that is pruned.
        warnings: What the user should know.
    """

    options: Mapping[str, Any]
    weights: tuple[MaskedWeight, ...]
    warnings: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Of all weights that are pruned."""
        return sum(w.elements for w in self.weights)

    @property
    def zeros(self) -> int:
        """Of all these."""
        return sum(w.zeros for w in self.weights)

    @property
    def sparsity(self) -> float:
        """Share of zeros over all weights that are pruned."""
        return self.zeros / self.elements

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "options": dict(self.options),
            "sparsity": self.sparsity,
            "elements": self.elements,
            "zeros": self.zeros,
            "weights": [{**asdict(w), "sparsity": w.sparsity} for w in self.weights],
            "warnings": list(self.warnings),
        }


def sparsify(
    module: nn.Module,
    sparsity: float | None = None,
    *,
    scope: str | Mapping[str, float] = "global",
    criterion: str | None = None,
    pattern: str | None = None,
    pattern_axis: int | None = None,
    only: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = True,
    inputs: Iterable[Any] | None = None,
    scores: WeightScores | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    seed: int = 0,
) -> MaskReport:
    """Mask the weights that matter least, in place.

    The parameters stay the same objects: an optimizer made before goes on, and what is masked stays
    exactly zero through its momentum and weight decay. A module that carries masks already gets more
    of them; none is ever taken back. `graphprune.torch.bake` takes the masks off and leaves zeros.

    Args:
        module: Changed.
        sparsity: Share of zeros over all weights that are pruned, 0 < S < 1, exact to one weight.
            None with a pattern, or with ratios for all that is to be pruned.
        scope: `global` (one threshold over all), `local` (the same share of each weight; with
            `wanda` of each output), or a share for each weight by glob: `{"conv*": 0.5, "fc": 0.9}`
            (the first that matches; what none matches gets `sparsity`, or is left).
        criterion: See `graphprune.torch.weight_scores`; None: that of `scores`, or `magnitude`.
        pattern: N:M, `2:4`: of every M elements in a row N stay.
        pattern_axis: Along which axis; None: the one that is summed over.
        only: Globs of weights (`fc.weight`) or layers (`fc`); all others are left.
        exclude: Globs of weights or layers to leave.
        embeddings: Whether embeddings are pruned.
        inputs: Batches for `wanda`: a tensor, a tuple or a dict of arguments each.
        scores: Collected gradients, for criteria that need them.
        optimizer: Its state (momentum, moments) of what is masked becomes zero too, so that the
            parameters under the masks stay at zero.
        seed: Of `random`.

    Raises:
        UsageError: An option out of range, a glob that names nothing, an axis that N:M does not
            divide, a weight that carries another parametrisation, missing inputs or gradients.
            Nothing is changed then.
        NothingGainedError: The module has no weight that is pruned.
    """
    shares = dict(scope) if isinstance(scope, Mapping) else {}
    named = criterion or (scores.criterion if scores is not None else "magnitude")
    options = _options(
        sparsity,
        shares,
        "local" if shares else str(scope),
        named,
        pattern,
        pattern_axis,
        only,
        exclude,
    )
    if named in GRADIENT and (scores is None or scores.criterion != named):
        raise UsageError(
            f"criterion '{named}' needs gradients: collect them with WeightScores(module, '{named}') "
            "and give scores="
        )
    if named == "wanda" and inputs is None:
        raise UsageError("criterion 'wanda' needs inputs: give inputs=, a list of batches")
    weights = chosen(prunable(module), options.only, options.exclude, embeddings)
    for glob in shares:
        if not any(w.matches(glob) for w in weights):
            raise UsageError(
                f"scope names '{glob}', which is no weight and no layer that is pruned"
            )
    if shares and sparsity is None:
        weights = [w for w in weights if any(w.matches(g) for g in shares)]
    norms = input_norms(module, weights, inputs or ()) if named == "wanda" else {}

    def scored(weight: Any) -> Array:
        return score(weight, named, seed, norms, scores)

    masks = _selected(weights, scored, options, shares)
    put_masks(module, masks)
    if optimizer is not None:
        _clear(optimizer, weights, masks)
    found = tuple(
        MaskedWeight(w.name, w.shape, w.size - int(torch.count_nonzero(w.value())), w.size)
        for w in prunable(module)
        if w.name in masks
    )
    warnings = tuple(
        f"all of '{w.name}' is zero: its layer's output is constant; use scope='local', or prune less"
        for w in found
        if w.zeros == w.elements
    )
    asked = {**asdict(options), "criterion": named, "scope": shares or scope, "seed": seed}
    return MaskReport(asked, found, warnings)


def _options(
    sparsity: float | None,
    shares: Mapping[str, float],
    scope: str,
    criterion: str,
    pattern: str | None,
    axis: int | None,
    only: str | Sequence[str],
    exclude: str | Sequence[str],
) -> Sparsity:
    for glob, share in shares.items():
        if not 0 <= share < 1:
            raise UsageError(
                f"scope gives '{glob}' a sparsity of {share:g}: it is the share of zeros, 0 <= S < 1"
            )
    if shares and pattern is not None:
        raise UsageError("a pattern says how much of every weight: give no ratios with it")
    if scope not in ("global", "local"):
        raise UsageError(f"scope '{scope}' is neither 'global' nor 'local'")
    known = "magnitude" if criterion in GRADIENT else criterion
    least = min((s for s in shares.values() if s > 0), default=0.5)
    options = Sparsity(
        sparsity if sparsity is not None or not shares else least,
        scope,
        known,
        pattern,
        axis,
        (only,) if isinstance(only, str) else tuple(only),
        (exclude,) if isinstance(exclude, str) else tuple(exclude),
    )
    if pattern is not None and not options.n:
        raise UsageError(f"pattern '{pattern}' keeps nothing")
    return options


def _selected(
    weights: Sequence[Weight], scored: Any, options: Sparsity, shares: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Name -> what stays of each weight."""
    alike: Any = weights  # `select` asks for names, shapes, sizes and roles
    if options.pattern is not None:
        for weight in weights:
            _check_divides(weight, options)
        pruned = select.n_of_m(alike, scored, options.n, options.m, options.pattern_axis)
    elif options.scope == "global":
        _check_grows(weights, options.sparsity or 0.0)
        pruned = select.over_all(alike, scored, options.sparsity or 0.0)
    else:
        choose = select.by_output if options.criterion == "wanda" else select.by_layer
        pruned = {}
        for weight in weights:
            share = next((s for g, s in shares.items() if weight.matches(g)), options.sparsity)
            one: Any = [weight]
            pruned |= choose(one, scored, share or 0.0)
    masks = {}
    for weight in weights:
        stays = torch.from_numpy(~pruned[weight.name].pruned).to(weight.original.device)
        masks[weight.name] = stays if weight.mask is None else stays & weight.mask
    return masks


def _check_divides(weight: Weight, options: Sparsity) -> None:
    rank = len(weight.shape)
    axis = weight.role.reduction if options.pattern_axis is None else options.pattern_axis
    leave = f"leave it with exclude='{weight.name}'"
    if not -rank <= axis < rank:
        raise UsageError(
            f"'{weight.name}' has no axis {axis} (shape {list(weight.shape)}): choose another "
            f"pattern_axis, or {leave}"
        )
    if weight.shape[axis] % options.m:
        raise UsageError(
            f"{options.pattern} does not divide axis {axis} of '{weight.name}' (shape "
            f"{list(weight.shape)}): choose another pattern_axis, or {leave}"
        )


def _check_grows(weights: Sequence[Weight], sparsity: float) -> None:
    total = sum(w.size for w in weights)
    known = sum(int((~w.mask).sum()) for w in weights if w.mask is not None)
    if known > round(sparsity * total):
        raise UsageError(
            f"sparsity {sparsity:g} is less than the {known / total:g} that is masked already, and "
            "masks are not taken back: ask for more, or start from a module without masks"
        )


def _clear(
    optimizer: torch.optim.Optimizer, weights: Sequence[Weight], masks: Mapping[str, torch.Tensor]
) -> None:
    """No momentum where nothing is left."""
    optimizer = innermost(optimizer)
    for weight in weights:
        for value in optimizer.state.get(weight.original, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == weight.original.shape:
                value.masked_fill_(~masks[weight.name].to(value.device), 0)
