"""Audit cases of ops that are told sizes: Expand, Tile, Pad, Resize, ConstantOfShape, Range, ..."""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, around, case
from onnx import TensorProto, helper


@case("batch", "channels", "weight", "lead")
def expand(rng: Rng, how: str) -> Example:
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    x = net.input([1, t, n])
    h = net.dense(x, n, c)
    if how == "batch":
        y = net.op("Expand", h, net.ints(4, 1, 1))
    elif how == "channels":  # one gate for all channels, spread out by hand
        gate = net.op("Expand", net.op("Sigmoid", net.dense(x, n, 1)), net.ints(1, t, c))
        y = net.op("Mul", h, gate)
    elif how == "weight":
        y = net.op("Add", h, net.op("Expand", net.vector(1, 1, c), net.op("Shape", h)))
    else:
        y = net.op("Expand", h, net.ints(2, 1, t, c))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def expand_like_other(rng: Rng) -> Example:
    """The target is the shape of another, cut tensor: it follows by itself."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    x = net.input(["batch", t, n])
    h = net.dense(x, n, c)
    gate = net.op("Sigmoid", net.op("ReduceSum", h, net.ints(2)))
    y = net.op("Mul", h, net.op("Expand", gate, net.op("Shape", h)))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def repeat_kv(rng: Rng) -> Example:
    """Grouped queries: key heads are expanded to the query heads."""
    net = Net(rng)
    n, kv, r, d, t = 3, net.size(2, 3), 2, net.size(3, 4), 3
    h = kv * r
    x = net.input([net.batch, t, n])

    def split(y: str, heads: int) -> str:
        return net.op("Transpose", net.reshape(y, 0, 0, heads, d), perm=[0, 2, 1, 3])

    def repeat(y: str) -> str:
        y = net.op("Expand", net.op("Unsqueeze", y, net.ints(2)), net.ints(1, kv, r, t, d))
        return net.reshape(y, -1, h, t, d)

    q = split(net.dense(x, n, h * d, bias=True), h)
    k, v = (repeat(split(net.dense(x, n, kv * d, bias=True), kv)) for _ in range(2))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, h * d)
    return net.example(net.dense(y, h * d, 4), units=None, inner=(kv * d, kv * d))


@case("positions", "channels", "single")
def tile(rng: Rng, how: str) -> Example:
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    x = net.input([net.batch, t, n])
    h = net.dense(x, n, c)
    if how == "positions":
        return net.example(net.dense(net.op("Tile", h, net.ints(1, 2, 1)), c, 4), units=c)
    if how == "channels":
        return net.example(net.dense(net.op("Tile", h, net.ints(1, 1, 2)), 2 * c, 4), units=c)
    gate = net.op("Tile", net.op("Sigmoid", net.dense(x, n, 1)), net.ints(1, 1, c))
    return net.example(net.dense(net.op("Mul", h, gate), c, 4), units=c)


@case("constant", "reflect", "edge", "wrap")
def pad_positions(rng: Rng, mode: str) -> Example:
    net = Net(rng, 19)
    c = net.size(5, 8)
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    value = [net.const(0.5)] if mode == "constant" and rng.random() < 0.5 else []
    y = net.op("Pad", h, net.ints(0, 0, 1, 0, 0, 0, 2, 1), *value, mode=mode)
    return net.example(net.conv(y, c, 4), units=c)


@case("zeros", "value", "negative", "axes")
def pad_channels(rng: Rng, how: str) -> Example:
    """New channels behind (or before) the others: the old ones leave, and the new ones too."""
    net = Net(rng, 19)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    before, after = net.size(0, 2), net.size(1, 2)
    if how == "negative":
        before, after = -1, net.size(0, 1)
    extra = {"zeros": [], "value": [net.const(0.7)], "negative": [], "axes": ["", net.ints(1)]}[how]
    amounts = (before, after) if how == "axes" else (0, before, 0, after)
    y = net.op("Pad", h, net.ints(*amounts), *extra)
    z = net.dense(net.op("Tanh", y), c + before + after, 4)
    return net.example(z, units=None if how == "negative" else (before + after, c))


@case()
def pad_channels_reflected(rng: Rng) -> Example:
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    y = net.op(
        "Pad", net.dense(net.input([net.batch, n]), n, c), net.ints(0, 1, 0, 1), mode="reflect"
    )
    return net.example(net.dense(y, c + 2, 4), units=(), reason="padded with something other")


@case()
def pad_shortcut(rng: Rng) -> Example:
    """ResNet's option A: the shortcut is padded with zero channels to the wider branch."""
    net = Net(rng)
    c, d = net.size(4, 6), net.size(7, 9)
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    wide = net.conv(net.op("Relu", h), c, d, 3)
    short = net.op("Pad", h, net.ints(0, 0, 0, 0, 0, d - c, 0, 0))
    return net.example(net.conv(net.op("Add", wide, short), d, 4), units=None)


