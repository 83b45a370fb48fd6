"""Audit cases of reductions and of other ops that look along an axis."""

from __future__ import annotations

from audit_net import Example, Net, Rng, around, case

_NEUTRAL = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
_OTHER = ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")


def reduced(net: Net, op: str, h: str, axes: list[int] | None, keepdims: int) -> str:
    """A reduction in the spelling of the opset."""
    since = 13 if op == "ReduceSum" else 18
    if net.opset >= since:
        extra = [net.ints(*axes)] if axes is not None else []
        return net.op(op, h, *extra, keepdims=keepdims)
    return net.op(op, h, axes=axes, keepdims=keepdims)


def positive_input(net: Net, h: str, op: str) -> str:
    return net.op("Add", net.op("Abs", h), net.const(0.5)) if "Log" in op or "Prod" in op else h


@case(*[(op, opset) for op in (*_NEUTRAL, "ReduceMean") for opset in (12, 18)])
def over_channels(rng: Rng, op: str, opset: int) -> Example:
    """The channels are summed up: they are gone behind it, and gate the tensor itself."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        total = reduced(net, op, h, [net.pick(axis, axis - rank)], 1)
        return net.op("Mul", h, net.op("Tanh", total))

    return around(rng, make, opset=opset, statistics=op == "ReduceMean")


@case(*_NEUTRAL, "ReduceMean", *_OTHER)
def over_positions(rng: Rng, op: str) -> Example:
    """Positions are summed up: every channel goes on, with or without the axes."""
    net = Net(rng, int(rng.choice([12, 13, 18, 20])))
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = positive_input(net, net.dense(net.input([net.batch, t, n]), n, c), op)
    y = reduced(net, op, h, [net.pick(1, -2)], net.size(0, 1))
    return net.example(net.dense(y, c, 4), units=c)


@case(*_NEUTRAL, "ReduceMean")
def over_all(rng: Rng, op: str) -> Example:
    """No axes given: everything but nothing is left."""
    net = Net(rng, 18)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.op("Sigmoid", net.dense(net.input([2, t, n]), n, c))
    total = net.op("Tanh", reduced(net, op, h, None, net.size(0, 1)))
    y = net.op("Mul", net.dense(h, c, 4), total)
    return net.example(y, units=c, statistics=op == "ReduceMean")


@case(*_NEUTRAL)
def no_operation(rng: Rng, op: str) -> Example:
    """Without axes and with noop_with_empty_axes nothing is reduced (ReduceSum of squares aside)."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op(op, h, noop_with_empty_axes=1)

    return around(rng, make, opset=18)


