"""Audit cases of Gather, Scatter and of ops whose result depends on the data."""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, case
from onnx import TensorProto


def indices_input(net: Net, shape: list[int | str], size: int) -> str:
    """A graph input of indices below `size`."""
    return net.input(
        shape,
        dtype=TensorProto.INT64,
        feed=lambda r, dims: r.integers(0, size, dims).astype(np.int64),
    )


@case()
def embedding(rng: Rng) -> Example:
    """Rows of a table are looked up; its columns are channels."""
    net = Net(rng)
    v, c = net.size(6, 9), net.size(5, 8)
    table = net.const(rng.normal(0, 1, (v, c)).astype(np.float32))
    y = net.op("Gather", table, indices_input(net, [net.batch, 3], v))
    return net.example(net.dense(net.op("Relu", y), c, 4), units=c)


@case()
def embeddings_added(rng: Rng) -> Example:
    """Words, positions by constant indices, and a norm."""
    net = Net(rng)
    v, c, t = net.size(6, 9), net.size(5, 8), 3
    words = net.const(rng.normal(0, 1, (v, c)).astype(np.float32))
    places = net.const(rng.normal(0, 1, (8, c)).astype(np.float32))
    a = net.op("Gather", words, indices_input(net, [net.batch, t], v))
    b = net.op("Gather", places, net.const([[2, 3, 4]]))
    return net.example(net.dense(net.op("Add", a, b), c, 4), units=c)


@case()
def positions_of_a_dynamic_length(rng: Rng) -> Example:
    """As many rows of a table, itself computed from a smaller one, as the input is long."""
    net = Net(rng)
    v, c = net.size(6, 9), net.size(5, 8)
    words = net.const(rng.normal(0, 1, (v, c)).astype(np.float32))
    narrow = net.const(rng.normal(0, 1, (120, c)).astype(np.float16))
    places = net.op("Cast", narrow, to=TensorProto.FLOAT)
    ids = indices_input(net, ["length", 3], v)
    length = net.op("Shape", ids, start=0, end=1)
    first = net.op("Slice", net.const(np.arange(120)), net.const([0]), length)
    rows = net.op("Unsqueeze", net.op("Gather", places, first), net.const([1]))
    sums = net.op("Add", net.op("Gather", words, ids), rows)
    return net.example(net.dense(sums, c, 4), units=c)


@case()
def embedding_other_axis(rng: Rng) -> Example:
    """The table lies on its side: columns are looked up."""
    net = Net(rng)
    v, c = net.size(6, 9), net.size(5, 8)
    table = net.const(rng.normal(0, 1, (c, v)).astype(np.float32))
    y = net.op("Gather", table, indices_input(net, [3], v), axis=net.pick(1, -1))
    return net.example(net.op("MatMul", net.weight(4, c, fan_in=c), y), units=c)


