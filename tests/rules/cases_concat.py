"""Audit cases of Concat and Split."""

from __future__ import annotations

from audit_net import Example, Net, Rng, case


@case("channels-first", "channels-last")
def branches(rng: Rng, how: str) -> Example:
    """Two to four branches side by side: each keeps channels of its own."""
    net = Net(rng)
    n, count = 3, net.size(2, 4)
    widths = [net.size(3, 6) for _ in range(count)]
    if how == "channels-last":
        x = net.input([net.batch, 3, n])
        parts = [net.dense(x, n, c) for c in widths]
        y = net.op("Concat", *parts, axis=net.pick(-1, 2))
        return net.example(net.dense(y, sum(widths), 4), units=widths)
    x = net.input([net.batch, n, 4, 4])
    parts = [net.conv(x, n, c) for c in widths]
    y = net.op("Concat", *parts, axis=net.pick(1, -3))
    return net.example(net.conv(y, sum(widths), 4), units=widths)


@case()
def with_input(rng: Rng) -> Example:
    """A branch and the input itself: the input's channels stay."""
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    x = net.input([net.batch, n, 4, 4])
    h = net.conv(x, n, c)
    y = net.op("Concat", *net.pick((x, h), (h, x)), axis=1)
    return net.example(net.conv(y, n + c, 4), units=c)


@case()
def dense_block(rng: Rng) -> Example:
    """DenseNet: every layer reads all before it."""
    net = Net(rng)
    x = net.input([net.batch, 3, 4, 4])
    features, width, grown = [net.conv(x, 3, 6)], 6, [6]
    for _ in range(3):
        y = net.op("Concat", *features, axis=1) if len(features) > 1 else features[0]
        features.append(net.op("Relu", net.conv(y, width, 4, 3)))
        width += 4
        grown.append(4)
    y = net.op("Concat", *features, axis=1)
    return net.example(net.conv(y, width, 4), units=grown)


@case()
def positions(rng: Rng) -> Example:
    """Along positions the channels of the parts meet; a class token adopts them."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input([1, t, n]), n, c)
    token = net.vector(1, net.size(1, 2), c)
    parts = net.pick((token, h), (h, token))
    return net.example(net.dense(net.op("Concat", *parts, axis=1), c, 4), units=c)


@case()
def token_expanded(rng: Rng) -> Example:
    """A class token expanded to the batch."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 3
    h = net.dense(net.input(["batch", t, n]), n, c)
    batch = net.op("Slice", net.op("Shape", h), net.ints(0), net.ints(1))
    target = net.op("Concat", batch, net.ints(1), net.ints(c), axis=0)
    token = net.op("Expand", net.vector(1, 1, c), target)
    return net.example(net.dense(net.op("Concat", token, h, axis=1), c, 4), units=c)


@case()
def heads(rng: Rng) -> Example:
    """Single heads, each computed alone, side by side along a head axis of its own."""
    net = Net(rng)
    n, h, d = 3, net.size(2, 4), net.size(3, 5)
    x = net.input([net.batch, n])
    parts = [net.op("Unsqueeze", net.dense(x, n, d), net.ints(1)) for _ in range(h)]
    y = net.op("Relu", net.op("Concat", *parts, axis=1))
    y = net.dense(net.reshape(y, 0, h * d), h * d, 4)
    return net.example(y, units=None, inner=h * d)


@case()
def with_constant(rng: Rng) -> Example:
    """A learned vector beside the channels has channels of its own."""
    net = Net(rng)
    n, c, extra = 3, net.size(4, 6), net.size(3, 5)
    h = net.dense(net.input([1, n]), n, c)
    y = net.op("Concat", h, net.vector(1, extra), axis=1)
    return net.example(net.dense(net.op("Tanh", y), c + extra, 4), units=(c, extra))


