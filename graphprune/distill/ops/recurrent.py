"""LSTM, GRU and RNN.

torch's fused kernels run what they can: whole sequences with the usual activations, and of GRU the
form that resets behind the product. The rest runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.registry import Call, Result, torch_op

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh"), "RNN": ("tanh",)}
# ONNX has i o f c and z r h, torch i f c o and r z h.
_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}

State = tuple[Tensor, ...]
Function = Callable[[Tensor], Tensor]

_FUNCTIONS: dict[str, Function] = {
    "affine": lambda x: x,
    "hardsigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, eq=False)
class _Cell:
    """One direction of one layer: weights, and what its node says of it.

    Attributes:
        w: Of the input, `(gates * hidden, width)`.
        r: Of the state, `(gates * hidden, hidden)`.
        of_input: Bias of the first, None without one.
        of_state: Bias of the second, None without one.
        peephole: Weights of the cell in the gates i, o and f; None without.
        functions: Activations in the order of the operator reference.
        clip: Bound on what goes into an activation.
        after: GRU resets behind the product (`linear_before_reset`).
        coupled: LSTM forgets what it does not take in (`input_forget`).
        backward: It reads the sequence from its end.
    """

    w: Tensor
    r: Tensor
    of_input: Tensor | None
    of_state: Tensor | None
    peephole: Tensor | None
    functions: tuple[Function, ...]
    clip: float | None
    after: bool
    coupled: bool
    backward: bool

    def bounded(self, x: Tensor) -> Tensor:
        return x if self.clip is None else torch.clamp(x, -self.clip, self.clip)


@torch_op("LSTM", "GRU", "RNN", weights=(1, 2, 3, 7))
def recurrent(call: Call) -> Result:
    op = call.node.op_type
    x = call.x(0)
    x = x.transpose(0, 1) if call.attr("layout", 0) else x
    weights = call.x(1)
    directions, hidden = weights.shape[0], call.x(2).shape[-1]
    states = [_initial(call, i, x, directions, hidden) for i in ((5, 6) if op == "LSTM" else (5,))]
    lengths = call.at(4)
    whole = lengths is None or bool((lengths == x.shape[0]).all())
    outputs, last = [], []
    for d in range(directions):
        cell = _cell(call, d)
        start = tuple(s[d] for s in states)
        if whole and _is_fused(call, cell):
            y, end = _fused(op, cell, x, start)
        else:
            y, end = _stepwise(op, cell, x, start, None if whole else lengths)
        outputs.append(y)
        last.append(end)
    sequence = torch.stack(outputs, 1)  # time, direction, batch, hidden
    ends = [torch.stack([end[i] for end in last]) for i in range(len(states))]
    if call.attr("layout", 0):
        sequence = sequence.permute(2, 0, 1, 3)
        ends = [end.transpose(0, 1) for end in ends]
    return (sequence, *ends)[: call.outputs]


def _cell(call: Call, d: int) -> _Cell:
    op = call.node.op_type
    usual = _USUAL[op]
    given = tuple(a.lower() for a in call.attr("activations") or ())
    names = given[d * len(usual) : (d + 1) * len(usual)] or usual
    odd = [n for n in names if n not in _FUNCTIONS]
    if odd or call.attr("activation_alpha") or call.attr("activation_beta"):
        raise call.refusal(f"activation {odd[0] if odd else names[0]} with parameters")
    both, holes = call.at(3), call.at(7) if op == "LSTM" else None
    of_input, of_state = (None, None) if both is None else both[d].chunk(2)
    return _Cell(
        w=call.x(1)[d],
        r=call.x(2)[d],
        of_input=of_input,
        of_state=of_state,
        peephole=None if holes is None else holes[d],
        functions=tuple(_FUNCTIONS[n] for n in names),
        clip=call.attr("clip"),
        after=bool(call.attr("linear_before_reset", 0)),
        coupled=bool(call.attr("input_forget", 0)),
        backward=call.attr("direction", "forward") == "reverse" or d == 1,
    )


def _is_fused(call: Call, cell: _Cell) -> bool:
    op = call.node.op_type
    usual = cell.functions == tuple(_FUNCTIONS[n] for n in _USUAL[op])
    plain = usual and cell.clip is None and cell.peephole is None and not cell.coupled
    return plain and (op == "LSTM" or (op == "GRU" and cell.after))


def _initial(call: Call, i: int, x: Tensor, directions: int, hidden: int) -> Tensor:
    given = call.at(i)
    if given is None:
        return x.new_zeros(directions, x.shape[1], hidden)
    return given.to(x.device).transpose(0, 1) if call.attr("layout", 0) else given.to(x.device)


def _fused(op: str, cell: _Cell, x: Tensor, start: State) -> tuple[Tensor, State]:
    def reordered(part: Tensor) -> Tensor:
        gates = part.chunk(_GATES[op])
        return torch.cat([gates[i] for i in _ORDER[op]])

    parts = (cell.w, cell.r, cell.of_input, cell.of_state)
    weights = [reordered(p) for p in parts if p is not None]
    x = x.flip(0) if cell.backward else x
    states = [s[None].contiguous() for s in start]
    biased = len(weights) == 4
    if op == "LSTM":
        y, h, c = torch.lstm(x, states, weights, biased, 1, 0.0, False, False, False)
        end: State = (h[0], c[0])
    else:
        y, h = torch.gru(x, states[0], weights, biased, 1, 0.0, False, False, False)
        end = (h[0],)
    return (y.flip(0) if cell.backward else y), end


def _stepwise(
    op: str, cell: _Cell, x: Tensor, start: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """One step a time; a sequence that has ended keeps its state and gives zeros."""
    projected = torch.matmul(x, cell.w.T)
    projected = projected if cell.of_input is None else projected + cell.of_input
    step = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}[op]
    outputs: list[Tensor] = []
    state = start
    order = list(range(x.shape[0]))
    for t in reversed(order) if cell.backward else order:
        new = step(cell, projected[t], state)
        y = new[0]
        if lengths is not None:
            going = (t < lengths.to(x.device))[:, None]
            new = tuple(torch.where(going, a, b) for a, b in zip(new, state, strict=True))
            y = torch.where(going, y, torch.zeros_like(y))
        state = new
        outputs.append(y)
    return torch.stack(outputs[::-1] if cell.backward else outputs), state


def _lstm_step(cell: _Cell, x: Tensor, state: State) -> State:
    h, c = state
    f, g, last = cell.functions
    total = x + h @ cell.r.T
    total = total if cell.of_state is None else total + cell.of_state
    into, out, forget, new = total.chunk(4, -1)
    holes = (None, None, None) if cell.peephole is None else cell.peephole.chunk(3)
    into = into if holes[0] is None else into + holes[0] * c
    forget = forget if holes[2] is None else forget + holes[2] * c
    taken = f(cell.bounded(into))
    kept = 1 - taken if cell.coupled else f(cell.bounded(forget))
    c = kept * c + taken * g(cell.bounded(new))
    out = out if holes[1] is None else out + holes[1] * c
    return f(cell.bounded(out)) * last(cell.bounded(c)), c


def _gru_step(cell: _Cell, x: Tensor, state: State) -> State:
    (h,) = state
    f, g = cell.functions
    xz, xr, xh = x.chunk(3, -1)
    rz, rr, rh = cell.r.chunk(3)
    bz, br, bh = (0.0, 0.0, 0.0) if cell.of_state is None else cell.of_state.chunk(3)
    z = f(cell.bounded(xz + h @ rz.T + bz))
    reset = f(cell.bounded(xr + h @ rr.T + br))
    new = reset * (h @ rh.T + bh) if cell.after else (reset * h) @ rh.T + bh
    return ((1 - z) * g(cell.bounded(xh + new)) + z * h,)


def _rnn_step(cell: _Cell, x: Tensor, state: State) -> State:
    (h,) = state
    total = x + h @ cell.r.T
    total = total if cell.of_state is None else total + cell.of_state
    return (cell.functions[0](cell.bounded(total)),)
