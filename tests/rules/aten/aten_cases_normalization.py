"""Audit cases of normalisations."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, around, case
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


@case((nn.BatchNorm1d, 0), (nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3))
def batch_norm(rng: Rng, how: tuple[type[nn.Module], int]) -> Example:
    kind, spatial = how
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    norm = net.add(kind(c, affine=net.chance(0.7)))
    norm.running_mean.copy_(net.normal(c))
    norm.running_var.copy_(net.uniform(c, low=0.5, high=2))
    if spatial:
        a, last = net.conv(n, c, 1, spatial=spatial), net.conv(c, 4, 1, spatial=spatial)
    else:
        a, last = net.dense(n, c), net.dense(c, 4)
    x = net.normal(net.batch, n, *[4] * spatial)
    return net.example(lambda x: last(torch.relu(norm(a(x)))), x, units=c)


@case(
    "native_batch_norm",
    "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
)
def raw_batch_norm(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    a, last = net.conv(n, c, 1), net.conv(c, 4, 1)
    scale, bias = net.vector(c), net.vector(c)
    mean, var = net.buffer(net.normal(c)), net.buffer(net.uniform(c, low=0.5, high=2))

    def run(x: Tensor) -> Tensor:
        h = a(x)
        if op == "native_batch_norm":
            y = aten.native_batch_norm(h, scale(), bias(), mean(), var(), False, 0.1, 1e-5)[0]
        elif op == "_native_batch_norm_legit_no_training":
            y = getattr(aten, op)(h, scale(), bias(), mean(), var(), 0.1, 1e-5)[0]
        elif op == "_native_batch_norm_legit":
            found = aten._native_batch_norm_legit.no_stats
            y = found(h, scale(), bias(), True, 0.1, 1e-5)[0]
        else:
            y = aten._native_batch_norm_legit_functional(
                h, scale(), bias(), mean(), var(), False, 0.1, 1e-5
            )[0]
        return last(torch.relu(y))

    return net.example(run, net.normal(net.batch, n, 4, 4), units=c)


@case("standardised", "weight_norm")
def weights(rng: Rng, how: str) -> Example:
    """A weight that is computed: standardised over its inputs, or of a given norm."""
    net = Net(rng)
    n, c = 4, net.size(5, 8)
    a, last = net.conv(n, c, 3), net.conv(c, 4, 1)
    b, gain = net.weight(c, c, 3, 3, fan_in=9 * c), net.vector(c, 1, 1, 1)

    def run(x: Tensor) -> Tensor:
        w = b()
        if how == "standardised":
            w = F.batch_norm(w.reshape(1, c, -1), None, None, gain().view(-1), training=True)
            w = w.reshape_as(b())
        else:
            w = aten._weight_norm(w, gain(), 0)
        return last(torch.relu(F.conv2d(torch.relu(a(x)), w, padding=1)))

    units = (c, c) if how == "standardised" else c
    x = net.normal(net.batch, n, 5, 5)
    return net.example(run, x, units=units, statistics=how == "standardised")


@case("layer_norm", "native_layer_norm", "rms_norm", "plain")
def over_the_last(rng: Rng, op: str) -> Example:
    def make(net: Net, c: int, axis: int, rank: int) -> object:
        scale, bias = net.vector(c), net.vector(c)
        if op == "layer_norm":
            return lambda x: F.layer_norm(x, [c], scale(), bias())
        if op == "native_layer_norm":
            return lambda x: aten.native_layer_norm(x, [c], scale(), bias(), 1e-5)[0]
        if op == "rms_norm":
            return lambda x: F.rms_norm(x, [c], scale(), 1e-5)
        return lambda x: F.layer_norm(x, [c])

    return around(rng, make, last=True, statistics=True)


@case("many", "one", "each", "native")
def group_norm(rng: Rng, how: str) -> Example:
    """Whole groups leave exactly; channels inside them change the statistics."""
    net = Net(rng)
    g, i = net.size(3, 5), net.size(3, 4)
    g, i = {"one": (1, 6), "each": (6, 1)}.get(how, (g, i))
    c = g * i
    a, last, norm = net.conv(3, c, 3), net.conv(c, 4, 1), net.add(nn.GroupNorm(g, c))

    def run(x: Tensor) -> Tensor:
        h = a(x)
        if how == "native":
            n = h.shape[0]
            y = aten.native_group_norm(h, norm.weight, norm.bias, n, c, 25, g, 1e-5)[0]
        else:
            y = norm(h)
        return last(torch.relu(y))

    units = {"one": c, "each": c}.get(how, g)
    return net.example(run, net.normal(net.batch, 3, 5, 5), units=units, inner=c, statistics=i > 1)


@case()
def instance_norm(rng: Rng) -> Example:
    def make(net: Net, c: int, axis: int, rank: int) -> object:
        scale, bias = net.vector(c), net.vector(c)
        return lambda x: F.instance_norm(x, weight=scale(), bias=bias())

    return around(rng, make, last=False)


@case("linalg_vector_norm", "norm", "max_norm")
def norms(rng: Rng, op: str) -> Example:
    """A p-norm is a sum; the largest entry is not neutral to zeros."""
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    a, last = net.dense(n, c), net.dense(c, 4)

    def run(x: Tensor) -> Tensor:
        h = a(x)
        if op == "norm":
            size = aten.norm.ScalarOpt_dim(h, 2, [-1], True)
        else:
            order = float("inf") if op == "max_norm" else 2
            size = torch.linalg.vector_norm(h, order, -1, keepdim=True)
        return last(h / (size + 1e-3))

    stays = op == "max_norm"
    x = net.normal(net.batch, 3, n)
    reason = "not neutral" if stays else ""
    return net.example(run, x, units=() if stays else c, reason=reason)


@case()
def local_response(rng: Rng) -> Example:
    net = Net(rng)
    a, b, last = net.conv(3, 5), net.conv(5, 6), net.conv(6, 4)

    def run(x: Tensor) -> Tensor:
        return last(torch.relu(b(aten.renorm(a(x), 2, 1, 1.0))))

    return net.example(run, net.normal(net.batch, 3, 4, 4), units=6, reason="neighbouring channels")
