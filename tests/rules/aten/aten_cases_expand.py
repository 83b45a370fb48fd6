"""Audit cases of ops that expand, pad and make tensors of sizes."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, around, case
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


@case("expand", "broadcast_to", "expand_copy", "expand_as", "repeat", "tile", "repeat_interleave")
def expanded(rng: Rng, op: str) -> Example:
    """A gate for every image grows over the positions; channels may be repeated."""
    net = Net(rng)
    n, c = 3, net.size(4, 6)
    a, g = net.dense(n, c), net.dense(n, c)
    wide = op in ("tile", "repeat_interleave")
    last = net.dense(2 * c if wide else c, 3)

    def run(x: Tensor) -> Tensor:
        h, gate = a(x), torch.sigmoid(g(x.mean(1, keepdim=True)))
        if op == "repeat":
            gate = gate.repeat(1, 3, 1)
        elif op == "tile":
            return last(torch.tanh(h * gate).tile(2))
        elif op == "repeat_interleave":
            return last(torch.tanh(h * gate).repeat_interleave(2, -1))
        elif op == "expand_as":
            gate = gate.expand_as(h)
        elif op == "expand":
            gate = gate.expand(-1, 3, c)
        else:
            gate = getattr(aten, op)(gate, [x.shape[0], 3, c])
        return last(h * gate)

    return net.example(run, net.normal(net.batch, 3, n), units=c)


@case(
    ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full"),
    ("empty", "new_empty"),
)
def made_of_sizes(rng: Rng, ops: tuple[str, ...]) -> Example:
    """A tensor of one number follows what it meets."""

    def make(net: Net, c: int, axis: int, rank: int) -> object:
        def made(op: str, x: Tensor) -> Tensor:
            size = [*x.shape[:axis], c, *x.shape[axis + 1 :]]
            if op.startswith("new"):
                more = [0.3] if op == "new_full" else []
                found = getattr(x, op)(size, *more)
            else:
                more = [0.3] if op == "full" else []
                found = getattr(torch, op)(size, *more, dtype=x.dtype)
            return found

        return lambda x: x + sum(made(op, x) for op in ops)

    return around(rng, make, random="empty" in ops)


@case("rand", "randn", "arange", "linspace", "eye", "tril", "triu", "randint", "scalar_tensor")
def numbers(rng: Rng, op: str) -> Example:
    """What counts something stays; random numbers follow."""
    net = Net(rng)
    n, c, d = 3, 5, net.size(4, 6)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 3)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op in ("rand", "randn"):
            h = h + getattr(torch, op)(c, dtype=x.dtype)
        elif op == "arange":
            h = h + torch.arange(c) * 0.1
        elif op == "linspace":
            h = h + torch.linspace(0, 1, c, dtype=x.dtype)
        elif op == "eye":
            h = h @ torch.eye(c, dtype=x.dtype) + h
        elif op == "randint":
            h = h + torch.randint(0, 2, (c,))
        elif op == "scalar_tensor":
            h = h * aten.scalar_tensor(0.5, dtype=x.dtype)
        else:
            h = getattr(torch, op)(h)
        return last(torch.tanh(b(h)))

    random = op in ("rand", "randn", "randint")
    free = op in ("rand", "randn", "scalar_tensor")
    return net.example(
        run, net.normal(net.batch, n), units=(c, d) if free else None, inner=None, random=random
    )


@case("pad", "negative", "constant_pad_nd", "reflect", "replicate", "circular", "channels", "raw")
def padded(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 6)
    more = {"channels": 3, "negative": -2}.get(op, 0)
    a, last = net.conv(n, c, 3), net.conv(c + more, 4, 1)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "constant_pad_nd":
            h = aten.constant_pad_nd(h, [1, 1, 0, 1], 0.3)
        elif op == "channels":
            h = F.pad(h, (0, 0, 0, 0, 1, 2))
        elif op == "negative":
            h = F.pad(h, (0, 0, 0, 0, -1, -1))
        elif op == "raw":
            h = aten.reflection_pad2d(h, [1, 1, 1, 1]) + aten.replication_pad2d(h, [1, 1, 1, 1])
            h = h + aten._pad_circular(aten.constant_pad_nd(h, [-1] * 4), [1] * 4)
        else:
            h = F.pad(h, (1, 1, 1, 1), mode={"pad": "constant"}.get(op, op))
        return last(h)

    units = {"negative": None, "channels": (3, c)}.get(op, c)
    return net.example(run, net.normal(net.batch, n, 4, 4), units=units, inner=units)


@case(1, 3)
def padded_otherwise(rng: Rng, spatial: int) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 6)
    a, last = net.conv(n, c, 3, spatial=spatial), net.conv(c, 4, 1, spatial=spatial)
    amounts = [1] * 2 * spatial

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        one = getattr(aten, f"reflection_pad{spatial}d")(h, amounts)
        return last(one + getattr(aten, f"replication_pad{spatial}d")(h, amounts))

    return net.example(run, net.normal(net.batch, n, *[4] * spatial), units=c)


@case("diag", "diagonal", "trace", "diag_embed")
def diagonals(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c, d = 4, 5, net.size(4, 6)
    a, b, last, e = net.dense(n, c), net.dense(c, d), net.dense(d, 3), net.dense(c, c)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        square = e(h).mT @ h
        if op == "diag_embed":
            extra = e(h).diag_embed().sum()
        else:
            extra = getattr(torch, op)(square).sum()
        return last(torch.tanh(b(h))) + 0.1 * extra

    left = (c, d) if op == "diag_embed" else d
    return net.example(run, net.normal(net.batch, n), units=left, reason="by their number")
