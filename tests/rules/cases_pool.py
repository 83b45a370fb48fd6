"""Audit cases of pools and other windows over positions."""

from __future__ import annotations

import numpy as np
from audit_net import Example, Net, Rng, around, case


@case(*[(op, n) for op in ("MaxPool", "AveragePool", "LpPool") for n in (1, 2, 3)])
def pool(rng: Rng, op: str, spatial: int) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        kernel = net.size(2, 3)
        attributes = {"kernel_shape": [kernel] * spatial, "strides": [net.size(1, 2)] * spatial}
        if rng.random() < 0.5:
            attributes["pads"] = [net.size(0, 1) for _ in range(2 * spatial)]
        elif rng.random() < 0.5:
            attributes["auto_pad"] = net.pick("SAME_UPPER", "VALID")
        if op == "AveragePool" and rng.random() < 0.5:
            attributes["count_include_pad"] = 1
        if op != "LpPool" and rng.random() < 0.5 and "auto_pad" not in attributes:
            attributes["ceil_mode"] = 1
        return net.op(op, h, **attributes)

    return around(rng, make, opset=18, channels_last=False, spatial=spatial)


@case()
def max_pool_indices(rng: Rng) -> Example:
    """Positions of the maxima count through all channels: the channels stay."""
    net = Net(rng)
    c = net.size(4, 6)
    h = net.conv(net.input([2, 3, 4, 4]), 3, c)
    y, places = net.ops("MaxPool", h, count=2, kernel_shape=[2, 2], strides=[2, 2])
    z = net.op("Add", y, net.op("Mul", net.op("Cast", places, to=1), net.const(0.01)))
    return net.example(net.conv(z, c, 4), units=(), reason="positions of the maxima")


@case("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        return net.op("Mul", h, net.op(op, h))

    return around(rng, make, channels_last=False)


@case()
def classifier(rng: Rng) -> Example:
    """conv -> global pool -> flatten -> dense."""
    net = Net(rng)
    c = net.size(5, 8)
    h = net.op("Relu", net.conv(net.input([net.batch, 3, 5, 5]), 3, c, 3))
    y = net.op("Flatten", net.op("GlobalAveragePool", h))
    return net.example(net.dense(y, c, 4), units=c)


@case()
def unpool(rng: Rng) -> Example:
    net = Net(rng)
    c = net.size(4, 6)
    h = net.conv(net.input([2, 3, 4, 4]), 3, c)
    y, places = net.ops("MaxPool", h, count=2, kernel_shape=[2, 2], strides=[2, 2])
    z = net.op("MaxUnpool", y, places, kernel_shape=[2, 2], strides=[2, 2])
    return net.example(net.conv(z, c, 4), units=(), reason="count through all channels")


@case()
def max_roi_pool(rng: Rng) -> Example:
    net = Net(rng)
    c = net.size(4, 6)
    h = net.conv(net.input([1, 3, 6, 6]), 3, c)
    rois = net.const(np.array([[0, 0, 0, 3, 3], [0, 1, 1, 5, 5]], np.float32))
    y = net.op("MaxRoiPool", h, rois, pooled_shape=[2, 2])
    return net.example(net.conv(y, c, 4), units=(), reason="count through all channels")


@case("avg", "max")
def roi_align(rng: Rng, mode: str) -> Example:
    net = Net(rng)
    c = net.size(4, 6)
    h = net.conv(net.input([1, 3, 6, 6]), 3, c)
    rois = net.const(np.array([[0, 0, 3, 3], [1, 1, 5, 5]], np.float32))
    batch = net.ints(0, 0)
    y = net.op(
        "RoiAlign", h, rois, batch, output_height=2, output_width=3, mode=mode, sampling_ratio=1
    )
    return net.example(net.conv(y, c, 4), units=c)


@case("bilinear", "nearest")
def grid_sample(rng: Rng, mode: str) -> Example:
    net = Net(rng, 16)
    c = net.size(4, 6)
    h = net.conv(net.input([2, 3, 5, 5]), 3, c)
    grid = net.input([2, 3, 4, 2], feed=lambda r, shape: r.uniform(-1, 1, shape).astype("float32"))
    y = net.op("GridSample", h, grid, mode=mode, padding_mode="zeros")
    return net.example(net.conv(y, c, 4), units=c)


@case()
def grid_of_activations(rng: Rng) -> Example:
    """A grid that is computed: its coordinates stay, the sampled channels leave."""
    net = Net(rng, 16)
    c = net.size(4, 6)
    x = net.input([2, 3, 5, 5])
    h = net.conv(x, 3, c)
    grid = net.op("Tanh", net.op("Transpose", net.conv(x, 3, 2), perm=[0, 2, 3, 1]))
    y = net.op("GridSample", h, grid)
    return net.example(net.conv(y, c, 4), units=c, tolerance=1e-4)


@case()
def col2im(rng: Rng) -> Example:
    """[N, C * window, L] -> [N, C, H, W]: the entries of a window leave with their channel."""
    net = Net(rng, 18)
    c = net.size(4, 6)
    w = net.op("MatMul", net.weight(c * 4, 3, fan_in=3), net.input([2, 3, 4]))
    y = net.op("Col2Im", w, net.ints(4, 4), net.ints(2, 2), strides=[2, 2])
    return net.example(net.conv(y, c, 4), units=c)
