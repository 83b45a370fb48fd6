"""Audit cases of the normalisations."""

from __future__ import annotations

from audit_net import MS, Example, Net, Rng, around, case


def affine(net: Net, *shape: int) -> list[str]:
    """A scale and a bias."""
    return [net.vector(*shape, low=0.6, high=1.4), net.vector(*shape)]


@case(9, 14, 15)
def batch_norm(rng: Rng, opset: int) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        mean, variance = net.vector(c), net.vector(c, low=0.5, high=1.5)
        return net.op("BatchNormalization", h, *affine(net, c), mean, variance, epsilon=1e-4)

    return around(rng, make, opset=max(opset, 11), channels_last=False)


@case()
def batch_norm_flat(rng: Rng) -> Example:
    net = Net(rng)
    c = net.size(5, 8)
    h = net.dense(net.input([net.batch, 3]), 3, c)
    h = net.op(
        "BatchNormalization", h, *affine(net, c), net.vector(c), net.vector(c, low=0.5, high=1.5)
    )
    return net.example(net.dense(h, c, 4), units=c)


@case()
def batch_norm_training(rng: Rng) -> Example:
    """In training mode the running statistics are outputs too: of the model here, so they stay."""
    net = Net(rng, 15)
    net.batch = 2
    c, d = net.size(5, 8), net.size(5, 8)
    h = net.op("Relu", net.conv(net.input([2, 3, 4, 4]), 3, d))
    h = net.conv(h, d, c)
    extra = [net.vector(c), net.vector(c, low=0.5, high=1.5)]
    y, mean, variance = net.ops(
        "BatchNormalization", h, *affine(net, c), *extra, count=3, training_mode=1
    )
    used = bool(rng.random() < 0.5)
    z = net.conv(y, c, 4)
    if used:
        return net.example(z, mean, variance, units=d, reason="it is the model's output")
    return net.example(z, units=(c, d))


@case()
def instance_norm(rng: Rng) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("InstanceNormalization", h, *affine(net, c), epsilon=1e-3)

    return around(rng, make, channels_last=False)


@case()
def layer_norm(rng: Rng) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        extra = affine(net, c)[: net.size(1, 2)]
        at = net.pick(-1, rank - 1)
        return net.op("LayerNormalization", h, *extra, axis=at, epsilon=1e-3)

    return around(rng, make, channels_last=True, statistics=True)


@case()
def layer_norm_outputs(rng: Rng) -> Example:
    """The mean and the inverse deviation are read as well."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([net.batch, t, n]), n, c)
    y, mean, inverse = net.ops("LayerNormalization", h, *affine(net, c), count=3)
    z = net.op("Add", net.op("Mul", y, inverse), mean)
    return net.example(net.dense(z, c, 4), units=c, statistics=True)


@case()
def layer_norm_tail(rng: Rng) -> Example:
    """Statistics over two axes."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([net.batch, t, n]), n, c)
    y = net.op("LayerNormalization", h, *affine(net, t, c), axis=net.pick(1, -2))
    return net.example(net.dense(y, c, 4), units=c, statistics=True)


