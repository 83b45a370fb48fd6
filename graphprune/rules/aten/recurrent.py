"""LSTM, GRU, RNN with their layers, directions and biases in one list of weights; single cells.

A hidden unit is one row of every gate in W_ih `[gates * hidden, input]`, W_hh `[gates * hidden,
hidden]` and both biases, one *column* of W_hh, one entry of the states `[layers * directions, batch,
hidden]`, and one column of the next layer's W_ih. Every layer and direction loses units of its own,
but equally many: the states are one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import fx

from graphprune.labels import Factor, Labels
from graphprune.rules.aten._macs import cell_macs, recurrent_macs
from graphprune.rules.aten.registry import aten_rule
from graphprune.torch.call import op_name
from graphprune.torch.context import AtenContext

_GATES = {"lstm": 4, "gru": 3}
_SEQUENCE = "a recurrent layer runs over it"
_ROWS = "layers and directions of a recurrent layer stay"
_FIXED = "it meets something of fixed size"
_PROJECTED = "a recurrent layer with a projection (proj_size) is not followed"
_STATE = "its initial state has a fixed size"
_CONSTANT = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full")


@dataclass
class _Weights:
    """Operands that follow given labels: weights adopt, computed ones are equated."""

    ctx: AtenContext
    adopted: dict[int, list[Factor]] = field(default_factory=dict)

    def follow(self, i: int, axis: int, labels: np.ndarray | None) -> None:
        """Axis `axis` of operand i has `labels`; None: it stays."""
        alg = self.ctx.alg
        t = self.ctx.labels(i)
        if t.weight:
            if labels is not None:
                self.adopted.setdefault(i, []).append(Factor((axis,), labels))
            return
        factor = t.on(axis)
        if factor is not None and labels is not None:
            alg.space.equate(alg.tie_index(factor).labels, labels)
        elif factor is not None:
            alg.pin(factor, _FIXED)
        elif labels is not None:
            alg.space.pin(labels, _FIXED)

    def done(self) -> None:
        """Write down what the weights adopted."""
        for i, factors in self.adopted.items():
            self.ctx.adopt(i, factors)


def _features(ctx: AtenContext) -> np.ndarray | None:
    """Labels of the last axis of operand 0, which every gate of every direction reads."""
    x = ctx.moved(0)
    x = ctx.alg.tie_across(x, range(x.rank - 1), _SEQUENCE)
    factor = x.on(x.rank - 1)
    return None if factor is None else factor.labels


def _layer(
    weights: _Weights,
    params: tuple[int, ...],
    inputs: np.ndarray | None,
    own: np.ndarray,
    gates: int,
) -> None:
    """One direction of one layer: W_ih, W_hh and, where there are any, the biases."""
    rows = np.tile(own, gates)
    for i in params:
        weights.follow(i, 0, rows)
    weights.follow(params[0], 1, inputs)
    weights.follow(params[1], 1, own)


def _rowwise(own: np.ndarray, axes: tuple[int, int]) -> Factor:
    """Units of every row as a factor of a tensor; a single row indexes nothing."""
    return Factor(axes, own) if own.shape[0] > 1 else Factor(axes[1:], own[0])


def _state(ctx: AtenContext, i: int, own: np.ndarray) -> None:
    """Initial states, operand i `[layers * directions, (batch,) hidden]`."""
    alg = ctx.alg
    rank = len(ctx.shape(i))
    axes = (0, rank - 1)
    if ctx.labels(i).weight:
        ctx.adopt(i, [_rowwise(own, axes)])
        return
    if _constant(ctx, i):
        fresh = alg.space.fresh(own.shape, weak=True)
        ctx.found.states[ctx.value(i)] = Labels(ctx.shape(i), (_rowwise(fresh, axes),))
    t = ctx.labels(i)
    alg.pin([f for f in t.factors if f.removal == 0], _ROWS)
    t = alg.tie_across(t, range(1, rank - 1), _SEQUENCE)
    factor = t.on(rank - 1)
    if factor is None:
        alg.space.pin(own, _STATE)
    else:
        alg.space.equate(factor.over(axes), own)


def _constant(ctx: AtenContext, i: int) -> bool:
    """Whether operand i is one number everywhere, and nobody else reads it.

    Its labels so far say that all rows lose the same, which they need not.
    """
    node = ctx.call.operands[i]
    assert isinstance(node, fx.Node)
    return op_name(node)[1] in _CONSTANT and set(node.users) == {ctx.node}


@aten_rule("lstm", "gru", "rnn_tanh", "rnn_relu", macs=recurrent_macs)
def recurrent(ctx: AtenContext) -> None:
    """Input `[time, batch, features]`, or batch first, or packed, or one sequence -> Y, last states."""
    alg = ctx.alg
    gates = _GATES.get(ctx.op, 1)
    directions = 2 if ctx.arg("bidirectional", False) else 1
    count = int(ctx.arg("num_layers")) * directions
    params = ctx.list_at("params")
    each = len(params) // count
    states = ctx.list_at("hx") if ctx.op == "lstm" else (ctx.at("hx") or 1,)
    if each not in (2, 4) or (each == 2) == bool(ctx.arg("has_biases")):
        ctx.boundary(_PROJECTED)
        return
    inputs = _features(ctx)
    hidden = ctx.shape(params[1])[1]
    own = alg.space.fresh((count, hidden))
    alg.balance(Factor((0, 1), own), rows_stay=True)
    alg.hints.append((own, "hidden"))
    for i in states:
        _state(ctx, i, own)
    weights = _Weights(ctx)
    for first in range(0, count, directions):
        for row in range(first, first + directions):
            _layer(weights, params[row * each : (row + 1) * each], inputs, own[row], gates)
        inputs = own[first : first + directions].reshape(-1)
    weights.done()
    assert inputs is not None
    ctx.set([Factor((len(ctx.out_shape()) - 1,), inputs)])
    for k in range(1, len(states) + 1):
        if ctx.result(k) is not None:
            ctx.set([_rowwise(own, (0, len(ctx.out_shape(k)) - 1))], k)


@aten_rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", macs=cell_macs)
def cell(ctx: AtenContext) -> None:
    """One step: input `[batch, features]`, states `[batch, hidden]` -> states."""
    gates = _GATES.get(ctx.op.removesuffix("_cell"), 1)
    inputs = _features(ctx)
    names = [n for n in ("w_ih", "w_hh", "b_ih", "b_hh") if n in ctx.call.numbers]
    params = tuple(n for n in (ctx.at(name) for name in names) if n is not None)
    states = ctx.list_at("hx") if ctx.op == "lstm_cell" else (ctx.at("hx") or 1,)
    own = ctx.alg.space.fresh(ctx.shape(params[1])[1])
    ctx.alg.hints.append((own, "hidden"))
    weights = _Weights(ctx)
    for i in states:
        t = ctx.labels(i)
        ctx.alg.tie_across(Labels(t.shape, t.factors), range(t.rank - 1), _SEQUENCE)
        weights.follow(i, t.rank - 1, own)
    _layer(weights, params, inputs, own, gates)
    weights.done()
    for k in range(len(states)):
        if ctx.result(k) is not None:
            ctx.set([Factor((len(ctx.out_shape(k)) - 1,), own)], k)
