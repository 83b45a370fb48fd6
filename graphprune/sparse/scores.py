"""How much each single weight matters.

- `magnitude`: |w| (Han et al., NeurIPS'15).
- `l<P>`: |w| over the layer's Lp mean, (mean |w|^P)^(1/P): under one threshold for all layers, a
  layer of small weights is not emptied.
- `wanda`: |w| times the root mean square of the input it multiplies, over calibration inputs (Sun
  et al., ICLR'24). Embeddings, recurrences and other weights that no activation of the graph is
  multiplied with count with 1.
- `taylor`, `fisher`: by gradients of the outputs on calibration inputs, without labels
  (`graphprune.distill.weight_scores`; torch).
- `random`: the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import UsageError
from graphprune.options import norm_order
from graphprune.sparse.weights import Weight

Array = np.ndarray[Any, Any]

GRADIENT = ("taylor", "fisher")
DATA_DRIVEN = ("wanda", *GRADIENT)
CRITERIA = ("magnitude", "l<P> (e.g. l1, l2)", *DATA_DRIVEN, "random")

_LEAST = np.float32(2.0**-120)
"""A score below which only zeros are: what no output depends on leaves after them."""


def check_criterion(name: str) -> None:
    """Raises UsageError: an unknown criterion, or one that needs a training."""
    if name == "movement":
        raise UsageError(
            "criterion 'movement' adds up gradients of a training, which an ONNX file does not have: "
            "train the module with graphprune.torch (WeightScores, docs/torch.md), or take taylor or "
            "fisher"
        )
    if name not in ("magnitude", *DATA_DRIVEN, "random"):
        try:
            order = norm_order(name)
        except UsageError:
            order = None
        if order is None:
            raise UsageError(
                f"unknown criterion '{name}': choose one of {', '.join(CRITERIA)}"
            ) from None


def score(weight: Weight, criterion: str, seed: int, inputs: Mapping[str, Array]) -> Array:
    """Of each element, float32, at least 0; larger stays. A weight that is zero scores 0.

    Args:
        weight: It.
        criterion: See above.
        seed: Of `random`.
        inputs: Of `wanda`: value name -> root mean square of each channel.
    """
    array = np.abs(weight.array().astype(np.float32))
    if criterion == "random":
        rng = np.random.default_rng([seed, *weight.name.encode()])
        return np.where(array == 0, 0, rng.random(weight.shape, np.float32) + np.float32(1e-6))
    if criterion == "magnitude":
        return array
    if criterion == "wanda":
        means = inputs.get(weight.source or "")
        return array if means is None else (array * _along(weight, means)).astype(np.float32)
    order = norm_order(criterion)
    assert order is not None
    mean = float((array.astype(np.float64) ** order).mean()) ** (1 / order) if array.size else 0.0
    return (array / np.float32(mean)).astype(np.float32) if mean > 0 else array


def by_gradient(
    weights: Sequence[Weight], found: Mapping[str, Array], criterion: str
) -> Callable[[Weight], Array]:
    """Gradient scores as a function of the weight, of the same form as `score`.

    A weight without a gradient counts by its magnitude, at the mean level of all others.

    Args:
        weights: All that are pruned.
        found: Initializer name -> scores, of those that have a gradient.
        criterion: `taylor`, or `fisher`, which is a square.
    """
    power = 2 if criterion == "fisher" else 1
    scored = [found[w.name] for w in weights if w.name in found]
    count = sum(a.size for a in scored)
    level = sum(float(a.sum(dtype=np.float64)) for a in scored) / count if count else 1.0

    def scores(weight: Weight) -> Array:
        array = np.abs(weight.array().astype(np.float32))
        own = found.get(weight.name)
        if own is None:
            powered = array**power
            mean = float(powered.mean(dtype=np.float64)) if powered.size else 0.0
            own = powered * np.float32(level / mean) if mean > 0 else powered
        return np.where(array == 0, np.float32(0), np.maximum(own, _LEAST))

    return scores


def _along(weight: Weight, means: Array) -> Array:
    """One number for each channel of the input, laid along the weight."""
    shape = [1] * len(weight.shape)
    shape[weight.role.reduction] = weight.shape[weight.role.reduction]
    if weight.role.groups == 1:
        return means.reshape(shape)
    groups = weight.role.groups
    rows = np.repeat(means.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    shape[0] = weight.shape[0]
    return rows.reshape(shape)


def input_means(
    model: ir.Model,
    weights: Sequence[Weight],
    feeds: Sequence[Mapping[str, Array]],
    threads: int = 1,
) -> dict[str, Array]:
    """Value name -> root mean square of each channel, of everything a weight is multiplied with.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
    """
    from graphprune.onnx.runtime import Session

    own = {o.name for node in model.graph for o in node.outputs}
    own |= {v.name for v in model.graph.inputs}
    wanted = {
        w.source: w.role.source[1]
        for w in weights
        if w.source is not None and w.role.source is not None and w.source in own
    }
    inputs = {v.name for v in model.graph.inputs}
    sums: dict[str, Array] = {}
    counts = dict.fromkeys(wanted, 0)
    with Session(model, threads=threads, outputs=[n for n in wanted if n not in inputs]) as session:
        for feed in feeds:
            values = {**feed, **session.run(feed)}
            for name, axis in wanted.items():
                rows = np.moveaxis(values[name], axis, -1).astype(np.float64)
                rows = rows.reshape(-1, rows.shape[-1])
                sums[name] = sums.get(name, 0) + (rows**2).sum(axis=0)
                counts[name] += len(rows)
    return {name: np.sqrt(total / max(1, counts[name])) for name, total in sums.items()}
