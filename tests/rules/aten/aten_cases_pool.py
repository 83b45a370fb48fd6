"""Audit cases of pools and interpolation."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


@case(1, 2, 3)
def pools(rng: Rng, spatial: int) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    a, last = net.conv(n, c, 1, spatial=spatial), net.conv(c, 4, 1, spatial=spatial)
    d = f"{spatial}d"

    def run(x: Tensor) -> Tensor:
        h = a(x)
        y = getattr(aten, f"avg_pool{d}")(h, [2] * spatial, [2] * spatial)
        y = y + getattr(aten, f"max_pool{d}")(h, [2] * spatial, [2] * spatial)
        y = y + getattr(aten, f"max_pool{d}_with_indices")(h, [2] * spatial, [2] * spatial)[0]
        y = y + getattr(aten, f"adaptive_avg_pool{d}")(h, [2] * spatial)
        y = y + getattr(aten, f"adaptive_max_pool{d}")(h, [2] * spatial)[0]
        if spatial > 1:
            y = y + getattr(aten, f"_adaptive_avg_pool{d}")(h, [2] * spatial)
        return last(y)

    return net.example(run, net.normal(net.batch, n, *[4] * spatial), units=c)


@case(1, 2, 3)
def upsampled(rng: Rng, spatial: int) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    a, last = net.conv(n, c, 1, spatial=spatial), net.conv(c, 4, 1, spatial=spatial)
    d, size = f"{spatial}d", [6] * spatial

    def run(x: Tensor) -> Tensor:
        h = a(x)
        y = getattr(aten, f"upsample_nearest{d}")(h, size)
        y = y + getattr(aten, f"_upsample_nearest_exact{d}")(h, size)
        if spatial == 1:
            y = y + aten.upsample_linear1d(h, size, False)
        elif spatial == 2:
            y = (
                y
                + aten.upsample_bilinear2d(h, size, False)
                + aten.upsample_bicubic2d(h, size, False)
            )
            y = y + aten._upsample_bilinear2d_aa(h, size, False)
            y = y + aten._upsample_bicubic2d_aa(h, size, False)
        else:
            y = y + aten.upsample_trilinear3d(h, size, False)
        return last(y)

    return net.example(run, net.normal(net.batch, n, *[3] * spatial), units=c)


@case("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def sampled(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c, spatial = 3, net.size(4, 7), 3 if op.endswith("3d") else 2
    a, last = net.conv(n, c, 1, spatial=spatial), net.conv(c, 4, 1, spatial=spatial)
    where = net.normal(net.batch, *[3] * spatial, spatial).tanh()

    def run(x: Tensor, grid: Tensor) -> Tensor:
        return last(getattr(aten, op)(a(x), grid, 0, 0, False))

    return net.example(run, net.normal(net.batch, n, *[4] * spatial), where, units=c)


@case(2, 3)
def unpooled(rng: Rng, spatial: int) -> Example:
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    a, b = net.conv(n, c, 1, spatial=spatial), net.conv(c, d, 1, spatial=spatial)
    last = net.conv(d, 4, 1, spatial=spatial)

    def run(x: Tensor) -> Tensor:
        h, where = getattr(F, f"max_pool{spatial}d")(a(x), 2, return_indices=True)
        h = getattr(F, f"max_unpool{spatial}d")(h, where, 2, output_size=x.shape[2:])
        return last(torch.tanh(b(h)))

    x = net.normal(net.batch, n, *[4] * spatial)
    return net.example(run, x, units=d, reason="through all channels")
