"""How much of each weight becomes zero, so that the model loses least.

Each weight alone is pruned to several sparsities, by the scores that prune it in the end, and what
the outputs lose is measured on calibration inputs that the scores did not see
(`graphprune.damage.judge`). Between these points the damage is interpolated. Then all weights start
whole, and the step of least damage for a zero is taken until there are enough zeros: on the lower
convex hulls of the curves that is the least sum of damages (a multiple-choice knapsack whose costs
are separable). The last step is taken in part, so that the number of zeros is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.damage.judge import Judge
from graphprune.passes.sparsify import SparsifyPass
from graphprune.selection.allocate import hull
from graphprune.selection.curves import Curve, Curves
from graphprune.sparse.select import Scores, lowest
from graphprune.sparse.weights import Weight

Array = np.ndarray[Any, Any]

POWERS = (1 / 4, 1 / 2, 1, 3 / 2, 2, 3)
"""Where a curve is measured: at a goal of S zeros a weight keeps (1 - S)^p."""

_LEVELS = 200
"""Steps in which a weight is emptied."""


def damage_curves(
    model: ir.Model,
    weights: Sequence[Weight],
    scores: Scores,
    sparsity: float,
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Curve]:
    """Initializer name -> what the model loses when this weight alone is pruned.

    Args:
        model: Not changed.
        weights: To measure; each takes a run of the model for each of `POWERS`.
        scores: Of their elements.
        sparsity: The goal over all of them, 0 < S < 1.
        feeds: Inputs to measure on, batch by batch.
        threads: Of onnxruntime.
        progress: Called with the share that is done.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
    """
    judge = Judge(model, feeds, threads)
    kept = [(1 - sparsity) ** power for power in POWERS]
    curves = {}
    for i, weight in enumerate(weights):
        found = scores(weight)
        damage = []
        for k in kept:
            pruned = model.clone()
            SparsifyPass({weight.name: lowest(found, round((1 - k) * weight.size))})(pruned)
            damage.append(judge.damage(pruned))
        curves[weight.name] = Curve(tuple(kept), tuple(damage))
        if progress is not None:
            progress((i + 1) / len(weights))
    return curves


def least_damage(weights: Sequence[Weight], curves: Curves, sparsity: float) -> list[int]:
    """Zeros of each weight, `sparsity` over all of them exactly, of least summed damage.

    No weight gets more than was measured.

    Args:
        weights: To prune.
        curves: Of each.
        sparsity: 0 < S < 1.
    """
    steps = []
    for number, weight in enumerate(weights):
        curve = curves[weight.name]
        shares = np.linspace(0, 1 - curve.kept[0], _LEVELS + 1)
        zeros = np.ceil(shares * weight.size)
        damage = np.array([curve.at(1 - float(s)) for s in shares])
        for a, b in itertools.pairwise(hull(zeros, damage)):
            more = int(zeros[b] - zeros[a])
            steps.append((float(damage[b] - damage[a]) / more, number, a, more))
    counts = [0] * len(weights)
    left = round(sparsity * sum(w.size for w in weights))
    for _, number, _, more in sorted(steps):
        taken = min(more, left)
        counts[number] += taken
        left -= taken
    return counts
