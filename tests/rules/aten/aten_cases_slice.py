"""Audit cases of slices, splits and concatenations."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


@case("slice", "slice_copy", "narrow", "select", "select_copy", "ends", "stride", "size")
def sliced(rng: Rng, op: str) -> Example:
    """Two layers read parts of one."""
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    if op == "stride":
        d = c
    a, one, two = net.dense(n, c + d), net.dense(c, 3), net.dense(d, 3)
    dense = net.dense(n, c)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "narrow":
            return one(h.narrow(-1, 0, c)) + two(h.narrow(-1, c, d))
        if op == "slice_copy":
            return one(aten.slice_copy(h, 2, 0, c)) + two(h[..., c:])
        if op == "stride":
            return one(h[..., ::2]) + two(h[..., 1::2])
        if op == "ends":
            return one(h[..., :-d]) + two(h[..., -d:])
        if op == "size":
            k = dense(x).shape[-1]
            return one(h[..., :k]) + two(h[..., k:])
        if op == "select":
            return one(h[:, 1, :c]) + two(h.select(1, 0)[:, c:])
        if op == "select_copy":
            return one(aten.select_copy(h, 1, 1)[:, :c]) + two(h[:, 0, c:])
        return one(h[..., :c]) + two(h[..., c:])

    units = {"stride": (c,), "size": (c, d)}.get(op, (c, d))
    return net.example(run, net.normal(net.batch, 3, n), units=units)


@case(
    ("split", "split_with_sizes", "chunk"),
    ("tensor_split", "split_copy", "unsafe_chunk"),
    ("indices", "split_with_sizes_copy", "unsafe_split"),
)
def split(rng: Rng, ops: tuple[str, ...]) -> Example:
    """Pieces of one width go different ways."""
    net = Net(rng)
    n, c = 3, net.size(4, 6)
    a, one, two = net.dense(n, 2 * c), net.dense(c, 3), net.dense(c, 3)

    def pieces(op: str, h: Tensor) -> tuple[Tensor, Tensor]:
        given = {
            "split_with_sizes": [c, c],
            "split_with_sizes_copy": [c, c],
            "chunk": 2,
            "unsafe_chunk": 2,
            "tensor_split": 2,
            "indices": [c],
        }.get(op, c)
        function = aten.tensor_split if op == "indices" else getattr(aten, op)
        return function(h, given, -1)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        found = [pieces(op, h) for op in ops]
        return one(sum(p[0] for p in found)) + two(torch.tanh(sum(p[1] for p in found)))

    return net.example(run, net.normal(net.batch, 3, n), units=(c, c))


@case("cat", "concat", "concatenate", "stack", "empty", "token", "positions")
def concatenated(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    a, b = net.dense(n, c), net.dense(n, d)
    token = net.weight(1, 1, c)
    last = net.dense(c + d if op in ("cat", "concat", "concatenate") else c, 3)
    other = net.dense(n, c)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "stack":
            return last(torch.stack([h, other(x)], 1)).flatten(1)
        if op == "empty":
            return last(torch.cat([h, x[..., :0].sum() + h[:, :0]], 1))
        if op == "token":
            return last(torch.cat([token().expand(x.shape[0], -1, -1), h], 1))
        if op == "positions":
            return last(torch.cat([h, other(x)], 1))
        return last(getattr(aten, op)([h, torch.tanh(b(x))], -1))

    units = (c, d) if op in ("cat", "concat", "concatenate") else (c,)
    if op == "stack":  # as blocks, the parts themselves would leave
        units = ()
        return net.example(run, net.normal(net.batch, 3, n), units=units, inner=None)
    return net.example(run, net.normal(net.batch, 3, n), units=units)


@case()
def a_bias_of_parts(rng: Rng) -> Example:
    """One bias put together from parts, as fused projections do it."""
    net = Net(rng)
    n, c = 3, net.size(3, 5)
    w, parts = net.weight(3 * c, n), [net.vector(c) for _ in range(3)]
    last = net.dense(3 * c, 3)

    def run(x: Tensor) -> Tensor:
        return last(torch.tanh(F.linear(x, w(), torch.cat([p() for p in parts]))))

    return net.example(run, net.normal(net.batch, 3, n), units=(c, c, c))


@case("flip", "roll", "fliplr", "flipud")
def turned(rng: Rng, op: str) -> Example:
    """Along positions all is well; channels that change their order stay."""
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 3)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "flip":
            h = torch.flip(h, [1])
        elif op == "roll":
            h = torch.roll(h, 1, 1)
        else:
            h = getattr(torch, op)(h)
        return last(torch.tanh(b(h)))

    return net.example(run, net.normal(net.batch, 3, n), units=(c, d))


@case("flip", "roll")
def turned_channels(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 3)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        h = torch.flip(h, [-1]) if op == "flip" else torch.roll(h, 1)
        return last(torch.tanh(b(h)))

    return net.example(run, net.normal(net.batch, n), units=d, reason="change their order")
