"""Audit cases of reductions and of other ops that look along an axis."""

from __future__ import annotations

import numpy as np
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
    """Without axes and with noop_with_empty_axes nothing is reduced."""

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


@case(
    *[
        (op, opset, what)
        for op in ("Softmax", "LogSoftmax", "Hardmax")
        for opset in (11, 13)
        for what in ("channels", "positions")
    ]
)
def softmax(rng: Rng, op: str, opset: int, what: str) -> Example:
    """Over channels: they stay. Over positions: each channel alone."""
    net = Net(rng, opset)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.dense(net.input([net.batch, t, n]), n, c)
    last = what == "channels"
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


def averaged(net: Net, h: str, spelled: str, axes: list[int], sizes: int, *, keepdims: int) -> str:
    """A mean as a sum and a factor, which is a constant or computed from the shape of `h`."""
    total = reduced(net, net.pick("ReduceSum", "ReduceL1"), h, axes, keepdims)
    shape = net.pick((), (1,), (1, 1))
    if spelled == "Mul":
        pair = [total, net.const(np.full(shape, 1 / sizes, np.float32))]
        return net.op("Mul", *(pair if net.rng.random() < 0.5 else pair[::-1]))
    if spelled == "Div":
        return net.op("Div", total, net.const(np.full(shape, sizes, np.float32)))
    places = net.op("Gather", net.op("Shape", h), net.ints(*axes))
    count = net.op("Cast", net.op("ReduceProd", places, keepdims=0), to=1)
    if spelled == "Reciprocal":
        return net.op("Mul", net.op("Reciprocal", count), total)
    return net.op("Div", net.op("Identity", total), count)


_SPELLED = ("Mul", "Div", "Shape", "Reciprocal")


@case(*_SPELLED)
def mean_by_hand(rng: Rng, spelled: str) -> Example:
    """ReduceSum and a factor over channels: a mean over what is kept."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        mean = averaged(net, h, spelled, [axis], c, keepdims=1)
        return net.op("Sub", h, net.op("Mul", mean, net.const(0.7)))

    return around(rng, make, opset=int(rng.choice([13, 18])), statistics=True)


@case("Mul", "Shape")
def mean_and_positions_by_hand(rng: Rng, spelled: str) -> Example:
    """The mean runs over the positions too; their number may be dynamic where it is computed."""
    net = Net(rng, 18)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.dense(net.input([2, t if spelled == "Mul" else "time", n]), n, c)
    mean = averaged(net, h, spelled, [1, 2], t * c, keepdims=1)
    return net.example(net.dense(net.op("Sub", h, mean), c, 4), units=c, statistics=True)


@case(*_SPELLED)
def layer_norm_by_sums(rng: Rng, spelled: str) -> Example:
    """E[x^2] - E[x]^2 from sums, axes dropped and put back: as tf2onnx and jax write LayerNorm."""
    net = Net(rng, 18)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([net.batch, t, n]), n, c)
    squares = net.op("Mul", h, h)
    mean, square = (averaged_sum(net, v, spelled, c) for v in (h, squares))
    variance = net.op("Max", net.op("Sub", square, net.op("Mul", mean, mean)), net.const(0.0))
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-2)))
    mean, deviation = (net.reshape(v, 0, 0, 1) for v in (mean, deviation))
    y = net.op("Div", net.op("Sub", h, mean), deviation)
    y = net.op("Add", net.op("Mul", y, net.vector(c, low=0.6, high=1.4)), net.vector(c))
    return net.example(net.dense(y, c, 4), units=c, statistics=True, tolerance=1e-4)


def averaged_sum(net: Net, h: str, spelled: str, c: int) -> str:
    total = net.op("ReduceSum", h, net.ints(-1), keepdims=0)
    if spelled == "Mul":
        return net.op("Mul", total, net.const(1 / c))
    count = net.op("Cast", net.op("Gather", net.op("Shape", h), net.const(-1)), to=1)
    if spelled == "Div":
        return net.op("Div", total, net.const(float(c)))
    if spelled == "Reciprocal":
        return net.op("Mul", total, net.op("Reciprocal", count))
    return net.op("Div", total, count)


@case()
def mean_of_squares_by_hand(rng: Rng) -> Example:
    """RMSNorm from ReduceSumSquare, behind a view."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        total = reduced(net, "ReduceSumSquare", h, [axis], 0)
        total = net.op("Unsqueeze", total, net.ints(axis))
        mean = net.op("Mul", total, net.const(1 / c))
        return net.op("Div", h, net.op("Sqrt", net.op("Add", mean, net.const(1e-2))))

    return around(rng, make, opset=18, statistics=True)


@case()
def mean_in_heads_by_hand(rng: Rng) -> Example:
    """[H, d] averaged over d: whole heads leave exactly, dims change what is counted."""
    net = Net(rng, 18)
    n, h, d, t = 3, net.size(3, 4), net.size(3, 4), 2
    y = net.reshape(net.dense(net.input([net.batch, t, n]), n, h * d), 0, 0, h, d)
    total = net.op("ReduceSum", y, net.ints(-1))
    y = net.op("Sub", y, net.op("Mul", total, net.const(1 / d)))
    y = net.dense(net.reshape(y, 0, 0, h * d), h * d, 4)
    return net.example(y, units=h, inner=h * d, statistics=True)


@case("another factor", "positions", "dynamic")
def no_mean(rng: Rng, what: str) -> Example:
    """A sum and a factor that is no count of it; a mean over positions, which nothing leaves."""
    net = Net(rng, 18)
    n, c, t = 3, net.size(5, 8), net.size(3, 4)
    h = net.dense(net.input([2, "time" if what == "dynamic" else t, n]), n, c)
    if what == "positions":
        y = net.op("Mul", net.op("ReduceSum", h, net.ints(1), keepdims=0), net.const(1 / t))
        return net.example(net.dense(y, c, 4), units=c)
    axes = [1, 2] if what == "dynamic" else [2]
    total = net.op("Mul", net.op("ReduceSum", h, net.ints(*axes)), net.const(1.5 / c))
    return net.example(net.dense(net.op("Sub", h, total), c, 4), units=c)


@case("positions", "channels")
def cum_prod(rng: Rng, what: str) -> Example:
    """A running product is not neutral to zeros (opset 26)."""
    net = Net(rng, 26)
    net.batch = 2
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input([2, t, n]), n, c)
    if what == "positions":
        y = net.op("CumProd", h, net.const(1))
        return net.example(net.dense(y, c, 4), units=c, reference=True)
    y = net.op("CumProd", h, net.const(2))
    return net.example(net.dense(y, c, 4), units=(), reason="not neutral to zeros", reference=True)
