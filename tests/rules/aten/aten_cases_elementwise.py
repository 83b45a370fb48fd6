"""Audit cases of elementwise ops."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, around, case
from torch import Tensor, nn

aten = torch.ops.aten

#: Ops of one tensor, by what they ask of their argument; several are run side by side in one module.
_ANY = (  # noqa: SIM905
    "abs absolute alias angle atan asinh ceil celu clone contiguous cos cosh deg2rad "
    "detach detach_copy elu erf erfc exp exp2 expm1 fix floor frac gelu hardsigmoid "
    "hardswish hardtanh leaky_relu lift_fresh_copy log_sigmoid mish nan_to_num neg "
    "negative positive rad2deg relu relu6 round rrelu selu sgn sigmoid sign silu sin "
    "sinc sinh softplus sqrt_ square tan tanh trunc conj resolve_conj resolve_neg "
    "hardshrink softshrink zero_ isfinite isinf isnan logical_not bitwise_not lift"
).split()
_UNIT = (  # noqa: SIM905
    "acos acosh asin atanh erfinv logit digamma lgamma log log10 log1p log2 reciprocal rsqrt sqrt"
).split()
_CUSTOM = {
    "contiguous": lambda x: x.contiguous(),
    "sqrt_": lambda x: x.abs().sqrt_(),
    "zero_": lambda x: x.clone().zero_(),
    "isfinite": lambda x: torch.isfinite(x).to(x.dtype),
    "isinf": lambda x: torch.isinf(x).to(x.dtype) + 1.0,
    "isnan": lambda x: torch.isnan(x).to(x.dtype) + 1.0,
    "logical_not": lambda x: torch.logical_not(x > 0).to(x.dtype),
    "bitwise_not": lambda x: torch.bitwise_not(x > 0).to(x.dtype),
    "conj": lambda x: aten.conj(x) * 1.0,
    "angle": lambda x: torch.angle(x),
}


def _unary(name: str) -> object:
    return _CUSTOM.get(name) or getattr(aten, name)


def _side_by_side(ops: list[str], prepare: object, rng: Rng) -> Example:
    """Every op of the same tensor, each read by a consumer's share of the sum."""

    def make(net: Net, c: int, axis: int, rank: int) -> object:
        scales = [net.vector() for _ in ops]

        def run(x: Tensor) -> Tensor:
            x = prepare(x)
            parts = [_unary(op)(x) * s() for op, s in zip(ops, scales, strict=True)]
            return sum(parts[1:], parts[0])

        return run

    return around(rng, make)


_GROUPS = [tuple(_ANY[i : i + 10]) for i in range(0, len(_ANY), 10)]


@case(*_GROUPS)
def unary(rng: Rng, ops: str) -> Example:
    return _side_by_side(list(ops), lambda x: x, rng)


@case(*[tuple(_UNIT[i : i + 10]) for i in range(0, len(_UNIT), 10)])
def of_a_bounded_argument(rng: Rng, ops: str) -> Example:
    """Defined between 0 and 1 only, or above 1."""

    def bounded(op: str, x: Tensor) -> Tensor:
        y = torch.sigmoid(x) * 0.8 + 0.1
        return y + 1 if op == "acosh" else y

    def make(net: Net, c: int, axis: int, rank: int) -> object:
        return lambda x: sum(getattr(aten, op)(bounded(op, x)) for op in ops)

    return around(rng, make)


@case("to", "type_as", "_to_copy", "threshold", "fill", "clamp", "same type")
def with_arguments(rng: Rng, op: str) -> Example:
    def run(x: Tensor) -> Tensor:
        if op == "to":
            return x.to(torch.float32).to(x)
        if op == "type_as":
            return x.to(torch.float32).type_as(x)
        if op == "_to_copy":
            return aten._to_copy(x, dtype=torch.float32).to(torch.float64)
        if op == "threshold":
            return aten.threshold(x, 0.1, 0.3)
        if op == "fill":
            return x + aten.fill(x, 0.5)
        if op == "clamp":
            return x.clamp(-1, 1) + x.clip(min=0) + aten.clamp_min(x, 0.0) + aten.clamp_max(x, 0.5)
        return x.to(torch.float64) * 2

    return around(rng, lambda *_: run)


