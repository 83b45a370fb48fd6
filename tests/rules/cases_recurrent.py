"""Audit cases of LSTM, GRU and RNN: every optional input, both directions, stacks, shared zeros."""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, case
from onnx import TensorProto

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS = 5


def parameters(net: Net, op: str, directions: int, inputs: int, hidden: int) -> list[str]:
    """W, R and B of a layer, scaled so that gates neither saturate nor vanish."""
    g = GATES[op]
    return [
        net.weight(directions, g * hidden, inputs, fan_in=inputs),
        net.weight(directions, g * hidden, hidden, fan_in=hidden),
        net.vector(directions, 2 * g * hidden) if net.rng.random() < 0.8 else "",
    ]


def layer(
    net: Net,
    op: str,
    x: str,
    inputs: int,
    hidden: int,
    *,
    direction: str | None = None,
    lengths: str = "",
    states: tuple[str, str] = ("", ""),
    peepholes: str = "",
    **attributes,
) -> list[str]:
    """A recurrent layer; Y, Y_h and (LSTM) Y_c."""
    directions = 2 if direction == "bidirectional" else 1
    extra = [lengths, states[0]]
    if op == "LSTM":
        extra += [states[1], peepholes]
    return net.ops(
        op,
        x,
        *parameters(net, op, directions, inputs, hidden),
        *extra,
        count=3 if op == "LSTM" else 2,
        hidden_size=hidden,
        direction=direction,
        **attributes,
    )


def sequence(net: Net, op: str, *, opset: int = 20) -> tuple[str, int]:
    """A dense layer over a sequence `[time, batch, features]`."""
    width = net.size(3, 6)
    n = net.size(3, 5)
    return net.dense(net.input([STEPS, net.batch, n]), n, width), width


def steps_out(net: Net, y: str, directions: int, hidden: int, m: int) -> str:
    """Y `[time, directions, batch, hidden]` -> [time, batch, directions * hidden] -> dense."""
    y = net.op("Transpose", y, perm=[0, 2, 1, 3])
    y = net.op("Reshape", y, net.ints(0, 0, directions * hidden))
    return net.dense(y, directions * hidden, m)


@case(*((op, d) for op in GATES for d in (None, "forward", "reverse", "bidirectional")))
def whole_sequence(rng: Rng, op: str, direction: str | None) -> Example:
    """dense -> layer -> dense on Y: the units of each direction, and the features before it."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    attributes = {}
    if op == "GRU":
        attributes["linear_before_reset"] = net.pick(0, 1)
    if op == "LSTM":
        attributes["input_forget"] = net.pick(0, 1)
    if rng.random() < 0.3:
        attributes["clip"] = 1.5
    y = layer(net, op, x, width, hidden, direction=direction, **attributes)[0]
    directions = 2 if direction == "bidirectional" else 1
    return net.example(steps_out(net, y, directions, hidden, m), units=[width, directions * hidden])


@case(*GATES)
def last_states(rng: Rng, op: str) -> Example:
    """Only Y_h (and Y_c) are read, of a layer with lengths; the directions are summed."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    direction = net.pick("forward", "bidirectional")
    lengths = net.op(
        "Cast",
        net.input([net.batch], TensorProto.INT64, lambda r, s: r.integers(1, STEPS + 1, s)),
        to=TensorProto.INT32,
    )
    outputs = layer(net, op, x, width, hidden, direction=direction, lengths=lengths)
    h = net.op("ReduceSum", outputs[1], net.ints(0), keepdims=0)
    if op == "LSTM":
        h = net.op("Add", h, net.op("ReduceSum", outputs[2], net.ints(0), keepdims=0))
    return net.example(net.dense(h, hidden, m), units=[width, hidden])


@case(*GATES)
def directions_read_alike(rng: Rng, op: str) -> Example:
    """One matrix reads both directions: whole directions are all that could leave, and they stay."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    y = layer(net, op, x, width, hidden, direction="bidirectional")[0]
    y = net.op("ReduceSum", net.dense(y, hidden, m), net.ints(1), keepdims=0)
    return net.example(y, units=[width, 2], inner=[width, hidden])


@case("LSTM")
def peepholes(rng: Rng, op: str) -> Example:
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    direction = net.pick("forward", "reverse", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    p = net.vector(directions, 3 * hidden)
    y = layer(net, op, x, width, hidden, direction=direction, peepholes=p)[0]
    return net.example(steps_out(net, y, directions, hidden, m), units=[width, directions * hidden])


@case(*GATES)
def activations(rng: Rng, op: str) -> Example:
    """Activations that do not map zero to zero: R's columns alone must silence a unit."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    direction = net.pick("forward", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    names = {
        "LSTM": ["HardSigmoid", "Sigmoid", "Softsign"],
        "GRU": ["Sigmoid", "HardSigmoid"],
        "RNN": ["Softplus"],
    }[op]
    y = layer(net, op, x, width, hidden, direction=direction, activations=names * directions)[0]
    return net.example(steps_out(net, y, directions, hidden, m), units=[width, directions * hidden])


