"""Audit cases of contractions and normalisations: linear, products, convolutions, norms, attention."""

from __future__ import annotations

from itertools import pairwise

import torch
from aten_net import Example, Net, Rng, around, case
from torch import Tensor, nn
from torch.nn import functional as F

aten = torch.ops.aten


# -- products --------------------------------------------------------------------------------------


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


# -- convolutions ----------------------------------------------------------------------------------


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


# -- norms -----------------------------------------------------------------------------------------


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


@case("native_batch_norm", "_native_batch_norm_legit_functional", "_native_batch_norm_legit", "cudnn")
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
        elif op == "cudnn":
            y = F.batch_norm(h, mean(), var(), scale(), bias())
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


# -- attention -------------------------------------------------------------------------------------


@case("plain", "causal", "mask", "head mask", "scale", "grouped", "rank 3", "long keys")
def attention(rng: Rng, how: str) -> Example:
    """Whole heads leave, or dims of q with those of k, and dims of v."""
    net = Net(rng)
    n, d, e, t = 4, net.size(3, 5), net.size(3, 5), net.size(3, 4)
    kv = net.size(2, 3)
    h = kv * 2 if how == "grouped" else 1 if how == "rank 3" else kv
    kv = 1 if how == "rank 3" else kv
    q, k, v = net.dense(n, h * d), net.dense(n, kv * d), net.dense(n, kv * e)
    out = net.dense(h * e, 3)
    keys = t + 1 if how == "long keys" else t
    mask = net.buffer(net.normal(h if how == "head mask" else 1, t, keys))

    def run(x: Tensor, z: Tensor) -> Tensor:
        if how == "rank 3":
            return out(F.scaled_dot_product_attention(q(x), k(x), v(x)))
        one, two, three = (
            f(s).view(-1, length, heads, size).transpose(1, 2)
            for f, s, length, heads, size in (
                (q, x, t, h, d),
                (k, z if how == "long keys" else x, keys, kv, d),
                (v, z if how == "long keys" else x, keys, kv, e),
            )
        )
        y = F.scaled_dot_product_attention(
            one,
            two,
            three,
            attn_mask=mask() if how in ("mask", "head mask") else None,
            is_causal=how == "causal",
            scale=0.3 if how == "scale" else None,
            enable_gqa=how == "grouped",
        )
        return out(y.transpose(1, 2).reshape(-1, t, h * e)) + 0 * z.sum()

    if how == "rank 3":
        units: object = (d, e)
    elif how == "grouped":
        units = None
    else:
        units = h
    inner = None if how == "grouped" else (d, e) if how == "rank 3" else (h * d, h * e)
    return net.example(
        run, net.normal(net.batch, t, n), net.normal(net.batch, t + 1, n), units=units, inner=inner
    )


@case("batch outside", "batch inside", "normed")
def merged_heads(rng: Rng, how: str) -> Example:
    """Heads merged with the batch into one axis, products by hand: an axis of dynamic length is cut."""
    net = Net(rng)
    n, h, d, t = 4, net.size(3, 4), net.size(3, 5), 3
    q, k, v = (net.dense(n, h * d) for _ in range(3))
    out = net.dense(h * d, 3)

    def heads(y: Tensor) -> Tensor:
        y = y.view(-1, t, h, d)
        y = y.permute(2, 0, 1, 3) if how == "batch inside" else y.transpose(1, 2)
        return y.reshape(-1, t, d)

    def run(x: Tensor) -> Tensor:
        one, two, three = (heads(f(x)) for f in (q, k, v))
        if how == "normed":
            three = F.layer_norm(three, [d])
        y = torch.bmm(torch.softmax(torch.bmm(one, two.mT), -1), three)
        if how == "batch inside":
            return out(y.view(h, -1, t, d).permute(1, 2, 0, 3).flatten(2))
        return out(y.view(-1, h, t, d).transpose(1, 2).flatten(2))

    x = net.normal(net.batch, t, n)
    return net.example(run, x, units=h, inner=None, statistics=how == "normed")