_BINARY = (  # noqa: SIM905
    "add atan2 copysign div divide fmax fmin fmod hypot logaddexp maximum minimum mul "
    "multiply remainder rsub sub subtract true_divide pow xlogy floor_divide ldexp "
    "heaviside"
).split()
_COMPARE = ("eq ge gt le lt ne not_equal greater greater_equal less less_equal").split()  # noqa: SIM905
_LOGIC = (  # noqa: SIM905
    "__and__ __or__ __xor__ logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor"
).split()


def _positive(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x) + 0.2


@case(*[tuple(_BINARY[i : i + 8]) for i in range(0, len(_BINARY), 8)])
def two_producers(rng: Rng, ops: str) -> Example:
    """Channels of both operands leave together."""
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(5, 8), 4
    a, b, last = net.dense(n, c), net.dense(n, c), net.dense(c, m)

    def run(x: Tensor) -> Tensor:
        one, two = _positive(a(x)), _positive(b(x))
        return last(sum(getattr(aten, op)(one, two) for op in ops))

    return net.example(run, net.normal(net.batch, 3, n), units=c)


@case(*[tuple(_BINARY[i : i + 8]) for i in range(0, len(_BINARY), 8)])
def with_a_vector(rng: Rng, ops: str) -> Example:
    """A weight that broadcasts adopts the channels of what it meets."""

    def make(net: Net, c: int, axis: int, rank: int) -> object:
        shape = [c if a == axis else 1 for a in range(axis, rank)]
        vectors = [net.vector(*shape) for _ in ops]
        return lambda x: sum(
            getattr(aten, op)(_positive(x), v()) for op, v in zip(ops, vectors, strict=True)
        )

    return around(rng, make)


@case(tuple(_COMPARE), tuple(_LOGIC), ("__lshift__", "__rshift__"))
def comparisons(rng: Rng, ops: tuple[str, ...]) -> Example:
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(5, 8), 4
    a, b, last = net.dense(n, c), net.dense(n, c), net.dense(c, m)

    def run(x: Tensor) -> Tensor:
        one, two = a(x), b(x)
        if ops[0] in _LOGIC:
            one, two = one > 0, two > 0
        elif "shift" in ops[0]:
            one, two = (one * 8).to(torch.int64), (two > 0).to(torch.int64)
        parts = [getattr(aten, op)(one, two).to(x.dtype) for op in ops]
        return last(sum((i + 1) * p for i, p in enumerate(parts)))

    return net.example(run, net.normal(net.batch, 3, n), units=c)


@case("addcmul", "addcdiv", "lerp", "where", "masked_fill", "clamp", "in_place", "copy_")
def three(rng: Rng, op: str) -> Example:
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(5, 8), 4
    layers = [net.dense(n, c) for _ in range(3)]
    last = net.dense(c, m)

    def run(x: Tensor) -> Tensor:
        a, b, d = (layer(x) for layer in layers)
        if op in ("addcmul", "addcdiv"):
            y = getattr(aten, op)(a, b, _positive(d), value=0.5)
        elif op == "lerp":
            y = torch.lerp(a, b, torch.sigmoid(d))
        elif op == "where":
            y = torch.where(d > 0, a, b)
        elif op == "masked_fill":
            y = a.masked_fill(d > 0, 0.3) * b
        elif op == "clamp":
            y = torch.clamp(a, min=b - 1, max=b + _positive(d))
        elif op == "in_place":
            y = a.relu_().add_(b).mul_(torch.sigmoid_(d))
        else:
            y = a.clone().copy_(b) + d
        return last(y)

    units = {"copy_": (c,)}.get(op, (c,))
    return net.example(run, net.normal(net.batch, 3, n), units=units)


