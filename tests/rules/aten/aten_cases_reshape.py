"""Audit cases of views and permutations."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, case
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten


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
