"""LSTM, GRU, RNN: hidden units leave, each direction for itself but equally many of each.

A unit is one row of every gate in W `[directions, gates * hidden, input]`, R `[directions, gates *
hidden, hidden]` and B `[directions, 2 * gates * hidden]`, one weight of every peephole in P
`[directions, 3 * hidden]`, one entry of the states, and one *column* of R: with that column zero a
unit contributes nothing to the others, whatever the activations make of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.labels import Algebra, Factor, Labels
from graphprune.rules.context import OpContext
from graphprune.rules.onnx._macs import lstm_macs
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PEEPHOLES = 3
_STATES = (5, 6)
_DIRECTION = "both directions of a recurrent layer stay"
_SEQUENCE = "a recurrent layer runs over it"


@dataclass(frozen=True, eq=False)
class _View:
    """The hidden units of one axis of an input, in the space (direction, hidden unit).

    Attributes:
        input: Which input.
        axes: Its axes that hold the directions and the units.
        copies: How often it lists the units (once a gate).
        labels: `[directions, hidden]`.
    """

    input: int
    axes: tuple[int, int]
    copies: int
    labels: Labels

    def adopted(self, factors: tuple[Factor, ...]) -> list[Factor]:
        """Factors of the space as factors of the input: one run of units after the other."""
        names = dict(enumerate(self.axes))
        return [
            Factor(
                tuple(names[a] for a in f.axes),
                np.tile(f.labels, [*[1] * len(f.index), self.copies]),
            )
            for f in factors
        ]


def units(alg: Algebra, t: Labels, i: int, directions: int, axis: int, copies: int = 1) -> _View:
    """The hidden units along `axis` of input i, whose axis `directions` tells the directions."""
    rows, size = t.shape[directions], t.shape[axis] // copies
    if t.weight:
        return _View(i, (directions, axis), copies, Labels((rows, size), weight=True))
    own = Labels(t.shape, tuple(f for f in t.factors if f.removal == axis))
    own = alg.tie_across(own, [a for a in range(t.rank) if a not in (directions, axis)], _SEQUENCE)
    flat = Labels(
        (rows, t.shape[axis]), tuple(f.renamed({directions: 0, axis: 1}) for f in own.factors)
    )
    split = alg.reshape(flat, (rows, copies, size))
    split = alg.tie_across(split, [1], "a gate of a recurrent layer stays")
    labels = tuple(f.renamed({0: 0, 2: 1}) for f in split.factors)
    return _View(i, (directions, axis), copies, Labels((rows, size), labels))


def resize_recurrent(r: Resize) -> None:
    """`hidden_size`."""
    if r.new(2) != r.old(2):
        r.set_attr("hidden_size", r.new(2)[2])


@op_rule("", "LSTM", "GRU", "RNN", macs=lstm_macs, resize=resize_recurrent)
def recurrent(ctx: OpContext) -> None:
    """X `[time, batch, input]` -> Y `[time, directions, batch, hidden]`, last states."""
    alg = ctx.alg
    gates = _GATES[ctx.node.op_type]
    batch_first = bool(ctx.attr("layout", 0))
    state_axes = (1, 2) if batch_first else (0, 2)
    w, r = ctx.labels(1), ctx.labels(2)
    columns = features(ctx)
    space = (r.shape[0], r.shape[2])
    own = Factor((0, 1), alg.space.fresh(space))
    views = [units(alg, w, 1, 0, 1, gates), units(alg, r, 2, 0, 1, gates), units(alg, r, 2, 0, 2)]
    directions = {1: 0, 2: 0, 3: 0, 7: 0, **dict.fromkeys(_STATES, state_axes[0])}
    if ctx.has(3):
        views.append(units(alg, ctx.labels(3), 3, 0, 1, 2 * gates))
    if ctx.has(7):
        views.append(units(alg, ctx.labels(7), 7, 0, 1, _PEEPHOLES))
    for i in _STATES:
        if ctx.has(i):
            views.append(units(alg, ctx.labels(i), i, *state_axes))
            if not views[-1].labels.factors and not ctx.labels(i).weight:
                alg.pin(own, "its initial state has a fixed size")
    for i, axis in directions.items():
        if ctx.has(i):
            alg.pin([f for f in ctx.labels(i).factors if f.removal == axis], _DIRECTION)

    met = alg.meet([Labels(space, (own,)), *(v.labels for v in views)], create=[], blocks=False)
    adopted: dict[int, list[Factor]] = {1: columns}
    for view, factors in zip(views, met.operands[1:], strict=True):
        if view.labels.weight:
            adopted.setdefault(view.input, []).extend(view.adopted(factors))
    for i, found in adopted.items():
        ctx.adopt(i, found)
    for factor in met.factors:  # what reads both directions alike may tie all units of one
        alg.balance(factor, rows_stay=True)
    alg.hints.extend((f.labels, "hidden") for f in met.factors)

    y_axes = {0: 2, 1: 3} if batch_first else {0: 1, 1: 3}
    ctx.set([f.renamed(y_axes) for f in met.factors])
    for k in (1, 2):
        ctx.set([f.renamed(dict(enumerate(state_axes))) for f in met.factors], k)


def features(ctx: OpContext) -> list[Factor]:
    """The input features: X meets W, of which every direction reads all of them. W's factors."""
    alg = ctx.alg
    x = alg.tie_across(ctx.moved(0), [0, 1], _SEQUENCE)
    w = ctx.labels(1)
    columns = Labels(w.shape, tuple(f for f in w.factors if f.removal == 2), w.weight)
    if not w.weight:
        columns = alg.tie_across(columns, [1], "")
    directions = (w.shape[0], w.shape[2])
    met = alg.meet(
        [
            Labels((1, x.shape[2]), tuple(f.renamed({2: 1}) for f in x.factors)),
            Labels(directions, tuple(f.renamed({0: 0, 2: 1}) for f in columns.factors), w.weight),
        ],
        contracted=[1],
        create=[],
        blocks=False,
    )
    alg.reduce(met.factors, [1], blocks=False)
    return [f.renamed({0: 0, 1: 2}) for f in met.operands[1]]
