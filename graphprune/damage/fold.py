"""Compensation in closed form for one group alone, from the original's statistics.

What leaves is estimated from what stays, `x_R = A x_K + b` with A by ridge regression, and the
layers that read it take that in: `W_K + W_R A`, and `W_R b` into the bias. So does the loop of a
recurrent layer, which reads its own state (`graphprune.compensation.states`). It needs one pass of
statistics for all groups and widths and no run of the pruned model. Where a convolution pads, the
bias is wrong at the border; the refit of a whole model (`graphprune.passes.compensate`) is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.groups import Group
from graphprune.compensation.estimate import estimate
from graphprune.compensation.linear import Linear, linear_of, write_back
from graphprune.compensation.states import fold_state
from graphprune.cut import Cut, take
from graphprune.data.room import batch_sizes
from graphprune.onnx.names import FreshNames
from graphprune.onnx.states import AXES, STATE, State, states_of, with_states
from graphprune.plan import Plan
from graphprune.rules.context import node_name
from graphprune.scoring.statistics import Axes, Known, Statistics, collect

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Reading:
    """What of the original reads groups, and can take in what leaves; by node.

    Attributes:
        layers: Linear layers that read a group channel by channel.
        states: Recurrent layers that read units of their own.
    """

    layers: Mapping[str, Linear]
    states: Mapping[str, State]


class Folder:
    """Folds single groups, see above.

    Args:
        reading: What reads them (see `reading_of`).
        statistics: Of what is read, by value (see `statistics_of`).
    """

    def __init__(self, reading: Reading, statistics: Mapping[str, Statistics]) -> None:
        self._reading = reading
        self._statistics = statistics

    def __call__(self, pruned: ir.Model, plan: Plan) -> None:
        """Change the weights of the layers of `pruned` that read what left."""
        nodes = {node_name(n): n for n in pruned.graph}
        names = FreshNames(pruned)
        for use in plan.initializers:
            node = nodes.get(use.node)
            layer, state = self._reading.layers.get(use.node), self._reading.states.get(use.node)
            smaller = None if node is None or layer is None or use.input != 1 else linear_of(node)
            if layer is not None and smaller is not None:
                self._fold(layer, smaller, use.cuts, names)
            elif node is not None and state is not None and use.input == STATE:
                fold_state(state, self._statistics[state.value], node, use.cuts, names)

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
        matrix, constant = estimate(known.mean, known.covariance, kept, gone, centred=centred)
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


def reading_of(model: ir.Model, groups: Sequence[Group]) -> Reading:
    """What reads one of the groups.

    Args:
        model: The original, canonical.
        groups: Of its analysis.
    """
    nodes = {node_name(n): n for n in model.graph}
    states = states_of(model)
    layers: dict[str, Linear] = {}
    looping: dict[str, State] = {}
    for site, axis in ((m.site, m.axis) for g in groups for m in g.members):
        node = nodes.get(site.node)
        if node is None:
            continue
        if site.input == STATE and site.node in states:
            looping[site.node] = states[site.node]
        layer = linear_of(node) if site.input == 1 else None
        if layer is not None and layer.reads is not None and axis == layer.reads:
            layers[site.node] = layer
    return Reading(layers, looping)


def statistics_of(
    model: ir.Model,
    reading: Reading,
    feeds: Sequence[Mapping[str, Array]],
    *,
    dims: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    jobs: int = 1,
    seed: int = 0,
    known: Known | None = None,
) -> dict[str, Statistics]:
    """Means and covariances of what is read.

    Args:
        model: The original, canonical.
        reading: Of `reading_of`.
        feeds: Inputs, batch by batch.
        dims: Shapes of values, to bound memory; one that is not named is measured in a run of its own.
        threads: Of onnxruntime.
        jobs: Threads of this process (see `collect`).
        seed: Of the choice of positions.
        known: Statistics of before (see `collect`).
    """
    dims = dims or {}
    wanted: dict[str, Axes] = {state.value: AXES for state in reading.states.values()}
    for layer in reading.layers.values():
        name, axis = _read(layer), layer.axes[0]
        wanted[name] = axis % len(dims[name]) if name in dims else axis
    sizes = batch_sizes(model, feeds, dims)
    return collect(
        with_states(model),
        wanted.items(),
        feeds,
        sizes=sizes,
        threads=threads,
        jobs=jobs,
        seed=seed,
        known=known,
    )
