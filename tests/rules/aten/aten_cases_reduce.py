"""Audit cases of reductions."""

from __future__ import annotations

import torch
from aten_net import Example, Net, Rng, around, case
from torch import Tensor

aten = torch.ops.aten


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
