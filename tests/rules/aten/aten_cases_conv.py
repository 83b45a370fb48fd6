"""Audit cases of convolutions and their windows."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


@case((1, 3), (2, 3), (3, 1), (2, 1))
def conv(rng: Rng, how: tuple[int, int]) -> Example:
    spatial, kernel = how
    net = Net(rng)
    n, c, d = 3, net.size(4, 8), net.size(4, 8)
    a = net.conv(n, c, kernel, spatial=spatial)
    b = net.conv(c, d, kernel, spatial=spatial, stride=net.pick(1, 2))
    last = net.conv(d, 4, spatial=spatial)
    x = net.normal(net.batch, n, *[5] * spatial)
    return net.example(lambda x: last(torch.tanh(b(torch.relu(a(x))))), x, units=(c, d))


@case(1, 2, 3)
def conv_transpose(rng: Rng, spatial: int) -> Example:
    net = Net(rng)
    n, c, d = 3, net.size(4, 8), net.size(4, 8)
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[spatial - 1]
    a, b = net.add(kind(n, c, 3, stride=2)), net.add(kind(c, d, 2))
    last = net.conv(d, 4, spatial=spatial)
    x = net.normal(net.batch, n, *[3] * spatial)
    return net.example(lambda x: last(torch.tanh(b(torch.relu(a(x))))), x, units=(c, d))


@case((1, "conv"), (2, "conv"), (1, "transposed"), (2, "transposed"))
def depthwise(rng: Rng, how: tuple[int, str]) -> Example:
    """Groups of one input channel, with a multiplier; `groups` follows."""
    multiplier, kind = how
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    a = net.conv(n, c, 1)
    if kind == "conv":
        b = net.conv(c, c * multiplier, 3, groups=c)
    else:
        b = net.add(nn.ConvTranspose2d(c, c * multiplier, 3, groups=c, padding=1))
    last = net.conv(c * multiplier, 4, 1)
    return net.example(lambda x: last(torch.relu(b(a(x)))), net.normal(net.batch, n, 5, 5), units=c)


@case("few", "many", "transposed")
def grouped(rng: Rng, how: str) -> Example:
    """Few wide groups lose channels inside, each equally many; many narrow ones leave whole."""
    net = Net(rng)
    n, g = 3, 5 if how == "many" else 2
    i, o = net.size(3, 5), net.size(3, 5)
    a = net.conv(n, g * i, 1)
    if how == "transposed":
        b = net.add(nn.ConvTranspose2d(g * i, g * o, 3, groups=g, padding=1))
    else:
        b = net.conv(g * i, g * o, 3, groups=g)
    last = net.conv(g * o, 4, 1)
    units = g if how == "many" else (g * i, g * o)
    return net.example(
        lambda x: last(torch.relu(b(torch.relu(a(x))))),
        net.normal(net.batch, n, 5, 5),
        units=units,
        inner=(g * i, g * o),
    )


@case(False, True)
def convolution(rng: Rng, transposed: bool) -> Example:
    """The op behind all of them."""
    net = Net(rng)
    n, c, d = 3, net.size(4, 7), net.size(4, 7)
    a, last = net.conv(n, c, 1), net.conv(d, 4, 1)
    w = net.weight(*((c, d) if transposed else (d, c)), 3, 3, fan_in=9 * c)

    def run(x: Tensor) -> Tensor:
        y = aten.convolution(a(x), w(), None, [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1)
        return last(torch.relu(y))

    return net.example(run, net.normal(net.batch, n, 5, 5), units=(c, d))


@case("im2col", "unfold")
def windows(rng: Rng, op: str) -> Example:
    """im2col: a channel is a run of window positions; unfold: a new axis."""
    net = Net(rng)
    n, c = 3, net.size(4, 6)
    a = net.conv(n, c, 1)
    last = net.dense(c * 9 if op == "im2col" else c, 4)

    def run(x: Tensor) -> Tensor:
        h = torch.relu(a(x))
        if op == "im2col":
            return last(F.unfold(h, 3).transpose(1, 2))
        return last(h.unfold(2, 3, 1).sum(-1).flatten(2).transpose(1, 2))

    return net.example(run, net.normal(net.batch, n, 5, 5), units=c)


@case()
def unbatched(rng: Rng) -> Example:
    """A convolution without a batch axis is not followed."""
    net = Net(rng)
    a, b, last = net.conv(3, 5, 3), net.conv(5, 6, 1), net.conv(6, 4, 1)

    def run(x: Tensor) -> Tensor:
        return last(torch.relu(b(torch.relu(a(x))))) * a(x[0])[0, 0, 0]

    return net.example(run, net.normal(net.batch, 3, 5, 5), units=6, reason="another use of")