@case("neg cat", "interleaved")
def rotary(rng: Rng, how: str) -> Example:
    """Positions turned by slices, a negation and a concatenation."""
    net = Net(rng)
    n, h, d, t = 4, net.size(2, 3), 4, 3
    q, k, v = (net.dense(n, h * d) for _ in range(3))
    out = net.dense(h * d, 3)
    cos, sin = net.buffer(net.normal(t, d).cos()), net.buffer(net.normal(t, d).sin())

    def turned(x: Tensor) -> Tensor:
        if how == "neg cat":
            other = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], -1)
        else:
            other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * cos() + other * sin()

    def run(x: Tensor) -> Tensor:
        one, two, three = (f(x).view(-1, t, h, d).transpose(1, 2) for f in (q, k, v))
        y = F.scaled_dot_product_attention(turned(one), turned(two), three)
        return out(y.transpose(1, 2).flatten(2))

    return net.example(run, net.normal(net.batch, t, n), units=h, inner=None)


# -- recurrent layers ------------------------------------------------------------------------------


@case("LSTM", "GRU", "RNN", ("LSTM", 2), ("GRU", 2), ("LSTM", "both"), ("GRU", "both"), ("RNN", "relu"))
def recurrent(rng: Rng, how: object) -> Example:
    """Hidden units leave, each layer and direction for itself but equally many."""
    kind, extra = how if isinstance(how, tuple) else (how, 1)
    net = Net(rng)
    n, c, h = 3, net.size(4, 6), net.size(4, 7)
    layers = 2 if extra == 2 or (extra == "both" and net.chance()) else 1
    both = 2 if extra == "both" else 1
    given = {"nonlinearity": "relu"} if extra == "relu" else {}
    first = net.chance()
    layer = net.add(
        getattr(nn, kind)(
            c, h, layers, bias=net.chance(0.7), bidirectional=both == 2, batch_first=first, **given
        )
    )
    a, out, last = net.dense(n, c), net.dense(h * both, 3), net.dense(h, 3)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.tanh(a(x))
        y, state = layer(x if first else x.transpose(0, 1))
        state = state[0] if isinstance(state, tuple) else state
        y = out(y)
        return y if first else y.transpose(0, 1), last(state[-1])

    return net.example(run, net.normal(net.batch, 4, n), units=(c, h * both * layers))


@case("learned", "given", "projected")
def initial_state(rng: Rng, how: str) -> Example:
    net = Net(rng)
    n, c, h, b = 3, net.size(4, 6), net.size(4, 7), 2
    layer = net.add(nn.LSTM(c, h, proj_size=3 if how == "projected" else 0, batch_first=True))
    a, last = net.dense(n, c), net.dense(3 if how == "projected" else h, 3)
    learned = net.weight(1, 1, h)

    def run(x: Tensor, state: Tensor) -> Tensor:
        x = torch.tanh(a(x))
        if how == "projected":
            return last(layer(x)[0])
        start = state.transpose(0, 1)
        if how == "learned":
            start = learned().expand(-1, x.shape[0], -1)
        return last(layer(x, (start.contiguous(), start * 0.5))[0])

    units = {"learned": (c, h), "given": c, "projected": ()}[how]
    reason = {"given": "initial state", "projected": "projection"}.get(how, "")
    return net.example(
        run, net.normal(b, 4, n), net.normal(b, 1, h), units=units, reason=reason
    )


@case("LSTMCell", "GRUCell", "RNNCell", "relu")
def cell(rng: Rng, kind: str) -> Example:
    """Unrolled by hand over two steps."""
    net = Net(rng)
    n, c, h = 3, net.size(4, 6), net.size(4, 7)
    part = nn.RNNCell(c, h, nonlinearity="relu") if kind == "relu" else getattr(nn, kind)(c, h)
    step = net.add(part)
    a, last = net.dense(n, c), net.dense(h, 3)

    def run(x: Tensor) -> Tensor:
        x = torch.tanh(a(x))
        start = x.new_zeros(x.shape[0], h)
        state = (start, start) if kind == "LSTMCell" else start
        for i in range(2):
            state = step(x[:, i], state)
        return last(state[0] if kind == "LSTMCell" else state)

    return net.example(run, net.normal(net.batch, 2, n), units=(c, h))