@case("dropout", "feature_dropout", "alpha_dropout", "native_dropout")
def dropout(rng: Rng, op: str) -> Example:
    def run(x: Tensor) -> Tensor:
        if op == "native_dropout":
            y, mask = aten.native_dropout(x, 0.5, False)
            return y * mask
        return getattr(aten, op)(x, 0.5, False)

    return around(rng, lambda *_: run)


@case("one", "channels")
def prelu(rng: Rng, how: str) -> Example:
    def make(net: Net, c: int, axis: int, rank: int) -> object:
        return net.add(nn.PReLU(c if how == "channels" else 1))

    return around(rng, make, last=False)


@case("last", "channels")
def glu(rng: Rng, where: str) -> Example:
    """Channel i leaves with i + half."""
    net = Net(rng)
    n, c, m = 3, net.size(4, 7), 4
    if where == "last":
        a, b = net.dense(n, 2 * c), net.dense(c, m)
        x = net.normal(net.batch, 3, n)
    else:
        a, b = net.conv(n, 2 * c, 3), net.conv(c, m)
        x = net.normal(net.batch, n, 5, 5)
    axis = -1 if where == "last" else 1
    return net.example(lambda x: b(nn.functional.glu(a(x), axis)), x, units=c)


@case("bernoulli", "rand_like", "randn_like")
def drawn(rng: Rng, op: str) -> Example:
    """Random numbers of the size of a tensor."""
    return around(rng, lambda *_: lambda x: x + getattr(aten, op)(torch.sigmoid(x)), random=True)


@case("zeros_like", "ones_like", "full_like", "empty_like")
def like(rng: Rng, op: str) -> Example:
    def run(x: Tensor) -> Tensor:
        if op == "full_like":
            return x * torch.full_like(x, 0.7)
        if op == "empty_like":
            return x + torch.empty_like(x) * 0.5
        return x * 0.5 + getattr(aten, op)(x)

    return around(rng, lambda *_: run, random=op == "empty_like")


@case()
def different_widths_are_a_residual(rng: Rng) -> Example:
    """A sum of two producers, read by two layers."""
    net = Net(rng)
    n, c = 4, net.size(5, 8)
    a, b, d, e = net.dense(n, c), net.dense(c, c), net.dense(c, 4), net.dense(c, 3)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(a(x))
        y = y + b(y)
        return d(y), e(torch.tanh(y))

    return net.example(run, net.normal(net.batch, n), units=c)


@case("sort", "argsort", "unique", "multinomial", "histc", "masked_select", "nonzero", "bincount")
def boundaries(rng: Rng, op: str) -> Example:
    """What depends on all channels at once stays; what is around it leaves."""
    net = Net(rng)
    n, c, d = 4, net.size(5, 7), net.size(4, 6)
    a, b, last = net.dense(n, c), net.dense(c, d), net.dense(d, 3)
    e = net.dense(c, 3) if op in ("sort", "argsort") else None

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(a(x))
        if op == "sort":
            other = e(torch.sort(h, -1)[0])
        elif op == "argsort":
            other = e(torch.argsort(h, -1).to(x.dtype))
        elif op == "multinomial":
            other = torch.multinomial(torch.softmax(h, -1), 2).to(x.dtype) * 0
        elif op == "bincount":
            other = torch.bincount((h > 0).sum(-1), minlength=c + 1)[:2].to(x.dtype)
        elif op == "histc":
            other = torch.histc(h, 5, 0.0, 2.0)
        else:
            found = {
                "unique": lambda: torch.unique(h),
                "masked_select": lambda: torch.masked_select(h, h > 0),
                "nonzero": lambda: torch.nonzero(h).to(x.dtype),
            }[op]()
            other = found.sum() * torch.ones(1, dtype=x.dtype)
        return last(torch.relu(b(h))), other * 0 + last.weight.sum() * h[..., :0].sum()

    left = (c, d) if op == "bincount" else d  # a sum over what is positive is one over what is kept
    return net.example(run, net.normal(net.batch, n), units=left, random=True)
