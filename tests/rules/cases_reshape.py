"""Audit cases of Reshape, Flatten, Squeeze, Unsqueeze and Transpose."""

from __future__ import annotations

from audit_net import Example, Net, Rng, around, case


@case("flatten", "reshape", "minus-one", "copy")
def classifier(rng: Rng, how: str) -> Example:
    """conv -> [N, C * H * W] -> dense: all positions of a channel leave with it."""
    net = Net(rng)
    c, s = net.size(5, 8), net.size(2, 3)
    h = net.op("Relu", net.conv(net.input([net.batch, 3, s, s]), 3, c, 3))
    if how == "flatten":
        y = net.op("Flatten", h, axis=net.pick(1, -3))
    else:
        batch = {"reshape": -1, "minus-one": 0, "copy": 0}[how]
        y = net.reshape(h, batch, c * s * s if how == "reshape" else -1)
    return net.example(net.dense(y, c * s * s, 4), units=c)


@case()
def attribute_shape(rng: Rng) -> Example:
    """A computed target: Shape -> Gather -> Concat with constants."""
    net = Net(rng)
    c, s = net.size(5, 8), net.size(2, 3)
    h = net.op("Relu", net.conv(net.input(["batch", 3, s, s]), 3, c, 3))
    batch = net.op("Gather", net.op("Shape", h), net.const(0), axis=0)
    target = net.op("Concat", net.op("Unsqueeze", batch, net.ints(0)), net.ints(c * s * s), axis=0)
    return net.example(net.dense(net.op("Reshape", h, target), c * s * s, 4), units=c)


@case()
def computed_product(rng: Rng) -> Example:
    """A target computed from the channels themselves follows by itself."""
    net = Net(rng)
    c, s = net.size(5, 8), net.size(2, 3)
    h = net.op("Relu", net.conv(net.input(["batch", 3, s, s]), 3, c, 3))
    shape = net.op("Shape", h)
    take = [net.op("Slice", shape, net.ints(i), net.ints(i + 1)) for i in range(4)]
    flat = net.op("Mul", take[1], net.op("Mul", take[2], take[3]))
    target = net.op("Concat", take[0], flat, axis=0)
    return net.example(net.dense(net.op("Reshape", h, target), c * s * s, 4), units=c)


@case()
def heads_merged_with_batch(rng: Rng) -> Example:
    """[N, T, H * d] -> [N * H, T, d]: attention as torch's functional form writes it."""
    net = Net(rng)
    n, h, d, t = 3, net.size(2, 4), net.size(3, 4), 3
    x = net.input(["batch", t, n])
    batch = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1))
    merged = net.op("Mul", batch, net.ints(h))

    def split(y: str) -> str:
        y = net.op("Transpose", net.reshape(y, 0, 0, h, d), perm=[0, 2, 1, 3])
        return net.op("Reshape", y, net.op("Concat", merged, net.ints(t), net.ints(d), axis=0))

    q, k, v = (split(net.dense(x, n, h * d, bias=True)) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Reshape", y, net.op("Concat", batch, net.ints(h), net.ints(t), net.ints(d), axis=0))
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, h * d)
    return net.example(net.dense(y, h * d, 4), units=h, inner=(h * d, h * d))


@case()
def shuffle(rng: Rng) -> Example:
    """A channel shuffle between grouped convolutions."""
    net = Net(rng)
    g, d = net.size(2, 3), net.size(3, 4)
    c = g * d
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    h = net.op("Relu", net.conv(h, c, c, 1, group=g))
    h = net.op("Transpose", net.reshape(h, 0, g, d, 4, 4), perm=[0, 2, 1, 3, 4])
    h = net.reshape(h, 0, c, 4, 4)
    h = net.op("Relu", net.conv(h, c, c, 3, group=g))
    return net.example(net.conv(h, c, 4), units=None)


@case()
def shuffle_alone(rng: Rng) -> Example:
    """A channel shuffle between dense convolutions: any channels leave (it becomes a Gather)."""
    net = Net(rng)
    g, d = net.size(2, 3), net.size(3, 4)
    c = g * d
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    h = net.op("Transpose", net.reshape(h, 0, g, d, 4, 4), perm=[0, 2, 1, 3, 4])
    h = net.reshape(h, 0, c, 4, 4)
    return net.example(net.conv(h, c, 4), units=c)


@case(11, 13)
def squeeze(rng: Rng, opset: int) -> Example:
    """Axes of one element come and go, in the attribute or as an operand."""
    net = Net(rng, opset)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    at = net.size(1, 2)
    if opset >= 13:
        y = net.op("Tanh", net.op("Unsqueeze", h, net.ints(at)))
        y = net.op("Squeeze", y, net.ints(at))
    else:
        y = net.op("Tanh", net.op("Unsqueeze", h, axes=[at]))
        y = net.op("Squeeze", y, axes=[at])
    return net.example(net.dense(y, c, 4), units=c)