@case()
def split_and_back(rng: Rng) -> Example:
    """Pieces put together in another order: each keeps channels of its own."""
    net = Net(rng, int(rng.choice([11, 13, 18])))
    n, sizes = 3, [net.size(2, 4) for _ in range(net.size(2, 3))]
    c = sum(sizes)
    h = net.dense(net.input([net.batch, n]), n, c)
    if net.opset >= 13:
        parts = net.ops("Split", h, net.ints(*sizes), count=len(sizes), axis=net.pick(1, -1))
    else:
        parts = net.ops("Split", h, count=len(sizes), axis=1, split=sizes)
    parts = [net.op("Relu", p) if i % 2 else net.op("Tanh", p) for i, p in enumerate(parts)]
    order = rng.permutation(len(parts))
    y = net.op("Concat", *[parts[i] for i in order], axis=1)
    return net.example(net.dense(y, c, 4), units=sizes)


@case(11, 13, 18)
def glu(rng: Rng, opset: int) -> Example:
    """Halves of one projection multiplied: a channel of either half leaves with its partner."""
    net = Net(rng, opset)
    n, c = 3, net.size(4, 7)
    h = net.dense(net.input([net.batch, 2, n]), n, 2 * c)
    extra = {"num_outputs": 2} if opset >= 18 else {}
    a, b = net.ops("Split", h, count=2, axis=-1, **extra)
    y = net.op("Mul", a, net.op("Sigmoid", b))
    return net.example(net.dense(y, c, 4), units=c)


@case(11, 13)
def default_pieces(rng: Rng, opset: int) -> Example:
    """No sizes given: equal pieces, which lose different numbers of channels."""
    net = Net(rng, opset)
    n, count, c = 3, net.size(2, 3), net.size(3, 4)
    h = net.dense(net.input([net.batch, n]), n, count * c)
    parts = net.ops("Split", h, count=count, axis=net.pick(1, -1))
    y = net.op("Concat", *[net.op("Tanh", p) for p in reversed(parts)], axis=1)
    return net.example(net.dense(y, count * c, 4), units=[c] * count)


@case()
def uneven_pieces(rng: Rng) -> Example:
    """num_outputs that does not divide the axis: the last piece is smaller."""
    net = Net(rng, 18)
    n, c = 3, 7
    h = net.dense(net.input([net.batch, n]), n, c)
    a, b = net.ops("Split", h, count=2, axis=1, num_outputs=2)
    y = net.op("Concat", net.op("Relu", b), net.op("Tanh", a), axis=1)
    return net.example(net.dense(y, c, 4), units=(3, 4))


@case()
def qkv(rng: Rng) -> Example:
    """q, k and v split out of one projection."""
    net = Net(rng)
    n, h, d, t = 3, net.size(2, 4), net.size(3, 4), 3
    x = net.dense(net.input([net.batch, t, n]), n, 3 * h * d)
    parts = net.ops("Split", x, net.ints(*[h * d] * 3), count=3, axis=-1)
    q, k, v = (net.op("Transpose", net.reshape(p, 0, 0, h, d), perm=[0, 2, 1, 3]) for p in parts)
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.reshape(net.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, h * d)
    return net.example(net.dense(y, h * d, 4), units=h, inner=(h * d, h * d))


@case()
def split_positions(rng: Rng) -> Example:
    """Along positions the channels stay the same ones."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        a, b = net.ops("Split", h, net.ints(1, 3), count=2, axis=2)
        return net.op("Add", a, net.op("Relu", b))

    net = Net(rng)
    c = net.size(5, 8)
    h = net.conv(net.input([net.batch, 3, 4]), 3, c, spatial=1)
    return net.example(net.conv(make(net, h, c, 1, 3), c, 4, spatial=1), units=c)


@case()
def same_twice(rng: Rng) -> Example:
    """One tensor beside itself (CReLU): both copies of a channel leave."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("Concat", h, net.op("Neg", h), axis=axis)

    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = make(net, net.dense(net.input([net.batch, n]), n, c), c, 1, 2)
    return net.example(net.dense(net.op("Relu", h), 2 * c, 4), units=c)
