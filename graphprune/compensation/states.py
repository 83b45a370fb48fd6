"""Hidden units of recurrent layers that leave, as the loop reads them.

At every step the gates read the state of the step before through the recurrence weights R. A unit that
leaves is missing there from the first step on, and what that does is read again at the next. So what
leaves is estimated from what stays, `h_gone = A h_kept + b`, over the states of the original, and R
takes that in: `R_kept + R_gone A`, and `R_gone b` into the bias of the recurrence.

Where a GRU multiplies the state by its reset gate before R reads it (`linear_before_reset` 0), A is
exact for units that are alike in that gate too, and gains less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.estimate import estimate
from graphprune.cut import Cut, take
from graphprune.data.room import batch_sizes
from graphprune.onnx.constants import constant, set_constant
from graphprune.onnx.names import FreshNames
from graphprune.onnx.states import AXES, STATE, State, states_of, with_states
from graphprune.plan import Plan
from graphprune.rules.context import node_name
from graphprune.scoring.statistics import Statistics, collect

Array = np.ndarray[Any, Any]

_BIAS = 3
"""Which input of a recurrent op B is, whose second half belongs to the recurrence."""


def fold_states(
    model: ir.Model,
    plan: Plan,
    original: ir.Model,
    dims: Mapping[str, Sequence[int]],
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
    seed: int = 0,
) -> None:
    """Let all recurrent layers of which units were cut take in what left.

    Args:
        model: The pruned graph, whose weights change.
        plan: What was cut.
        original: What the plan was applied to.
        dims: Shapes of the original's values at any binding, to bound memory.
        feeds: Inputs.
        threads: Of onnxruntime.
        seed: Of the choice of steps.
    """
    states = states_of(original)
    cuts = {u.node: u.cuts for u in plan.initializers if u.input == STATE and u.node in states}
    wanted = [(states[name].value, AXES) for name in cuts]
    if not wanted:
        return
    sizes = batch_sizes(original, feeds, dims)
    found = collect(with_states(original), wanted, feeds, sizes=sizes, threads=threads, seed=seed)
    nodes = {node_name(n): n for n in model.graph}
    names = FreshNames(model)
    for name, of in cuts.items():
        if name in nodes:
            fold_state(states[name], found[states[name].value], nodes[name], of, names)


def fold_state(
    state: State, known: Statistics, node: ir.Node, cuts: Sequence[Cut], names: FreshNames
) -> None:
    """Write R, and the bias where there is one, of a pruned layer.

    Args:
        state: Of the original.
        known: Of its states, directions and units together.
        node: The layer in the pruned graph.
        cuts: Of R.
        names: Of the pruned graph.
    """
    original = state.weights
    directions, gates, units = original.shape
    covariance = known.covariance
    # Which of the original's weights stays at each place says which rows and columns do.
    places: Array = take(np.arange(original.size).reshape(original.shape), cuts)
    if covariance is None or len(covariance) != directions * units or places.shape[2] == units:
        return
    bias = constant(node, _BIAS)
    weights = np.empty(places.shape)
    shifts = np.zeros(places.shape[:2])
    for d in range(directions):
        kept = places[d, 0] % units
        gone = np.setdiff1d(np.arange(units), kept)
        rows = original[d, places[d, :, 0] // units % gates]
        own = slice(d * units, (d + 1) * units)
        matrix, shift = estimate(
            known.mean[own], covariance[own, own], kept, gone, centred=bias is not None
        )
        weights[d] = rows[:, kept] + rows[:, gone] @ matrix
        shifts[d] = rows[:, gone] @ shift
    set_constant(node, STATE, weights, names)
    if bias is not None:
        set_constant(node, _BIAS, bias + np.pad(shifts, ((0, 0), (shifts.shape[1], 0))), names)
