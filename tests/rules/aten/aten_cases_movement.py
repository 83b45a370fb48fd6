"""Audit cases of ops that rearrange: views, slices, concatenations, lookups, padding, reductions."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, around, case
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten

# -- views -----------------------------------------------------------------------------------------


@case("view", "reshape", "_unsafe_view", "view_copy", "view_as", "reshape_as")
def merged(rng: Rng, op: str) -> Example:
    """Channels and positions become one axis: channels leave in runs."""
    net = Net(rng)
    n, c, s = 3, net.size(4, 7), 3
    a, b, last = net.conv(n, c, 3, spatial=1), net.conv(n, c, 3, spatial=1), net.dense(c * s, 4)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "reshape":
            return last(h.reshape(x.shape[0], -1))
        if op in ("view_as", "reshape_as"):
            return last(getattr(h, op)(b(x).flatten(1)) + b(x).flatten(1))
        return last(getattr(aten, op)(h, [x.shape[0], c * s]))

    return net.example(run, net.normal(net.batch, n, s), units=c)


@case("literal", "minus one", "unflatten", "chunk", "unbind")
def split_in_heads(rng: Rng, how: str) -> Example:
    """A width of h * d becomes two axes; the norm of a head needs whole heads."""
    net = Net(rng)
    n, h, d = 3, net.size(2, 4), net.size(3, 4)
    a, last = net.dense(n, h * d), net.dense(h * d, 4)

    def run(x: Tensor) -> Tensor:
        y = a(x)
        if how == "unflatten":
            y = y.unflatten(-1, (h, d))
        elif how == "minus one":
            y = y.view(x.shape[0], x.shape[1], h, -1)
        else:
            y = y.view(-1, 3, h, d)
        y = y / (y.norm(dim=-1, keepdim=True) + 0.1)
        if how == "chunk":
            y = torch.cat([t.flatten(2) for t in y.transpose(2, 3).chunk(1, 2)], -1)
            return last(y)
        if how == "unbind":
            return last(torch.stack(y.transpose(0, 1).unbind(0), 1).flatten(2))
        return last(y.flatten(2))

    units = None if how == "chunk" else h
    return net.example(run, net.normal(net.batch, 3, n), units=units, inner=None)


@case("permute", "transpose", "t", "numpy_T", "mT", "movedim", "swapaxes", "copies", "adjoint")
def permuted(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    two = op in ("t", "numpy_T")
    a, w = net.dense(n, c), net.weight(4, c)
    last = net.dense(c, 4)
    x = net.normal(net.batch, *([] if two else [3]), n)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op == "t":
            return (w() @ h.t()).t()
        if op == "numpy_T":
            return (w() @ h.T).T
        if op == "mT":
            return (w() @ h.mT).mT
        if op == "adjoint":
            return (w() @ aten.adjoint(h)).mT
        if op == "permute":
            return (w() @ h.permute(0, 2, 1)).permute(0, -1, 1)
        if op == "movedim":
            return torch.movedim(w() @ torch.moveaxis(h, 2, 1), [2, 1], [1, 2])
        if op == "swapaxes":
            return torch.swapdims(w() @ torch.swapaxes(h, 1, 2), 1, 2)
        if op == "copies":
            return last(aten.transpose_copy(aten.permute_copy(h, [0, 2, 1]), 1, 2))
        return (w() @ h.transpose(1, -1)).transpose(-1, -2)

    return net.example(run, x, units=c)


@case("flatten", "squeeze", "unsqueeze", "ravel")
def of_size_one(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 8)
    a, last = net.conv(n, c, 3), net.dense(c, 4)

    def run(x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(torch.tanh(a(x)), 1)
        if op == "squeeze":
            return last(y.squeeze(-1).squeeze(-1))
        if op == "unsqueeze":
            return last(y.flatten(1).unsqueeze(1)).flatten(1)
        if op == "ravel":
            return last(torch.stack([y[0].ravel(), y[1].ravel()])) * x.mean()
        return last(torch.flatten(y, 1))

    return net.example(run, net.normal(net.batch, n, 4, 4), units=c)


@case("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "by hand")
def shuffled(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c = 3, net.size(3, 5)
    if op == "pixel_shuffle":
        a, last = net.conv(n, 4 * c, 3), net.conv(c, 4, 1)
    elif op == "pixel_unshuffle":
        a, last = net.conv(n, c, 3), net.conv(4 * c, 4, 1)
    else:
        a, last = net.conv(n, 2 * c, 3), net.conv(2 * c, 4, 1)

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        if op.startswith("pixel"):
            h = getattr(torch, op)(h, 2)
        elif op == "by hand":
            b, _, s, _ = h.shape
            h = h.view(b, 2, c, s, s).transpose(1, 2).reshape(b, -1, s, s)
        else:
            h = getattr(aten, op)(h, 2)
        return last(h)

    x = net.normal(net.batch, n, 4, 4)
    return net.example(run, x, units=c, one_batch=op == "native_channel_shuffle")


@case("views")
def complex_numbers(rng: Rng, how: str) -> Example:
    """Rotary by complex numbers: both parts leave together."""
    net = Net(rng)
    n, c = 3, net.size(3, 6)
    a, last = net.dense(n, 2 * c), net.dense(2 * c, 4)

    def run(x: Tensor) -> Tensor:
        pairs = a(x).view(x.shape[0], 4, c, 2)
        turned = torch.view_as_complex(pairs) * torch.complex(pairs[..., 0], pairs[..., 1])
        return last(torch.view_as_real(turned).flatten(2))

    return net.example(run, net.normal(net.batch, 4, n), units=c)


# -- slices, concatenation ---------------------------------------------------------------------------


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

    fixed = op == "flipud"
    reason = "" if not fixed else ""
    return net.example(run, net.normal(net.batch, 3, n), units=(c, d), reason=reason)


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


# -- expanding -------------------------------------------------------------------------------------


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
    wide = op in ("channels", "negative")
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


# -- lookups ---------------------------------------------------------------------------------------


@case("embedding", "bag", "raw bag", "tied")
def embedding(rng: Rng, op: str) -> Example:
    """Hidden channels leave, rows stay; a tied table loses the same in both places."""
    net = Net(rng)
    rows, c = 7, net.size(4, 7)
    table, mixer = net.weight(rows, c), net.dense(c, c)
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


# -- reductions ------------------------------------------------------------------------------------


_SUMS, _STATISTICS = ("sum", "nansum", "count_nonzero", "any"), ("mean", "var", "std")
_PAIRS = ("var_mean", "std_mean")


@case((*_SUMS, "all"), (*_STATISTICS, *_PAIRS))
def over_positions(rng: Rng, ops: tuple[str, ...]) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    a, last = net.dense(n, c), net.dense(c, 3)
    keep = net.chance()

    def reduced(op: str, h: Tensor) -> Tensor:
        if op in ("any", "all"):
            return getattr(torch, op)(h > -0.5, 1, keepdim=keep).to(h.dtype)
        if op == "count_nonzero":
            y = torch.count_nonzero(torch.relu(h), 1).to(h.dtype)
            return y.unsqueeze(1) if keep else y
        y = getattr(torch, op)(h, 1, keepdim=keep)
        return y[0] * y[1] if isinstance(y, tuple) else y

    def run(x: Tensor) -> Tensor:
        h = a(x)
        return last(sum(reduced(op, h) for op in ops))

    return net.example(run, net.normal(net.batch + 2, 4, n), units=c)


@case(_SUMS, _STATISTICS, _PAIRS)
def over_channels(rng: Rng, ops: tuple[str, ...]) -> Example:
    """Sums are neutral to zeros; means and variances are those of what is kept."""
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    a, last, scale = net.dense(n, c), net.dense(c, 3), net.vector(1)

    def reduced(op: str, h: Tensor) -> Tensor:
        if op == "any":
            return torch.any(h > 0.8, -1, keepdim=True).to(h.dtype)
        if op == "count_nonzero":
            return torch.count_nonzero(torch.relu(h), -1).to(h.dtype).unsqueeze(-1)
        y = getattr(torch, op)(h, -1, keepdim=True)
        return y[0] + y[1] if isinstance(y, tuple) else y

    def run(x: Tensor) -> Tensor:
        h = a(x)
        return last(h) * scale() + sum(reduced(op, h) for op in ops)

    statistics = ops != _SUMS
    return net.example(run, net.normal(net.batch, 4, n), units=c, statistics=statistics)


_OTHERS = (
    *("amax", "amin", "max", "min", "prod", "logsumexp", "median", "argmax", "argmin", "topk"),
    *("aminmax", "nanmedian", "mode", "kthvalue", "softmax", "_softmax", "log_softmax", "cumprod"),
    *("_log_softmax", "_safe_softmax", "cummax", "cumsum"),
)


def _looking(op: str, h: Tensor, axis: int) -> Tensor:
    if op in ("topk", "kthvalue"):
        found = getattr(torch, op)(h, 2, axis)
    elif op in ("_softmax", "_log_softmax"):
        found = getattr(aten, op)(h, axis, False)
    elif op == "_safe_softmax":
        found = aten._safe_softmax(h, axis)
    elif op == "aminmax":
        found = torch.aminmax(h, dim=axis)
    else:
        found = getattr(torch, op)(h, axis)
    found = found[0] if isinstance(found, tuple) else found
    return found.to(h.dtype)


@case(*(_OTHERS[i : i + 6] for i in range(0, len(_OTHERS), 6)))
def along_positions(rng: Rng, ops: tuple[str, ...]) -> Example:
    net = Net(rng)
    n, c = 3, net.size(4, 7)
    a, last, scales = net.dense(n, c), net.dense(c, 3), [net.vector() for _ in ops]

    def run(x: Tensor) -> Tensor:
        h = torch.tanh(a(x))
        parts = [_looking(op, h, 1) for op in ops]
        wide = [y if y.ndim == 3 else y.unsqueeze(1) for y in parts]
        total = sum(y.sum(1) * s() for y, s in zip(wide, scales, strict=True))
        return last(total)

    return net.example(run, net.normal(net.batch + 1, 4, n), units=c)


_WHOLE = tuple(o for o in _OTHERS if o not in ("cumsum", "topk", "cummax"))


@case(*(_WHOLE[i : i + 6] for i in range(0, len(_WHOLE), 6)))
def along_channels(rng: Rng, ops: tuple[str, ...]) -> Example:
    """What is looked at as a whole stays; a layer behind it is pruned."""
    net = Net(rng)
    n, d = 3, net.size(4, 7)
    producers = [net.dense(n, 5) for _ in ops]
    b, last = net.dense(n, d), net.dense(d, 3)

    def run(x: Tensor) -> Tensor:
        parts = [_looking(op, torch.tanh(a(x)), -1) for op, a in zip(ops, producers, strict=True)]
        whole = sum(y.unsqueeze(-1) if y.ndim < 3 else y[..., :1] for y in parts)
        return last(torch.tanh(b(x))) * (1 + whole)

    return net.example(run, net.normal(net.batch, 4, n), units=d, reason="not neutral")


@case()
def running_sum(rng: Rng) -> Example:
    """A running sum over channels, read by a layer."""
    return around(rng, lambda *_: lambda x: torch.cumsum(x, -1), last=True)


# -- windows ---------------------------------------------------------------------------------------


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
        if spatial < 3:
            y = y + getattr(F, f"lp_pool{d}")(h.abs() + 0.1, 2, 2)
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
            y = y + aten.upsample_bilinear2d(h, size, False) + aten.upsample_bicubic2d(h, size, False)
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


# -- regions ---------------------------------------------------------------------------------------


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
            gate = torch.sigmoid(b(x))
        return last(a(x) * gate)

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
