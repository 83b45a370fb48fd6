"""Audit cases of matrix products and einsum."""

from __future__ import annotations

from itertools import pairwise

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor

aten = torch.ops.aten


@case(2, 3)
def linear(rng: Rng, rank: int) -> Example:
    net = Net(rng)
    n, c, d = 3, net.size(4, 8), net.size(4, 8)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 4)
    x = net.normal(net.batch, *[3] * (rank - 2), n)
    return net.example(lambda x: last(torch.tanh(b(torch.relu(a(x))))), x, units=(c, d))


@case("matmul", "mm", "addmm")
def by_hand(rng: Rng, op: str) -> Example:
    """`x @ w`, weights `[in, out]`."""
    net = Net(rng)
    sizes = [3, net.size(4, 8), net.size(4, 8), 4]
    weights = [net.weight(i, o, fan_in=i) for i, o in pairwise(sizes)]
    biases = [net.vector(o) for o in sizes[1:]]

    def run(x: Tensor) -> Tensor:
        for w, b in zip(weights, biases, strict=True):
            y = torch.addmm(b(), x, w()) if op == "addmm" else getattr(aten, op)(x, w()) + b()
            x = torch.tanh(y)
        return x

    return net.example(run, net.normal(net.batch, 3), units=sizes[1:3])


@case("bmm", "baddbmm", "addbmm")
def batched(rng: Rng, op: str) -> Example:
    """Activations of both sides."""
    net = Net(rng)
    n, c, t = 3, net.size(4, 8), net.size(3, 4)
    a, b, last = net.dense(n, c), net.dense(n, c), net.dense(c, 4)

    def run(x: Tensor) -> Tensor:
        one, two = a(x), b(x)
        if op == "bmm":
            return last(torch.bmm(torch.softmax(torch.bmm(one, two.mT), -1), two))
        if op == "baddbmm":
            return last(torch.baddbmm(two, torch.bmm(one, two.mT), two))
        return last(torch.addbmm(two[0], torch.bmm(one, two.mT), two) + two)

    units = () if op == "addbmm" else c
    reason = "addbmm" if op == "addbmm" else ""
    return net.example(run, net.normal(net.batch, t, n), units=units, reason=reason)


@case("mv", "dot", "addmv")
def vectors(rng: Rng, op: str) -> Example:
    """A matrix or a vector with a weight: the contracted channels leave."""
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    a, v = net.dense(n, c), net.weight(c)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "mv":
            return torch.mv(h, v())
        if op == "addmv":
            return torch.addmv(x[:, 0], h, v())
        return x.sum(1) * torch.dot(h.sum(0), v())

    return net.example(run, net.normal(net.batch, n), units=c)


@case("ij,bj->bi", "bj,ij", "bti,oi->bto", "...i,io->...o", "bi,ir,ro->bo", "bsi,ihd->bshd")
def einsum(rng: Rng, equation: str) -> Example:
    net = Net(rng)
    n, c, h, d = 4, net.size(4, 7), 3, 4
    a, last = net.dense(n, c), net.dense(h * d if "h" in equation else 5, 3)
    x = net.normal(net.batch, *([3] if "s" in equation or "t" in equation else []), n)
    weights = {
        "ij,bj->bi": [(5, c)],
        "bj,ij": [(5, c)],
        "bti,oi->bto": [(5, c)],
        "...i,io->...o": [(c, 5)],
        "bi,ir,ro->bo": [(c, 6), (6, 5)],
        "bsi,ihd->bshd": [(c, h, d)],
    }[equation]
    held = [net.weight(*shape, fan_in=c) for shape in weights]

    def run(x: Tensor) -> Tensor:
        given = [torch.relu(a(x)), *(w() for w in held)]
        if equation == "ij,bj->bi":
            given.reverse()
        y = torch.einsum(equation, given)
        return last(torch.tanh(y.flatten(2) if "h" in equation else y))

    units = {"bi,ir,ro->bo": (c, 6, 5), "bsi,ihd->bshd": (c, h * d)}.get(equation, (c, 5))
    return net.example(run, x, units=units)


@case()
def einsum_attention(rng: Rng) -> Example:
    """Heads leave, or dims inside them."""
    net = Net(rng)
    n, h, d, t = 4, net.size(2, 4), net.size(3, 5), 3
    q, k, v = (net.dense(n, h * d) for _ in range(3))
    out = net.dense(h * d, 3)

    def run(x: Tensor) -> Tensor:
        one, two, three = (f(x).view(-1, t, h, d) for f in (q, k, v))
        scores = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", one, two), -1)
        return out(torch.einsum("bhqk,bkhd->bqhd", scores, three).reshape(-1, t, h * d))

    return net.example(run, net.normal(net.batch, t, n), units=h, inner=(h * d, h * d))