@case(*_OTHER)
def not_neutral(rng: Rng, op: str) -> Example:
    """Over channels these notice a removed zero."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        h = positive_input(net, h, op)
        return net.op("Mul", h, net.op("Tanh", reduced(net, op, h, [axis], 1)))

    return around(rng, make, opset=18, units=(), reason="not neutral to removed channels")


@case(*_NEUTRAL, "ReduceMean", "ReduceMax")
def heads(rng: Rng, op: str) -> Example:
    """[H, d] reduced over d: whole heads leave, or dims of every head."""
    net = Net(rng, 18)
    n, h, d, t = 3, net.size(3, 4), net.size(3, 4), 2
    y = net.reshape(net.dense(net.input([net.batch, t, n]), n, h * d), 0, 0, h, d)
    y = net.op("Mul", y, net.op("Sigmoid", reduced(net, op, y, [-1], 1)))
    y = net.dense(net.reshape(y, 0, 0, h * d), h * d, 4)
    inner = h * d if op in _NEUTRAL or op == "ReduceMean" else h
    return net.example(
        y,
        units=h,
        inner=() if op == "ReduceMax" else inner,
        statistics=op == "ReduceMean",
    )


@case(*_NEUTRAL, "ReduceMean", "ReduceMax")
def over_heads(rng: Rng, op: str) -> Example:
    """[H, d] reduced over H: the dims of all heads leave together."""
    net = Net(rng, 18)
    n, h, d, t = 3, net.size(3, 4), net.size(3, 4), 2
    y = net.reshape(net.dense(net.input([net.batch, t, n]), n, h * d), 0, 0, h, d)
    y = reduced(net, op, y, [2], 0)
    return net.example(net.dense(y, d, 4), units=d)


@case(*[(op, opset) for op in ("Softmax", "LogSoftmax", "Hardmax") for opset in (11, 13)])
def softmax(rng: Rng, op: str, opset: int) -> Example:
    """Over channels: they stay. Over positions: each channel alone."""
    net = Net(rng, opset)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.dense(net.input([net.batch, t, n]), n, c)
    last = bool(rng.random() < 0.5)
    if last:
        y = net.op(op, h, axis=net.pick(-1, 2))
    elif opset < 13:  # flattens: from axis on
        y = net.op(
            "Transpose", net.op(op, net.op("Transpose", h, perm=[0, 2, 1]), axis=2), perm=[0, 2, 1]
        )
    else:
        y = net.op(op, h, axis=net.pick(-2, 1))
    reason = "not neutral to removed channels" if last else ""
    return net.example(net.dense(y, c, 4), units=() if last else c, reason=reason)


@case("Softmax", "LogSoftmax")
def softmax_flattened(rng: Rng, op: str) -> Example:
    """Before opset 13 the default axis 1 flattens everything behind it."""
    net = Net(rng, 11)
    c = net.size(5, 8)
    h = net.op(op, net.conv(net.input([2, 3, 3, 3]), 3, c), axis=1)
    return net.example(net.conv(h, c, 4), units=(), reason="not neutral to removed channels")


@case("ArgMax", "ArgMin")
def arg_max(rng: Rng, op: str) -> Example:
    """Over positions: the positions found belong to their channel."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.dense(net.input([net.batch, t, n]), n, c)
    place = net.op(op, h, axis=net.pick(1, -2), keepdims=net.size(0, 1))
    y = net.op("Add", net.op("Cast", place, to=1), net.const(0.3))
    return net.example(net.dense(y, c, 4), units=c)


@case("ArgMax", "ArgMin")
def arg_max_channels(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        place = net.op(op, h, axis=axis, keepdims=1)
        return net.op("Add", h, net.op("Cast", place, to=1))

    return around(rng, make, units=(), reason="counts its channels")


@case("positions", "channels")
def top_k(rng: Rng, what: str) -> Example:
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 5
    h = net.dense(net.input([net.batch, t, n]), n, c)
    if what == "positions":
        y, place = net.ops("TopK", h, net.ints(2), count=2, axis=net.pick(1, -2))
        y = net.op("Add", y, net.op("Cast", place, to=1))
        return net.example(net.dense(y, c, 4), units=c)
    y, _ = net.ops("TopK", h, net.ints(3), count=2, axis=-1)
    return net.example(net.dense(y, 3, 4), units=(), reason="counts its channels")


@case(*[(w, e, r) for w in ("channels", "positions") for e in (0, 1) for r in (0, 1)])
def cum_sum(rng: Rng, what: str, exclusive: int, reverse: int) -> Example:
    """A running sum passes over removed zeros."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        at = axis if what == "channels" else (2 if axis == 1 else 0)
        at = net.const(net.pick(at, at - rank))
        return net.op("CumSum", h, at, exclusive=exclusive, reverse=reverse)

    return around(rng, make, channels_last=False if what == "positions" else None)


@case()
def cum_sum_heads(rng: Rng) -> Example:
    """A running sum over the heads: the dims of all heads leave together."""
    net = Net(rng)
    n, h, d = 3, net.size(3, 4), net.size(3, 4)
    y = net.reshape(net.dense(net.input([net.batch, n]), n, h * d), 0, h, d)
    y = net.reshape(net.op("CumSum", y, net.const(1)), 0, h * d)
    return net.example(net.dense(y, h * d, 4), units=None)
