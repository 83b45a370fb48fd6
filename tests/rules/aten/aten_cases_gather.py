"""Audit cases of lookups and writes at given places."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


@case("embedding", "bag", "raw bag", "tied")
def embedding(rng: Rng, op: str) -> Example:
    """Hidden channels leave, rows stay; a tied table loses the same in both places."""
    net = Net(rng)
    rows, c = 7, net.size(4, 7)
    table = net.weight(rows, c)
    other = net.dense(c, 3)

    def run(x: Tensor) -> Tensor:
        index = (x * 10).to(torch.int64).remainder(rows)
        if op == "bag":
            return other(torch.tanh(F.embedding_bag(index, table())))
        if op == "raw bag":
            flat = index.flatten()
            start = torch.arange(0, 4 * x.shape[0], 4)
            return other(torch.tanh(aten._embedding_bag(table(), flat, start)[0]))
        h = F.embedding(index, table())
        return F.linear(torch.tanh(h), table()) if op == "tied" else other(torch.tanh(h))

    return net.example(run, net.normal(net.batch, 4), units=c)


@case("index_select", "index", "_unsafe_index", "two", "mask", "gather", "take_along_dim", "apart")
def looked_up(rng: Rng, op: str) -> Example:
    """Positions are looked up, channels go on."""
    net = Net(rng)
    n, c, t = 3, net.size(4, 7), 4
    a, last = net.dense(n, c), net.dense(c, 3)
    index = net.buffer(torch.tensor([2, 0, 1]))

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        i = index()
        if op == "index_select":
            return last(h.index_select(1, i))
        if op == "index":
            return last(h[:, i])
        if op == "_unsafe_index":
            return last(aten._unsafe_index(h, [None, i]))
        if op == "two":
            return last(h.view(-1, 2, 2, c)[:, i % 2, i // 2])
        if op == "apart":
            return last(h.view(-1, 2, 2, c)[:, i % 2, :, :].flatten(1, 2))
        if op == "mask":
            return last(torch.tanh(h)) * h[h > 0.1].mean()
        where = torch.argmax(x[..., :1], 1, keepdim=True)
        where = where.expand_as(h)
        found = torch.gather(h, 1, where) if op == "gather" else torch.take_along_dim(h, where, 1)
        return last(found)

    units = {"mask": ()}.get(op, c)
    x = net.normal(net.batch, t, n)
    return net.example(run, x, units=units, one_batch=op == "take_along_dim")


@case(
    ("scatter", "scatter_add", "scatter_reduce", "index_put"),
    ("index_add", "index_copy", "take", "slice_scatter"),
    ("select_scatter", "masked_scatter", "put"),
)
def written(rng: Rng, ops: tuple[str, ...]) -> Example:
    """What is written at given places: a boundary; around it channels leave."""
    net = Net(rng)
    n, c, d = 3, net.size(4, 6), net.size(4, 6)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 3)
    index = net.buffer(torch.tensor([1, 0]))

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        i, s = index(), h * 0.5 + 0.1
        wide = i.view(1, 2, 1).expand(x.shape[0], -1, c)
        made = {
            "scatter": lambda: h.scatter(1, wide, s[:, :2]),
            "scatter_add": lambda: h.scatter_add(1, wide, s[:, :2]),
            "scatter_reduce": lambda: h.scatter_reduce(1, wide, s[:, :2], "amax"),
            "index_put": lambda: torch.index_put(h, [i], s[:2]),
            "index_add": lambda: h.index_add(1, i, s[:, :2]),
            "index_copy": lambda: h.index_copy(1, i, s[:, :2]),
            "slice_scatter": lambda: torch.slice_scatter(h, s[:, :2], 1, 0, 2),
            "select_scatter": lambda: torch.select_scatter(h, s[:, 0], 1, 0),
            "masked_scatter": lambda: h.masked_scatter(h > 0.5, s),
            "take": lambda: h + torch.take(h, i).sum(),
            "put": lambda: torch.ops.aten.put(h, i, s.flatten()[:2]),
        }
        return last(torch.tanh(b(sum(made[op]() for op in ops))))

    return net.example(run, net.normal(net.batch, 3, n), units=d, reason="not known before it runs")