@case()
def layer_norm_positions(rng: Rng) -> Example:
    """Statistics over positions: each channel alone, so nothing changes."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.op("MatMul", net.weight(c, n, fan_in=n), net.input([net.batch, n, t]))
    y = net.op("LayerNormalization", h, *affine(net, t))
    return net.example(net.op("MatMul", net.weight(4, c, fan_in=c), y), units=c)


@case()
def layer_norm_heads(rng: Rng) -> Example:
    """A norm inside each head: whole heads leave exactly, dims change its statistics."""
    net = Net(rng)
    n, h, d, t = 3, net.size(3, 4), net.size(3, 4), 3
    y = net.dense(net.input([net.batch, t, n]), n, h * d)
    y = net.op("LayerNormalization", net.reshape(y, 0, 0, h, d), *affine(net, d))
    y = net.dense(net.reshape(y, 0, 0, h * d), h * d, 4)
    return net.example(y, units=h, inner=d, statistics=True)


@case()
def rms_norm(rng: Rng) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("RMSNormalization", h, affine(net, c)[0], axis=net.pick(-1, rank - 1))

    return around(rng, make, opset=23, channels_last=True, statistics=True)


@case()
def simplified_layer_norm(rng: Rng) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("SimplifiedLayerNormalization", h, affine(net, c)[0], axis=-1, epsilon=1e-3)

    return around(rng, make, channels_last=True, statistics=True)


@case("many", "few", "one", "each")
def group_norm(rng: Rng, groups: str) -> Example:
    """Whole groups leave exactly; channels inside them change the statistics.

    The form of opset 18 (scale and bias one a group) is deprecated: the loader refuses it.
    """
    net = Net(rng, int(rng.choice([21, 22])))
    g = {"many": net.size(4, 5), "few": 2, "one": 1, "each": net.size(5, 7)}[groups]
    inner = 1 if groups == "each" else net.size(3, 4)
    c = g * inner
    h = net.conv(net.input([net.batch, 3, 4, 4]), 3, c)
    h = net.op("GroupNormalization", h, *affine(net, c), num_groups=g, epsilon=1e-3)
    y = net.conv(h, c, 4)
    if groups == "each":
        return net.example(y, units=c)
    if groups == "one":
        return net.example(y, units=c, statistics=True)
    return net.example(y, units=g, inner=c, statistics=True)


@case("skip", "input")
def skip_layer_norm(rng: Rng, what: str) -> Example:
    """y = norm(x + skip + bias), the sum read as well."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    x = net.input([net.batch, t, n])
    a, b = net.dense(x, n, c), net.dense(x, n, c)
    extra = [net.vector(c)] if rng.random() < 0.6 else []
    y, _, _, total = net.ops(
        "SkipLayerNormalization", a, b, *affine(net, c), *extra, count=4, domain=MS
    )
    net.nodes[-1].output[1] = net.nodes[-1].output[2] = ""
    z = net.op("Add", y, total) if what == "skip" else y
    return net.example(net.dense(z, c, 4), units=c, statistics=True)


@case()
def skip_rms_norm(rng: Rng) -> Example:
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    x = net.input([net.batch, t, n])
    a, b = net.dense(x, n, c), net.dense(x, n, c)
    extra = [net.vector(c)] if rng.random() < 0.6 else []
    y, _, _, total = net.ops(
        "SkipSimplifiedLayerNormalization", a, b, affine(net, c)[0], *extra, count=4, domain=MS
    )
    net.nodes[-1].output[1] = net.nodes[-1].output[2] = ""
    return net.example(net.dense(net.op("Add", y, total), c, 4), units=c, statistics=True)


@case(1, 2)
def lp_norm(rng: Rng, p: int) -> Example:
    """A norm is neutral to removed zeros."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("LpNormalization", h, p=p, axis=net.pick(axis, axis - rank))

    return around(rng, make)


@case()
def lp_norm_positions(rng: Rng) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("LpNormalization", h, axis=2)

    return around(rng, make, channels_last=False)


@case("channels", "positions")
def mean_variance(rng: Rng, what: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        axes = [1] if what == "channels" else [0, 2, 3]
        return net.op("MeanVarianceNormalization", h, axes=axes)

    return around(
        rng, make, channels_last=False, spatial=2, statistics=what == "channels", tolerance=1e-4
    )


@case()
def local_response(rng: Rng) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("LRN", h, size=3)

    return around(
        rng, make, channels_last=False, spatial=2, units=(), reason="neighbouring channels"
    )


@case()
def layer_norm_by_hand(rng: Rng) -> Example:
    """ReduceMean, Sub, Pow, ReduceMean, Sqrt, Div: as older exporters write it."""
    net = Net(rng, 17)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([net.batch, t, n]), n, c)
    centred = net.op("Sub", h, net.op("ReduceMean", h, axes=[-1]))
    squared = net.op("Pow", centred, net.const(2.0))
    variance = net.op("ReduceMean", squared, axes=[-1])
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-3)))
    scale, bias = affine(net, c)
    y = net.op("Add", net.op("Mul", net.op("Div", centred, deviation), scale), bias)
    return net.example(net.dense(y, c, 4), units=c, statistics=True)