@case()
def pad_attribute(rng: Rng) -> Example:
    """Before opset 11 the amounts are an attribute."""
    net = Net(rng, 10)
    c = net.size(5, 8)
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    y = net.op("Pad", h, pads=[0, 0, 1, 1, 0, 1, 0, 1], mode="constant", value=0.0)
    return net.example(net.conv(y, c + 1, 4), units=(1, c))


@case("scales", "sizes", "sizes-computed", "axes")
def resize(rng: Rng, how: str) -> Example:
    net = Net(rng, 19)
    c, s = net.size(5, 8), 3
    h = net.conv(net.input([net.batch, 3, s, s]), 3, c)
    mode = {"mode": net.pick("nearest", "linear")}
    if how == "scales":
        y = net.op("Resize", h, "", net.const([1.0, 1.0, 2.0, 2.0]), **mode)
    elif how == "sizes":
        y = net.op("Resize", h, "", "", net.ints(2, c, 5, 6), **mode)
        net.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    elif how == "axes":
        y = net.op("Resize", h, "", "", net.ints(5, 6), axes=[2, 3], **mode)
    else:
        shape = net.op("Shape", h)
        lead = net.op("Slice", shape, net.ints(0), net.ints(2))
        y = net.op("Resize", h, "", "", net.op("Concat", lead, net.ints(6, 6), axis=0), **mode)
    return net.example(net.conv(y, c, 4), units=c)


@case()
def upsample(rng: Rng) -> Example:
    net = Net(rng, 9)
    c = net.size(5, 8)
    h = net.conv(net.input([net.batch, 3, 3, 3]), 3, c)
    y = net.op("Upsample", h, net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    return net.example(net.conv(y, c, 4), units=c)


@case("DCR", "CRD")
def depth_to_space(rng: Rng, mode: str) -> Example:
    """The four channels that become one leave together."""
    net = Net(rng)
    c, b = net.size(4, 6), 2
    h = net.conv(net.input([net.batch, 3, 3, 3]), 3, c * b * b)
    y = net.op("DepthToSpace", h, blocksize=b, mode=mode)
    return net.example(net.conv(y, c, 4), units=c)


@case()
def space_to_depth(rng: Rng) -> Example:
    net = Net(rng)
    c, b = net.size(4, 6), 2
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    y = net.op("SpaceToDepth", h, blocksize=b)
    return net.example(net.conv(y, c * b * b, 4), units=c)


@case()
def constant_of_shape(rng: Rng) -> Example:
    """Zeros of the shape of a cut tensor, and of literal sizes."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input(["batch", t, n]), n, c)
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.4])
    if rng.random() < 0.5:
        fill = net.op("ConstantOfShape", net.op("Shape", h), value=value)
    else:
        fill = net.op("ConstantOfShape", net.ints(t, c), value=value)
    parts = net.op("Concat", h, net.op("Mul", h, fill), axis=1)
    return net.example(net.dense(parts, c, 4), units=c)


@case()
def sizes_as_numbers(rng: Rng) -> Example:
    """Numbers computed from a cut size and used as data keep their value: 1 / sqrt(C), C itself."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input(["batch", t, n]), n, c)
    size = net.op("Gather", net.op("Shape", h), net.const(2), axis=0)
    number = net.op("Cast", size, to=TensorProto.FLOAT)
    y = net.op("Div", h, net.op("Sqrt", number))
    total = net.op("Cast", net.op("Size", net.const(np.zeros((2, 3), np.float32))), to=1)
    return net.example(net.dense(net.op("Div", y, total), c, 4), units=c)


@case()
def position_ids(rng: Rng) -> Example:
    """Range of a computed length, looked up in a table."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    x = net.input(["batch", "seq", n])
    h = net.dense(x, n, c)
    length = net.op("Gather", net.op("Shape", x), net.const(1), axis=0)
    ids = net.op("Range", net.const(0), length, net.const(1))
    table = net.const(rng.normal(0, 1, (40, c)).astype(np.float32))
    y = net.op("Add", h, net.op("Gather", table, ids))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def channel_range(rng: Rng) -> Example:
    """Range over the channels, as data: its numbers belong to the channels, which stay."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    size = net.op("Gather", net.op("Shape", h), net.const(1), axis=0)
    numbers = net.op("Range", net.const(0), size, net.const(1))
    y = net.op("Mul", h, net.op("Cast", numbers, to=TensorProto.FLOAT))
    return net.example(net.dense(y, c, 4), units=None)


@case("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def random_like(rng: Rng, op: str) -> Example:
    """Random numbers of a cut shape would be other ones."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        y = net.op(op, net.op("Sigmoid", h), **({} if op == "Bernoulli" else {"seed": 1.0}))
        return net.op("Add", h, net.op("Mul", y, net.const(0.0)))

    return around(rng, make, units=(), reason="random numbers would differ")


@case("RandomNormal", "RandomUniform")
def random(rng: Rng, op: str) -> Example:
    """Noise of a literal shape meets the channels: they stay."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([2, n]), n, c)
    noise = net.op(op, shape=[1, c], seed=1.0)
    y = net.op("Add", h, net.op("Mul", noise, net.const(0.0)))
    return net.example(net.dense(y, c, 4), units=())