@case(11, 13)
def squeeze_without_axes(rng: Rng, opset: int) -> Example:
    """All axes of one element go: a width that is pruned to one must not."""
    net = Net(rng, opset)
    c = net.size(2, 3)
    h = net.op("Relu", net.conv(net.input([2, 3, 3, 3]), 3, c))
    y = net.op("Squeeze", net.op("GlobalAveragePool", h))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def single_channel_squeezed(rng: Rng) -> Example:
    """A width of one is no width: nothing of it can leave, the rest can."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.op("Relu", net.dense(net.input([net.batch, 4, n]), n, c))
    y = net.op("Squeeze", net.dense(h, c, 1), net.ints(2))
    return net.example(net.dense(y, 4, 3), units=c)


@case(2, 3, 4)
def transpose(rng: Rng, rank: int) -> Example:
    """There and back in two steps."""

    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([2, *[net.size(2, 3) for _ in range(rank - 2)], n]), n, c)
    order = [int(i) for i in rng.permutation(rank)]
    back = [order.index(i) for i in range(rank)]
    y = net.op("Tanh", net.op("Transpose", h, perm=order))
    return net.example(net.dense(net.op("Transpose", y, perm=back), c, 4), units=c)


@case()
def transpose_default(rng: Rng) -> Example:
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    y = net.op("Transpose", net.dense(net.input([4, n]), n, c))
    return net.example(net.op("MatMul", net.weight(3, c, fan_in=c), y), units=c)


@case()
def window_partition(rng: Rng) -> Example:
    """Swin's windows: positions are re-bracketed around the channels."""
    net = Net(rng)
    n, c, s, w = 3, net.size(5, 8), 4, 2
    h = net.dense(net.input([net.batch, s, s, n]), n, c)
    y = net.reshape(h, -1, s // w, w, s // w, w, c)
    y = net.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
    y = net.reshape(y, -1, w * w, c)
    y = net.op("Relu", net.dense(y, c, c))
    y = net.reshape(y, -1, s // w, s // w, w, w, c)
    y = net.reshape(net.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, s, s, c)
    return net.example(net.dense(net.op("Add", h, y), c, 4), units=c)


@case()
def patches_merged(rng: Rng) -> Example:
    """Pixel unshuffle by hand: four positions of a channel become channels that leave together."""
    net = Net(rng)
    c, s = net.size(4, 6), 4
    h = net.conv(net.input([net.batch, 3, s, s]), 3, c)
    y = net.reshape(h, -1, c, s // 2, 2, s // 2, 2)
    y = net.op("Transpose", y, perm=[0, 1, 3, 5, 2, 4])
    y = net.reshape(y, -1, c * 4, s // 2, s // 2)
    return net.example(net.conv(y, c * 4, 4), units=c)


@case()
def packed_qkv(rng: Rng) -> Example:
    """[N, T, 3, H, d] from one projection."""
    net = Net(rng)
    n, h, d, t = 3, net.size(2, 4), net.size(3, 4), 3
    y = net.reshape(net.dense(net.input([net.batch, t, n]), n, 3 * h * d), 0, 0, 3, h, d)
    y = net.op("Transpose", y, perm=[2, 0, 3, 1, 4])
    parts = [net.op("Gather", y, net.const(i), axis=0) for i in range(3)]
    scores = net.op("MatMul", parts[0], net.op("Transpose", parts[1], perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), parts[2])
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, h * d)
    return net.example(net.dense(y, h * d, 4), units=h, inner=2 * h * d)


@case()
def zero_dims(rng: Rng) -> Example:
    """allowzero, and a reshape of everything into one row."""
    net = Net(rng)
    c = net.size(5, 8)
    h = net.op("Relu", net.conv(net.input([1, 3, 2, 2]), 3, c))
    y = net.op("Reshape", h, net.ints(1, c * 4), allowzero=1)
    return net.example(net.dense(y, c * 4, 4), units=c)


@case()
def shared_sizes(rng: Rng) -> Example:
    """Two Reshapes share one constant; the tensor of one of them is cut, of the other not."""
    net = Net(rng)
    h, d = 2, net.size(3, 4)
    c = h * d
    x = net.input([2, 5, c])
    sizes = net.ints(0, 0, h, d)
    a = net.op("Reshape", net.dense(x, c, c), sizes)
    b = net.op("ReduceSum", net.op("Reshape", x, sizes), net.ints(2), keepdims=0)
    y = net.dense(net.reshape(net.op("Tanh", a), 0, 0, c), c, d)
    return net.example(net.op("Add", y, b), units=c)


@case()
def flatten_axis(rng: Rng) -> Example:
    """Flatten in the middle: [N, T, C] -> [N * T, C]."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.op("Relu", net.dense(net.input([net.batch, t, n]), n, c))
    return net.example(net.dense(net.op("Flatten", h, axis=net.pick(2, -1)), c, 4), units=c)


@case()
def reshape_of_weight(rng: Rng) -> Example:
    """A weight that is reshaped by a computed size stays a weight."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        bias = net.op("Reshape", net.vector(c), net.ints(*[1] * axis, c, *[1] * (rank - 1 - axis)))
        return net.op("Add", h, bias)

    return around(rng, make)
