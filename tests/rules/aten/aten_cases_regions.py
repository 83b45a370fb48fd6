"""Audit cases of regions under another mode, and small networks."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor, nn

aten = torch.ops.aten


@case("no_grad", "enable_grad", "autocast off")
def regions(rng: Rng, how: str) -> Example:
    """What stands under another gradient mode is written out."""
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    a, b, last = net.dense(n, c), net.dense(n, c), net.dense(c, 3)

    def run(x: Tensor) -> Tensor:
        modes = {
            "no_grad": torch.no_grad,
            "enable_grad": torch.enable_grad,
            "autocast off": lambda: torch.autocast("cpu", enabled=False),
        }
        with modes[how]():
            gate = torch.sigmoid(b(x)).to(torch.float64)
        return last(a(x) * gate.to(torch.float64))

    return net.example(run, net.normal(net.batch, 3, n), units=c)


@case()
def autocast_on(rng: Rng) -> Example:
    """A region in another type is a boundary."""
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 3)

    def run(x: Tensor) -> Tensor:
        h = a(x)
        with torch.autocast("cpu", torch.bfloat16):
            gate = torch.sigmoid(h)
        return last(torch.tanh(b(h * gate)))

    return net.example(run, net.normal(net.batch, 3, n), units=None, inner=None)


@case()
def squeeze_and_excite(rng: Rng) -> Example:
    """A small network in one: gates, a residual, a classifier."""
    net = Net(rng)
    c, r = net.size(5, 8), net.size(4, 6)
    stem, conv, down, up = net.conv(3, c, 3), net.conv(c, c, 3), net.conv(c, r), net.conv(r, c)
    norm, last = net.add(nn.BatchNorm2d(c)), net.dense(c, 4)

    def run(x: Tensor) -> Tensor:
        x = torch.tanh(norm(stem(x)))
        y = conv(x)
        gate = torch.sigmoid(up(torch.tanh(down(y.mean((2, 3), keepdim=True)))))
        return last((x + y * gate).mean((2, 3)))

    return net.example(run, net.normal(net.batch, 3, 6, 6), units=(r, c))
