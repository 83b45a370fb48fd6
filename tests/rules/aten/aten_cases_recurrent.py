"""Audit cases of recurrent layers and cells."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor, nn

aten = torch.ops.aten


def _awake(layer: nn.Module) -> None:
    """Rectified units that are never below zero for long."""
    if getattr(layer, "nonlinearity", "") == "relu" or getattr(layer, "mode", "") == "RNN_RELU":
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                parameter.data = parameter.data.abs() + 0.3


@case(
    "LSTM",
    "GRU",
    "RNN",
    ("LSTM", 2),
    ("GRU", 2),
    ("LSTM", "both"),
    ("GRU", "both"),
    ("RNN", "relu"),
)
def recurrent(rng: Rng, how: object) -> Example:
    """Hidden units leave, each layer and direction for itself but equally many."""
    kind, extra = how if isinstance(how, tuple) else (how, 1)
    net = Net(rng)
    n, c, h = 3, net.size(4, 6), net.size(4, 7)
    layers = 2 if extra == 2 or (extra == "both" and net.chance()) else 1
    both = 2 if extra == "both" else 1
    given = {"nonlinearity": "relu"} if extra == "relu" else {}
    first = net.chance()
    layer = net.add(
        getattr(nn, kind)(
            c,
            h,
            layers,
            bias=extra == "relu" or net.chance(0.7),
            bidirectional=both == 2,
            batch_first=first,
            **given,
        )
    )
    _awake(layer)
    a, out, last = net.dense(n, c), net.dense(h * both, 3), net.dense(h, 3)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(a(x))
        y, state = layer(x if first else x.transpose(0, 1))
        state = state[0] if isinstance(state, tuple) else state
        y = out(y)
        return y if first else y.transpose(0, 1), last(state[-1])

    return net.example(run, net.normal(net.batch, 4, n), units=(c, h * both * layers))


@case("learned", "given", "projected")
def initial_state(rng: Rng, how: str) -> Example:
    net = Net(rng)
    n, c, h, b = 3, net.size(4, 6), net.size(4, 7), 2
    layer = net.add(nn.LSTM(c, h, proj_size=3 if how == "projected" else 0, batch_first=True))
    a, last = net.dense(n, c), net.dense(3 if how == "projected" else h, 3)
    learned = net.weight(1, 1, h)

    def run(x: Tensor, state: Tensor) -> Tensor:
        x = torch.tanh(a(x))
        if how == "projected":
            return last(layer(x)[0])
        start = state.transpose(0, 1)
        if how == "learned":
            start = learned().expand(-1, x.shape[0], -1)
        return last(layer(x, (start.contiguous(), start * 0.5))[0])

    units = {"learned": (c, h), "given": c, "projected": ()}[how]
    reason = {"given": "initial state", "projected": "projection"}.get(how, "")
    return net.example(run, net.normal(b, 4, n), net.normal(b, 1, h), units=units, reason=reason)


@case("LSTMCell", "GRUCell", "RNNCell", "relu")
def cell(rng: Rng, kind: str) -> Example:
    """Unrolled by hand over two steps."""
    net = Net(rng)
    n, c, h = 3, net.size(4, 6), net.size(4, 7)
    part = nn.RNNCell(c, h, nonlinearity="relu") if kind == "relu" else getattr(nn, kind)(c, h)
    step = net.add(part)
    _awake(step)
    a, last = net.dense(n, c), net.dense(h, 3)

    def run(x: Tensor) -> Tensor:
        x = torch.tanh(a(x))
        start = x.new_zeros(x.shape[0], h)
        state = (start, start) if kind == "LSTMCell" else start
        for i in range(2):
            state = step(x[:, i], state)
        return last(state[0] if kind == "LSTMCell" else state)

    return net.example(run, net.normal(net.batch, 2, n), units=(c, h))
