"""Slices and splits: starts, lengths and sizes move with what leaves before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.cut import Cut
from graphprune.labels import Labels
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.base import positive
from graphprune.torch.context import AtenContext
from graphprune.torch.resize import AtenResize

_UNKNOWN = "what it slices is not known before it runs"
_SIZES = ("split_sizes", "split_size", "chunks", "sections", "indices")
_DYNAMIC = "an axis of dynamic length is sliced"


def bounds(start: int | None, end: int | None, step: int, size: int) -> tuple[int, int, int]:
    """Clamped as Python clamps."""
    return slice(start, end, step).indices(size)


def moved(cut: Cut, start: int, stop: int, step: int) -> tuple[int, int]:
    """Start and stop that pick the same of what is kept (the first row stands for all)."""
    kept = cut.kept.reshape(-1, cut.count)[0]
    if step == 1:
        return int(np.searchsorted(kept, start)), int(np.searchsorted(kept, stop))
    picked = np.intersect1d(np.arange(start, stop, step), kept)
    if not picked.size:
        return 0, 0
    first = int(np.searchsorted(kept, picked[0]))
    return first, min(first + step * (len(picked) - 1) + 1, cut.count)


def resize_slice(r: AtenResize) -> None:
    """Bounds that lie behind removed elements."""
    axis = positive(int(r.arg("dim", 0)), len(r.old("self")))
    cut = r.cut("self", axis)
    if cut is None:
        return
    step = int(r.arg("step", 1))
    start, stop, _ = bounds(r.arg("start"), r.arg("end"), step, cut.size)
    first, last = moved(cut, start, stop, step)
    r.set("start", first)
    if not _open(r.call.arguments.get("end")):
        r.set("end", last)


def _open(end: object) -> bool:
    """Up to the end, whatever it is."""
    return end is None or (isinstance(end, int) and end >= 2**62)


@aten_rule("slice", "slice_copy", resize=resize_slice)
def slice_(ctx: AtenContext) -> None:
    """`self[start:end:step]` along `dim`."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim", 0)), t.rank)
    start, stop, step = bounds(
        ctx.arg("start"), ctx.arg("end"), int(ctx.arg("step", 1)), t.shape[axis]
    )
    whole = start == 0 and stop == t.shape[axis] and step == 1
    if ctx.dynamic(0, axis) and t.tracked(axis) and not whole:
        t = ctx.alg.tie_across(t, [axis], _DYNAMIC)
    ctx.set(ctx.alg.slice(t, axis, start, stop, step))


def resize_narrow(r: AtenResize) -> None:
    """`start` and `length`."""
    axis = positive(int(r.arg("dim")), len(r.old("self")))
    cut = r.cut("self", axis)
    if cut is not None:
        start = positive(int(r.arg("start")), cut.size)
        first, last = moved(cut, start, start + int(r.arg("length")), 1)
        r.set("start", first)
        r.set("length", last - first)


@aten_rule("narrow", resize=resize_narrow)
def narrow(ctx: AtenContext) -> None:
    """`length` elements from `start`."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim")), t.rank)
    start = positive(int(ctx.arg("start")), t.shape[axis])
    ctx.set(ctx.alg.slice(t, axis, start, start + int(ctx.arg("length")), 1))


def resize_select(r: AtenResize) -> None:
    """The index among what is kept."""
    axis = positive(int(r.arg("dim")), len(r.old("self")))
    cut = r.cut("self", axis)
    if cut is not None:
        index = positive(int(r.arg("index")), cut.size)
        kept = cut.kept.reshape(-1, cut.count)[0]
        r.set("index", int(np.searchsorted(kept, index)))


@aten_rule("select", "select_copy", resize=resize_select)
def select(ctx: AtenContext) -> None:
    """One index of an axis, which disappears."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim")), t.rank)
    _pick(ctx, t, axis, positive(int(ctx.arg("index")), t.shape[axis]), 0)


def _pick(ctx: AtenContext, t: Labels, axis: int, index: int, result: int) -> None:
    one = ctx.alg.slice(t, axis, index, index + 1, 1)
    shape = (*t.shape[:axis], *t.shape[axis + 1 :])
    ctx.set(ctx.alg.reshape(one, shape), result)


@aten_rule("unbind")
def unbind(ctx: AtenContext) -> None:
    """All indices of an axis, each a tensor."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim", 0)), t.rank)
    for factor in t.factors:
        if factor.removal == axis:
            ctx.alg.pin(factor, "its indices become a list of tensors")
    for i in range(t.shape[axis]):
        _pick(ctx, t, axis, i, i)


def pieces(ctx: AtenContext, axis: int) -> list[int]:
    """Sizes of the results along `axis`."""
    found = []
    for value in ctx.node.meta["val"]:
        size = value.shape[axis]
        found.append(int(size) if isinstance(size, int) else int(size.node.hint))
    return found


def resize_split(r: AtenResize) -> None:
    """`split_size(s)`: what is left of each piece."""
    axis = positive(int(r.arg("dim", 0)), len(r.old("self")))
    if r.cut("self", axis) is None:
        return
    sizes = r.new_results(axis)
    name = next(n for n in _SIZES if n in r.call.arguments)
    if name in ("chunks", "sections"):
        if len(set(sizes)) > 1 or not sizes[0]:
            r.use_split(axis, sizes)
        return
    if name == "indices":
        r.set(name, np.cumsum(sizes)[:-1].tolist())
    elif isinstance(r.call.arguments[name], list | tuple):
        r.set_sizes(name, sizes)
    elif len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]:
        r.set(name, sizes[0])
    else:
        r.use_split(axis, sizes)


@aten_rule(
    *("split", "split_with_sizes", "chunk", "tensor_split", "split_copy", "unsafe_chunk"),
    *("split_with_sizes_copy", "unsafe_split"),
    resize=resize_split,
)
def split(ctx: AtenContext) -> None:
    """Pieces along an axis. None of them may vanish: their number is fixed."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim", 0)), t.rank)
    if ctx.dynamic(0, axis) and t.tracked(axis):
        t = ctx.alg.tie_across(t, [axis], _DYNAMIC)
    at = 0
    for i, size in enumerate(pieces(ctx, axis)):
        ctx.set(ctx.alg.slice(t, axis, at, at + size, 1), i)
        at += size


@aten_rule("flip", "roll", "fliplr", "flipud")
def turned(ctx: AtenContext) -> None:
    """Elements in another order: along a tracked axis everything that moves must stay."""
    t = ctx.moved(0)
    given = ctx.arg("dims", [])
    axes: Sequence[int] = given if isinstance(given, list) else [given]
    if ctx.op == "roll" and not axes:
        axes = list(range(t.rank))
    axes = [positive(int(a), t.rank) for a in axes]
    ctx.set(ctx.alg.tie_across(t, axes, "its elements change their order").factors)
