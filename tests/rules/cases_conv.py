"""Audit cases of convolutions."""

from __future__ import annotations

from audit_net import MS, Example, Net, Rng, case


def image(net: Net, channels: int, spatial: int, low: int = 5, high: int = 8) -> str:
    """A graph input [batch, channels, ...]."""
    return net.input([net.batch, channels, *[net.size(low, high) for _ in range(spatial)]])


def window(net: Net, spatial: int) -> dict[str, object]:
    """Random kernel attributes under which the result is not empty."""
    kernel = net.size(1, 3)
    attributes: dict[str, object] = {"kernel_shape": [kernel] * spatial}
    if net.rng.random() < 0.5:
        attributes["strides"] = [net.size(1, 2) for _ in range(spatial)]
    if net.rng.random() < 0.3:
        attributes["auto_pad"] = net.pick("SAME_UPPER", "SAME_LOWER", "VALID")
    else:
        attributes["pads"] = [net.size(0, 1) for _ in range(2 * spatial)]
        if net.rng.random() < 0.4:
            attributes["dilations"] = [2] * spatial
    return attributes


@case(1, 2, 3)
def dense_chain(rng: Rng, spatial: int) -> Example:
    """Three convolutions with random windows."""
    net = Net(rng, net_opset(rng))
    n, c, d, m = 3, net.size(4, 8), net.size(4, 8), 4
    x = image(net, n, spatial, 15, 18) if spatial < 3 else image(net, n, spatial, 12, 13)
    for inputs, outputs in ((n, c), (c, d), (d, m)):
        attributes = window(net, spatial)
        kernel = attributes["kernel_shape"]
        w = net.weight(outputs, inputs, *kernel, fan_in=inputs * kernel[0] ** spatial)
        bias = [net.vector(outputs)] if rng.random() < 0.6 else []
        x = net.op("Conv", x, w, *bias, **attributes)
        if outputs != m:
            x = net.op("LeakyRelu", x)
    return net.example(x, units=(c, d))


def net_opset(rng: Rng) -> int:
    return int(rng.choice([11, 13, 17, 20, 22]))


@case((1, 1), (2, 1), (2, 2), (3, 1))
def depthwise(rng: Rng, spatial: int, times: int) -> Example:
    """One group for each channel, with a multiplier: the outputs of a channel leave with it."""
    net = Net(rng)
    n, c, m = 3, net.size(4, 8), 4
    h = net.conv(image(net, n, spatial), n, c, spatial=spatial)
    h = net.conv(h, c, c * times, 3, spatial=spatial, group=c)
    return net.example(net.conv(h, c * times, m, spatial=spatial), units=c)


@case()
def depthwise_on_input(rng: Rng) -> Example:
    """A depthwise convolution of the image itself: equally many outputs of each channel leave."""
    net = Net(rng)
    c, times = net.size(3, 5), net.size(2, 3)
    h = net.conv(image(net, c, 2), c, c * times, 3, group=c)
    return net.example(net.conv(h, c * times, 4), units=c * times)


@case("few", "many")
def grouped(rng: Rng, how: str) -> Example:
    """Whole groups leave where there are many small ones; else channels inside each group."""
    net = Net(rng)
    groups = net.size(2, 3) if how == "few" else net.size(4, 6)
    a, b = net.size(2, 4), net.size(2, 4)
    spatial = net.size(1, 2)
    c, d = groups * a, groups * b
    h = net.conv(image(net, 3, spatial), 3, c, spatial=spatial)
    h = net.op("Relu", net.conv(h, c, d, 3, spatial=spatial, group=groups))
    y = net.conv(h, d, 4, spatial=spatial)
    return net.example(y, units=(c, d) if how == "few" else groups, inner=(c, d))


@case()
def grouped_on_input(rng: Rng) -> Example:
    """The groups of the image stay; equally many outputs of each group leave."""
    net = Net(rng)
    groups, a, b = net.size(2, 5), net.size(1, 2), net.size(2, 4)
    h = net.conv(image(net, groups * a, 2), groups * a, groups * b, 3, group=groups)
    return net.example(net.conv(h, groups * b, 4), units=groups * b)


@case("outputs", "inputs")
def grouped_tied(rng: Rng, what: str) -> Example:
    """All channels on one side of a group are tied to one another: they would have to leave as a
    whole group, which its other side does not allow."""
    net = Net(rng)
    g, d = net.size(2, 3), net.size(2, 3)
    c = g * d

    def tied(h: str) -> str:
        """Sums over neighbours that meet the single channels."""
        y = net.reshape(h, 0, g, d, 16)
        turned = net.op("Slice", y, net.ints(-1), net.ints(-(2**62)), net.ints(2), net.ints(-1))
        ends = net.op("Slice", y, net.ints(1), net.ints(2**62), net.ints(2))
        first = net.op("Slice", y, net.ints(0), net.ints(1), net.ints(2))
        rolled = net.op("Concat", ends, first, axis=2)
        y = net.op("Add", net.op("Add", y, net.op("Relu", turned)), net.op("Tanh", rolled))
        return net.reshape(y, 0, c, 4, 4)

    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    h = tied(h) if what == "inputs" else net.op("Softmax", h, axis=1)
    h = net.conv(h, c, c, 1, group=g)
    h = tied(h) if what == "outputs" else h
    y = net.conv(net.op("LeakyRelu", h), c, 4)
    return net.example(y, units=None)


