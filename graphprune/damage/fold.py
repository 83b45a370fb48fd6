"""Compensation in closed form for one group alone, from the original's statistics.

What leaves is estimated from what stays, `x_R = A x_K + b` with A by ridge regression, and the
layers that read it take that in: `W_K + W_R A`, and `W_R b` into the bias. It needs one pass of
statistics for all groups and widths and no run of the pruned model. Where a convolution pads, the
bias is wrong at the border; the refit of a whole model (`graphprune.passes.compensate`) is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.groups import Group
from graphprune.compensation.linear import Linear, linear_of, write_back
from graphprune.data.room import batch_sizes
from graphprune.onnx.names import FreshNames
from graphprune.plan import Cut, Plan, take
from graphprune.rules.context import node_name
from graphprune.scoring.statistics import Known, Statistics, collect

Array = np.ndarray[Any, Any]

_RIDGE = 1e-3
"""Relative to the mean variance of what stays."""


class Folder:
    """Folds single groups, see above.

    Args:
        layers: Of the original, by node (see `layers_of`).
        statistics: Of what they read, by value (see `statistics_of`).
    """

    def __init__(self, layers: Mapping[str, Linear], statistics: Mapping[str, Statistics]) -> None:
        self._layers = layers
        self._statistics = statistics

    def __call__(self, pruned: ir.Model, plan: Plan) -> None:
        """Change the weights of the layers of `pruned` that read what left."""
        nodes = {node_name(n): n for n in pruned.graph}
        names = FreshNames(pruned)
        for use in plan.initializers:
            layer, node = self._layers.get(use.node), nodes.get(use.node)
            smaller = None if node is None or layer is None or use.input != 1 else linear_of(node)
            if layer is not None and smaller is not None:
                self._fold(layer, smaller, use.cuts, names)

    def _fold(self, layer: Linear, smaller: Linear, cuts: Sequence[Cut], names: FreshNames) -> None:
        known = self._statistics[_read(layer)]
        reading = [c for c in cuts if c.axis == layer.reads and not c.blocks]
        if known.covariance is None or not reading or not reading[0].count:
            return
        kept = reading[0].kept
        gone = np.setdiff1d(np.arange(reading[0].size), kept)
        inputs, outputs = layer.weights.shape[1:]
        taps = inputs // reading[0].size
        # All outputs of a transposed convolution do not read all taps: no constant is theirs.
        centred = smaller.biased and layer.node.op_type != "ConvTranspose"
        matrix, constant = _estimate(known, kept, gone, centred=centred)
        weights = layer.weights[0].reshape(-1, taps, outputs)
        weights = weights[:, :, _outputs(layer, taps, [c for c in cuts if c is not reading[0]])]
        folded = weights[kept] + np.tensordot(matrix, weights[gone], axes=(0, 0))
        shift = np.tensordot(constant, weights[gone].sum(1), axes=(0, 0))
        shape = smaller.weights.shape
        write_back(smaller, folded.reshape(shape), smaller.bias + shift, names)


def _read(layer: Linear) -> str:
    """The activation that a layer reads."""
    value = layer.node.inputs[0]
    assert value is not None
    return value.name or ""


def _outputs(layer: Linear, taps: int, cuts: Sequence[Cut]) -> Array:
    """Which outputs stay, by the cuts of the other axes of the stored weight."""
    held = layer.node.inputs[1]
    assert held is not None
    assert held.const_value is not None
    assert layer.reads is not None
    shape = [int(n) for n in held.const_value.shape.numpy()]
    del shape[layer.reads]
    numbers = np.arange(layer.weights.shape[2]).repeat(taps).reshape(shape)
    left: Array = take(np.expand_dims(numbers, layer.reads), cuts)
    return left.reshape(-1)[::taps]


def layers_of(model: ir.Model, groups: Sequence[Group]) -> dict[str, Linear]:
    """Linear layers that read one of the groups channel by channel, by node name."""
    nodes = {node_name(n): n for n in model.graph}
    found: dict[str, Linear] = {}
    for member in (m for g in groups for m in g.members):
        node = nodes.get(member.site.node)
        if node is None or member.site.input != 1:
            continue
        layer = linear_of(node)
        if layer is not None and layer.reads is not None and member.axis == layer.reads:
            found[member.site.node] = layer
    return found


def statistics_of(
    model: ir.Model,
    layers: Mapping[str, Linear],
    feeds: Sequence[Mapping[str, Array]],
    *,
    dims: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    jobs: int = 1,
    seed: int = 0,
    known: Known | None = None,
) -> dict[str, Statistics]:
    """Means and covariances of what the layers read.

    Args:
        model: The original, canonical.
        layers: Of `layers_of`.
        feeds: Inputs, batch by batch.
        dims: Shapes of values, to bound memory; one that is not named is measured in a run of its own.
        threads: Of onnxruntime.
        jobs: Threads of this process (see `collect`).
        seed: Of the choice of positions.
        known: Statistics of before (see `collect`).
    """
    dims = dims or {}
    wanted = {}
    for layer in layers.values():
        name, axis = _read(layer), layer.axes[0]
        wanted[name] = axis % len(dims[name]) if name in dims else axis
    sizes = batch_sizes(model, feeds, dims)
    return collect(
        model,
        wanted.items(),
        feeds,
        sizes=sizes,
        threads=threads,
        jobs=jobs,
        seed=seed,
        known=known,
    )


def _estimate(known: Statistics, kept: Array, gone: Array, *, centred: bool) -> tuple[Array, Array]:
    """A `(gone, kept)` and b `(gone,)` of `x_R = A x_K + b`; without a bias through the origin."""
    moments = known.covariance
    assert moments is not None
    if not centred:
        moments = moments + np.outer(known.mean, known.mean)
    inner = moments[np.ix_(kept, kept)]
    ridge = _RIDGE * float(np.diagonal(inner).mean()) + 1e-12
    matrix = np.linalg.solve(inner + ridge * np.eye(len(kept)), moments[np.ix_(kept, gone)]).T
    constant = known.mean[gone] - matrix @ known.mean[kept] if centred else np.zeros(len(gone))
    return matrix, constant