@case(*GATES)
def initial_weights(rng: Rng, op: str) -> Example:
    """Initial states that are weights, one for each sequence of a fixed batch."""
    net = Net(rng)
    net.batch = 2
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    direction = net.pick("forward", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    states = (net.vector(directions, 2, hidden), net.vector(directions, 2, hidden))
    y = layer(net, op, x, width, hidden, direction=direction, states=states)[0]
    return net.example(steps_out(net, y, directions, hidden, m), units=[width, directions * hidden])


@case(*GATES)
def initial_computed(rng: Rng, op: str) -> Example:
    """Initial states made by a dense layer (an image that is told): its neurons are the units."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m, n = net.size(4, 8), net.size(3, 5), net.size(3, 5)
    made = net.op("Unsqueeze", net.dense(net.input([net.batch, n]), n, hidden), net.ints(0))
    y = layer(net, op, x, width, hidden, states=(made, ""))[0]
    return net.example(steps_out(net, y, 1, hidden, m), units=[width, hidden])


@case(*GATES)
def initial_given(rng: Rng, op: str) -> Example:
    """Initial states that the caller gives: the units have to stay."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    given = net.input([1, net.batch, hidden])
    y = layer(net, op, x, width, hidden, states=(given, ""))[0]
    return net.example(
        steps_out(net, y, 1, hidden, m), units=[width], reason="its initial state has a fixed size"
    )


@case(*((op, made) for op in GATES for made in ("ConstantOfShape", "Expand")))
def shared_zeros(rng: Rng, op: str, made: str) -> Example:
    """One tensor of zeros, cut into the initial states of two layers: it couples nothing."""
    net = Net(rng)
    x, width = sequence(net, op)
    h1, m = net.size(4, 8), net.size(3, 5)
    batch = net.op("Shape", x, start=1, end=2)
    sizes = net.op("Concat", net.ints(2), batch, net.ints(h1), axis=0)
    if made == "Expand":
        zeros = net.op("Expand", net.const(np.zeros(1, np.float32)), sizes)
    else:
        zeros = net.op("ConstantOfShape", sizes)
    first, second = (
        net.op("Slice", zeros, net.ints(k), net.ints(k + 1), net.ints(0)) for k in (0, 1)
    )
    y = layer(net, op, x, width, h1, states=(first, first))[0]
    y = net.op("Squeeze", y, net.ints(1))
    y = layer(net, op, y, h1, h1, states=(second, second), direction="reverse")[0]
    return net.example(steps_out(net, y, 1, h1, m), units=[width, h1, h1])


@case(*GATES)
def stacked(rng: Rng, op: str) -> Example:
    """Two bidirectional layers: the first one's units are the second one's features."""
    net = Net(rng)
    x, width = sequence(net, op)
    h1, h2, m = net.size(3, 6), net.size(3, 6), net.size(3, 5)
    y = layer(net, op, x, width, h1, direction="bidirectional")[0]
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 0, 2 * h1))
    y = net.op("Tanh", y)
    y = layer(net, op, y, 2 * h1, h2, direction="bidirectional")[0]
    return net.example(steps_out(net, y, 2, h2, m), units=[width, 2 * h1, 2 * h2])


@case(*GATES)
def directions_apart(rng: Rng, op: str) -> Example:
    """The two directions are split and added to a dense layer's result: three become one."""
    net = Net(rng)
    x, width = sequence(net, op)
    hidden, m = net.size(4, 8), net.size(3, 5)
    y = layer(net, op, x, width, hidden, direction="bidirectional")[0]
    forward, back = net.ops("Split", y, count=2, axis=1, num_outputs=2)
    total = net.op("Add", net.op("Squeeze", forward, net.ints(1)), net.dense(x, width, hidden))
    total = net.op("Add", total, net.op("Squeeze", back, net.ints(1)))
    return net.example(net.dense(total, hidden, m), units=[width, hidden])


@case("W", "R", "both")
def computed_parameters(rng: Rng, which: str) -> Example:
    """W or R scaled by a number that is only known at run time."""
    net = Net(rng)
    x, width = sequence(net, "GRU")
    hidden, m = net.size(4, 8), net.size(3, 5)
    direction = net.pick("forward", "bidirectional")
    directions = 2 if direction == "bidirectional" else 1
    w, r, b = parameters(net, "GRU", directions, width, hidden)
    scale = net.op("Add", net.input([1]), net.const(2.0))
    if which in ("W", "both"):
        w = net.op("Mul", w, scale)
    if which in ("R", "both"):
        r = net.op("Mul", r, scale)
    y = net.ops("GRU", x, w, r, b, count=2, hidden_size=hidden, direction=direction)[0]
    return net.example(steps_out(net, y, directions, hidden, m), units=[width, hidden])


@case(*((op, d) for op in GATES for d in ("forward", "bidirectional")))
def batch_first(rng: Rng, op: str, direction: str) -> Example:
    """layout 1, which onnxruntime does not run: Y `[batch, time, directions, hidden]`."""
    net = Net(rng)
    net.batch = 2
    n, width, hidden, m = net.size(3, 5), net.size(3, 6), net.size(4, 8), net.size(3, 5)
    x = net.dense(net.input([2, STEPS, n]), n, width)
    directions = 2 if direction == "bidirectional" else 1
    outputs = layer(net, op, x, width, hidden, direction=direction, layout=1)
    y = net.op("Reshape", outputs[0], net.ints(0, 0, directions * hidden))
    y = net.dense(y, directions * hidden, m)
    return net.example(y, units=[width, directions * hidden], reference=True)