@case()
def grouped_twice(rng: Rng) -> Example:
    """Two grouped convolutions one behind the other with different numbers of groups."""
    net = Net(rng)
    c = 24
    h = net.conv(image(net, 3, 2), 3, c)
    h = net.op("Relu", net.conv(h, c, c, 3, group=4))
    h = net.op("Relu", net.conv(h, c, c, 1, group=net.pick(2, 6, 12)))
    return net.example(net.conv(h, c, 4), units=None)


@case((1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (3, 1))
def transposed(rng: Rng, spatial: int, groups: int) -> Example:
    net = Net(rng)
    a, b = net.size(2, 4), net.size(2, 4)
    c, d = groups * a, groups * b
    h = net.conv(image(net, 3, spatial, 3, 4), 3, c, spatial=spatial)
    kernel, stride = net.size(1, 3), net.size(1, 2)
    attributes = {"strides": [stride] * spatial, "group": groups}
    if rng.random() < 0.5:
        attributes["pads"] = [net.size(0, 1) for _ in range(2 * spatial)] if kernel > 2 else None
    if stride > 1 and rng.random() < 0.5:
        attributes["output_padding"] = [1] * spatial
    w = net.weight(c, b, *[kernel] * spatial, fan_in=a * kernel)
    bias = [net.vector(d)] if rng.random() < 0.6 else []
    h = net.op("Relu", net.op("ConvTranspose", h, w, *bias, **attributes))
    y = net.conv(h, d, 4, spatial=spatial)
    if groups == 1:
        return net.example(y, units=(c, d))
    return net.example(y, units=groups if groups >= 4 else (c, d), inner=(c, d))


@case()
def transposed_output_shape(rng: Rng) -> Example:
    """The size of the result is given."""
    net = Net(rng)
    c, d = net.size(4, 6), net.size(4, 6)
    h = net.conv(net.input([net.batch, 3, 3, 3]), 3, c)
    w = net.weight(c, d, 3, 3, fan_in=3 * c)
    h = net.op("ConvTranspose", h, w, strides=[2, 2], output_shape=[6, 6])
    return net.example(net.conv(net.op("Relu", h), d, 4), units=(c, d))


@case()
def transposed_depthwise(rng: Rng) -> Example:
    net = Net(rng)
    c = net.size(4, 8)
    h = net.conv(image(net, 3, 2, 3, 4), 3, c)
    w = net.weight(c, 1, 2, 2, fan_in=2)
    h = net.op("ConvTranspose", h, w, group=c, strides=[2, 2])
    return net.example(net.conv(h, c, 4), units=c)


@case(False, True)
def fused(rng: Rng, residual: bool) -> Example:
    """onnxruntime's Conv with an activation and, perhaps, a sum."""
    net = Net(rng)
    n, c, d = 3, net.size(4, 8), net.size(4, 8)
    x = image(net, n, 2)
    h = net.conv(x, n, c)
    w, b = net.weight(d, c, 3, 3, fan_in=9 * c), net.vector(d)
    extra = [net.conv(x, n, d)] if residual else []
    h = net.op(
        "FusedConv",
        h,
        w,
        b,
        *extra,
        domain=MS,
        activation="Relu",
        pads=[1] * 4,
        kernel_shape=[3, 3],
    )
    return net.example(net.conv(h, d, 4), units=(c, d))


@case()
def computed_weight(rng: Rng) -> Example:
    """The kernel is an activation (weight standardisation by hand): it moves on its own."""
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    h = net.conv(image(net, n, 2), n, c)
    scale = net.op("Sigmoid", net.dense(net.input([1, 3]), 3, 1))
    w = net.op("Mul", net.weight(5, c, 3, 3, fan_in=9 * c), scale)
    h = net.op("Conv", h, w, pads=[1] * 4)
    return net.example(net.conv(h, 5, 4), units=(5, c))


@case()
def shared_weight(rng: Rng) -> Example:
    """One kernel used twice, in places that lose different channels."""
    net = Net(rng)
    c = net.size(5, 8)
    x = image(net, 3, 2)
    w = net.weight(c, c, fan_in=c)
    kernel = net.const(net.constants[w].reshape(c, c, 1, 1))
    del net.constants[w]
    h = net.conv(x, 3, c)
    h = net.op("Relu", net.op("Conv", h, kernel))
    h = net.op("Relu", net.op("Conv", h, kernel))
    return net.example(net.conv(h, c, 4), units=(c, c, c))


@case()
def window_of_channels(rng: Rng) -> Example:
    """Channels that are a convolution's positions stay."""
    net = Net(rng)
    n, c, length = 3, net.size(5, 8), 4
    h = net.dense(net.input([net.batch, length, n]), n, c)
    h = net.op("Conv", h, net.weight(5, length, 3, fan_in=3 * length), pads=[1, 1])
    h = net.op("MatMul", net.weight(4, 5, fan_in=5), net.op("Relu", h))
    return net.example(net.dense(h, c, 4), units=5, reason="a convolution's window runs over it")
