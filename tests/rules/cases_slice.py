"""Audit cases of Slice."""

from __future__ import annotations

from audit_net import Example, Net, Rng, case


def sliced(net: Net, h: str, axis: int, start: int, end: int, step: int = 1) -> str:
    """Slice in the spelling of the opset."""
    if net.opset < 10:
        return net.op("Slice", h, starts=[start], ends=[end], axes=[axis])
    if step == 1 and net.rng.random() < 0.5:
        return net.op("Slice", h, net.ints(start), net.ints(end), net.ints(axis))
    return net.op("Slice", h, net.ints(start), net.ints(end), net.ints(axis), net.ints(step))


@case("front", "back", "middle", "huge", "negative")
def part(rng: Rng, how: str) -> Example:
    """A piece of the channels goes on; the whole is read elsewhere."""
    net = Net(rng)
    n, c = 3, net.size(6, 9)
    h = net.dense(net.input([net.batch, n]), n, c)
    start, end = {
        "front": (0, c - 2),
        "back": (2, c),
        "middle": (1, c - 1),
        "huge": (2, 2**63 - 1),
        "negative": (-c + 1, -1),
    }[how]
    size = len(range(c)[start:end])
    y = net.op("Tanh", sliced(net, h, 1, start, end))
    z = net.op("Add", net.dense(y, size, 4), net.dense(h, c, 4))
    return net.example(z, units=None)


@case("front", "middle")
def part_alone(rng: Rng, how: str) -> Example:
    """Only a piece is read at all."""
    net = Net(rng)
    n, c = 3, net.size(6, 9)
    h = net.dense(net.input([net.batch, n]), n, c)
    start, end = {"front": (0, c - 2), "middle": (2, c - 1)}[how]
    y = net.op("Tanh", sliced(net, h, 1, start, end))
    return net.example(net.dense(y, end - start, 4), units=None)


@case("halves", "rotate")
def halves(rng: Rng, how: str) -> Example:
    """Rotary embedding's rotate_half: a channel of one half leaves with its partner."""
    net = Net(rng)
    n, c = 3, net.size(3, 5)
    h = net.dense(net.input([net.batch, 3, n]), n, 2 * c)
    a, b = sliced(net, h, -1, 0, c), sliced(net, h, -1, c, 2**62)
    if how == "halves":
        y = net.op("Mul", a, net.op("Sigmoid", b))
        return net.example(net.dense(y, c, 4), units=c)
    turned = net.op("Concat", net.op("Neg", b), a, axis=-1)
    y = net.op(
        "Add", net.op("Mul", h, net.vector(3, 2 * c)), net.op("Mul", turned, net.vector(3, 2 * c))
    )
    return net.example(net.dense(y, 2 * c, 4), units=c)


@case(2, 3)
def strided(rng: Rng, step: int) -> Example:
    """Every second or third channel: the channels of one stride leave together."""
    net = Net(rng)
    n, c = 3, step * net.size(3, 4)
    h = net.dense(net.input([net.batch, n]), n, c)
    parts = [net.op("Tanh", sliced(net, h, 1, i, 2**62, step)) for i in range(step)]
    y = net.op("Concat", *parts, axis=1)
    return net.example(net.dense(y, c, 4), units=c // step)


@case(2, 3)
def strided_once(rng: Rng, step: int) -> Example:
    """A strided piece and the whole are read."""
    net = Net(rng)
    n, c, first = 3, net.size(7, 10), net.size(0, 2)
    h = net.dense(net.input([net.batch, n]), n, c)
    size = len(range(first, c, step))
    y = net.dense(net.op("Tanh", sliced(net, h, 1, first, 2**62, step)), size, 4)
    return net.example(net.op("Add", y, net.dense(h, c, 4)), units=None)


@case()
def reversed_channels(rng: Rng) -> Example:
    """A negative step turns the channels round."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    y = net.op("Tanh", sliced(net, h, 1, -1, -(2**62), -1))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def reversed_part(rng: Rng) -> Example:
    net = Net(rng)
    n, c = 3, net.size(7, 9)
    h = net.dense(net.input([net.batch, n]), n, c)
    start, end, step = c - 2, net.size(0, 1), net.pick(-1, -2)
    size = len(range(start, end, step))
    y = net.dense(net.op("Tanh", sliced(net, h, 1, start, end, step)), size, 4)
    return net.example(net.op("Add", y, net.dense(h, c, 4)), units=None)


@case()
def positions(rng: Rng) -> Example:
    """Along positions nothing happens to the channels; several axes in one node."""
    net = Net(rng)
    c = net.size(5, 8)
    h = net.conv(net.input([net.batch, 3, 5, 6]), 3, c)
    y = net.op(
        "Slice", h, net.ints(1, -4), net.ints(2**31, 5), net.ints(2, 3), net.ints(2, net.pick(1, 2))
    )
    return net.example(net.conv(y, c, 4), units=c)


@case()
def class_token(rng: Rng) -> Example:
    """The first position of a sequence."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, "seq", n]), n, c)
    y = net.reshape(sliced(net, h, 1, 0, 1), -1, c)
    return net.example(net.dense(y, c, 4), units=c)


@case()
def rolled(rng: Rng) -> Example:
    """torch.roll of the positions (shifted windows)."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([net.batch, t, n]), n, c)
    y = net.op("Concat", sliced(net, h, 1, -1, 2**62), sliced(net, h, 1, 0, -1), axis=1)
    return net.example(net.dense(net.op("Add", h, y), c, 4), units=c)


@case()
def rolled_channels(rng: Rng) -> Example:
    """torch.roll of the channels, added to themselves: a cycle through all of them."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    y = net.op("Concat", sliced(net, h, 1, -1, 2**62), sliced(net, h, 1, 0, -1), axis=1)
    return net.example(net.dense(net.op("Add", h, y), c, 4), units=())


@case()
def old_spelling(rng: Rng) -> Example:
    """Attributes instead of operands, before opset 10 (too old for the certificate)."""
    net = Net(rng, 9)
    n, c = 3, net.size(6, 9)
    h = net.dense(net.input([net.batch, n]), n, c)
    y = net.op("Tanh", sliced(net, h, 1, 0, c - 2))
    return net.example(net.dense(y, c - 2, 4), units=None)


@case("bounds", "axes")
def unknown_bounds(rng: Rng, what: str) -> Example:
    """Bounds known only at run time: their axis stays, the others go on."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([2, t, n]), n, c)
    end = net.input([1], dtype=7, feed=lambda r, shape: r.integers(2, 4, shape))
    axis = 1 if what == "bounds" else 2
    y = net.op("Slice", h, net.ints(0), end, net.ints(axis))
    if what == "axes":
        y = net.op("ReduceSum", y, net.ints(2))
        return net.example(y, units=(), reason="not known before it runs")
    y = net.op("ReduceSum", y, net.ints(1), keepdims=0)
    return net.example(net.dense(y, c, 4), units=c)


@case()
def heads_part(rng: Rng) -> Example:
    """A slice inside every head: partial rotary embedding."""
    net = Net(rng)
    n, h, d = 3, net.size(2, 3), 4
    y = net.reshape(net.dense(net.input([net.batch, n]), n, h * d), 0, h, d)
    a, b = sliced(net, y, 2, 0, 2), sliced(net, y, 2, 2, 4)
    y = net.op("Concat", net.op("Tanh", a), net.op("Relu", b), axis=2)
    y = net.dense(net.reshape(y, 0, h * d), h * d, 4)
    return net.example(y, units=h * d)