@case("permutation", "subset", "repeats", "negative", "matrix")
def constant_indices(rng: Rng, how: str) -> Example:
    """Channels picked by constant indices."""
    net = Net(rng)
    n, c = 3, net.size(6, 9)
    h = net.dense(net.input([net.batch, n]), n, c)
    indices = {
        "permutation": rng.permutation(c),
        "subset": np.sort(rng.permutation(c)[: c - 2]),
        "repeats": rng.integers(0, c, c + 2),
        "negative": -1 - np.arange(c),
        "matrix": np.arange(2 * (c // 2)).reshape(2, c // 2),
    }[how]
    y = net.op("Tanh", net.op("Gather", h, net.const(indices.astype(np.int64)), axis=1))
    size = indices.size
    if how == "matrix":
        y = net.reshape(y, -1, size)
    z = net.op("Add", net.dense(y, size, 4), net.dense(h, c, 4))
    return net.example(z, units=None if how in ("repeats", "matrix", "subset") else c)


@case("channels", "positions")
def single(rng: Rng, what: str) -> Example:
    """A scalar index: of a position (the class token), or of a channel, which then stays."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input([net.batch, t, n]), n, c)
    if what == "positions":
        y = net.op("Gather", h, net.const(net.pick(0, -1, 1)), axis=1)
        return net.example(net.dense(y, c, 4), units=c)
    one = net.op("Unsqueeze", net.op("Gather", h, net.const(1), axis=2), net.ints(2))
    y = net.op("Mul", net.dense(h, c, 4), net.op("Sigmoid", one))
    return net.example(y, units=c - 1)


@case()
def heads(rng: Rng) -> Example:
    """Heads picked by constant indices (repeat_kv by hand)."""
    net = Net(rng)
    n, h, d = 3, net.size(2, 4), net.size(3, 4)
    y = net.reshape(net.dense(net.input([net.batch, n]), n, h * d), 0, h, d)
    y = net.op("Gather", y, net.const(np.repeat(np.arange(h), 2)), axis=1)
    y = net.dense(net.reshape(net.op("Relu", y), 0, 2 * h * d), 2 * h * d, 4)
    return net.example(y, units=None, inner=h * d)


@case("channels", "positions")
def unknown_indices(rng: Rng, what: str) -> Example:
    """Indices known only at run time pin the axis they look along."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input([2, t, n]), n, c)
    axis, size = (1, t) if what == "positions" else (2, c)
    y = net.op("Gather", h, indices_input(net, [2], size), axis=axis)
    if what == "positions":
        return net.example(net.dense(y, c, 4), units=c)
    return net.example(net.dense(y, 2, 4), units=(), reason="not known before it runs")


@case()
def gather_elements(rng: Rng) -> Example:
    """Along positions, with indices that are computed from the tensor itself."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([2, t, n]), n, c)
    _, places = net.ops("TopK", h, net.ints(2), count=2, axis=1)
    y = net.op("GatherElements", h, places, axis=net.pick(1, -2))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def gather_elements_channels(rng: Rng) -> Example:
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([2, n]), n, c)
    y = net.op("GatherElements", h, net.const(rng.integers(0, c, (2, 4))), axis=1)
    return net.example(net.dense(y, 4, 3), units=(), reason="not known before it runs")


@case("rows", "batched", "channels")
def gather_nd(rng: Rng, how: str) -> Example:
    """Whole rows are looked up; the channels behind them go on."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([2, t, n]), n, c)
    if how == "rows":
        y = net.op("GatherND", h, net.const([[0, 1], [1, 3], [1, 0]]))
        return net.example(net.dense(y, c, 4), units=c)
    if how == "batched":
        y = net.op("GatherND", h, net.const([[[1]], [[2]]]), batch_dims=1)
        return net.example(net.dense(y, c, 4), units=c)
    y = net.op("GatherND", h, net.const([[0, 1, 2], [1, 3, 4]]))
    return net.example(net.op("Mul", y, net.vector(2)), units=(), reason="not known before it runs")


@case("rows", "single")
def scatter_nd(rng: Rng, how: str) -> Example:
    """Rows are written: data and updates share their channels."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    x = net.input([t, n])
    h = net.dense(x, n, c)
    if how == "rows":
        u = net.dense(net.input([2, n]), n, c)
        y = net.op("ScatterND", h, net.const([[1], [3]]), u)
        return net.example(net.dense(y, c, 4), units=c)
    u = net.op("Squeeze", net.dense(net.input([2, n]), n, 1), net.ints(1))
    y = net.op("ScatterND", h, net.const([[1, 0], [3, 2]]), u)
    return net.example(net.dense(y, c, 4), units=(), reason="its rows are written by index")


@case()
def scatter_nd_into_zeros(rng: Rng) -> Example:
    """Into a constant: it adopts the channels of what is written."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    u = net.dense(net.input([2, n]), n, c)
    y = net.op("ScatterND", net.vector(4, c), net.const([[1], [3]]), u)
    return net.example(net.dense(y, c, 4), units=c)


@case("ScatterElements", "Scatter")
def scatter_elements(rng: Rng, op: str) -> Example:
    net = Net(rng, 10 if op == "Scatter" else 18)
    n, c = 3, net.size(5, 8)
    x = net.input([2, n])
    h, u = net.dense(x, n, c), net.dense(x, n, 3)
    y = net.op(op, h, net.const(np.array([[0, 2, 1], [3, 1, 0]])), u, axis=1)
    return net.example(net.dense(y, c, 4), units=(), reason="writes single elements")


@case()
def tensor_scatter(rng: Rng) -> Example:
    """A cache that is written in place (opset 24)."""
    net = Net(rng, 24)
    n, c, t = 3, net.size(5, 8), 4
    cache = net.dense(net.input([2, t, n]), n, c, bias=False)
    update = net.dense(net.input([2, 1, n]), n, c, bias=False)
    y = net.op("TensorScatter", cache, update, net.ints(1, 2), axis=1)
    return net.example(
        net.dense(y, c, 4, bias=False), units=(), reason="writes single elements", reference=True
    )


@case("NonZero", "Unique", "Compress", "OneHot", "EyeLike", "Trilu", "Det", "NonMaxSuppression")
def data_dependent(rng: Rng, op: str) -> Example:
    """A tail whose result depends on the data: a boundary; what lies before it is pruned."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    x = net.input([4, n])
    inner = net.size(4, 6)
    first = net.op("Relu", net.dense(x, n, inner))
    h = net.dense(first, inner, 4 if op in ("Det", "NonMaxSuppression") else c)
    kinds = None
    if op == "NonZero":
        y, kinds = net.op(op, h), [TensorProto.INT64]
    elif op == "Unique":
        y = net.op(op, h, axis=0)
    elif op == "Compress":
        y = net.op(op, h, net.const([True, False, True, True]), axis=0)
    elif op == "OneHot":
        whole = net.op("Cast", net.op("Abs", h), to=TensorProto.INT64)
        y = net.op(op, whole, net.const(3), net.const([0.0, 1.0]))
    elif op == "EyeLike":
        y = net.op("Mul", net.op(op, h), net.const(2.0))
    elif op == "Trilu":
        y = net.op(op, h)
    elif op == "Det":
        y = net.op("Add", net.op(op, h), net.const(1.0))
    else:
        boxes = net.op("Abs", net.reshape(h, 1, 4, 4))
        scores = net.op("Sigmoid", net.reshape(net.dense(x, n, 1), 1, 1, 4))
        y, kinds = net.op(op, boxes, scores, net.ints(2)), [TensorProto.INT64]
    reason = {
        "NonMaxSuppression": "selects boxes",
        "OneHot": "as many classes",
        "EyeLike": "whole matrices",
        "Trilu": "whole matrices",
        "Det": "whole matrices",
    }.get(op, "depends on the data")
    # The inner layer is read elsewhere too, so that pruning it shows whatever the tail selects.
    return net.example(
        y, net.dense(first, inner, 3), units=inner, reason=reason, dtypes=[*(kinds or [1]), 1]
    )


@case()
def anything_unknown(rng: Rng) -> Example:
    """An op without a rule is a boundary that says so."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("ReverseSequence", h, net.ints(*[2] * 2), batch_axis=0, time_axis=1)

    net = Net(rng)
    net.batch = 2
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([2, 4, n]), n, c)
    y = make(net, h, c, 2, 3)
    return net.example(net.dense(y, c, 4), units=None)
