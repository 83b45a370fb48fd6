"""Expand, repeat, pad, and tensors made of sizes alone."""

from __future__ import annotations

from graphprune.labels import Factor
from graphprune.rules.aten.registry import aten_boundary, aten_rule
from graphprune.rules.aten.reshape import like
from graphprune.rules.base import positive
from graphprune.torch.context import AtenContext
from graphprune.torch.resize import AtenResize


def resize_expand(r: AtenResize) -> None:
    """`size` names every axis."""
    if "size" in r.call.arguments:
        r.set_sizes("size", r.new_out())


@aten_rule("expand", "broadcast_to", "expand_copy", resize=resize_expand)
def expand(ctx: AtenContext) -> None:
    """Axes of one element grow."""
    ctx.set(ctx.alg.broadcast(ctx.moved(0), ctx.out_shape()))


@aten_rule("expand_as")
def expand_as(ctx: AtenContext) -> None:
    """Axes of one element grow to the sizes of another tensor."""
    like(ctx, ctx.alg.broadcast(ctx.moved(0), ctx.out_shape()))


@aten_rule("repeat", "tile")
def repeat(ctx: AtenContext) -> None:
    """Every axis repeated as a whole."""
    t = ctx.moved(0)
    given = ctx.arg("repeats", ctx.arg("dims"))
    times = [int(n) for n in given]
    rank = max(t.rank, len(times))
    t = ctx.alg.reshape(t, (1,) * (rank - t.rank) + t.shape)
    ctx.set(ctx.alg.tile(t, [1] * (rank - len(times)) + times))


@aten_rule("repeat_interleave")
def repeat_interleave(ctx: AtenContext) -> None:
    """Every element of an axis, several times in a row."""
    t = ctx.moved(0)
    times, dim = ctx.arg("repeats"), ctx.arg("dim")
    if not isinstance(times, int) or dim is None:
        ctx.boundary("how often it repeats is not known before it runs")
        return
    axis = positive(int(dim), t.rank)
    wide = ctx.alg.reshape(t, (*t.shape[: axis + 1], 1, *t.shape[axis + 1 :]))
    shape = (*t.shape[: axis + 1], times, *t.shape[axis + 1 :])
    spread = ctx.alg.broadcast(wide, shape)
    kept = tuple(f for f in spread.factors if axis + 1 not in f.axes)
    ctx.reshaped(spread.with_factors(kept))


def resize_sizes(r: AtenResize) -> None:
    """`size` names every axis."""
    r.set_sizes("size", r.new_out())


@aten_rule(
    *("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
    *("rand", "randn"),
    resize=resize_sizes,
)
def sizes(ctx: AtenContext) -> None:
    """Sizes without a weight behind them: they follow what they meet."""
    shape = ctx.out_shape()
    fresh = ctx.alg.space.fresh
    ctx.set([Factor((a,), fresh(n, weak=True)) for a, n in enumerate(shape) if n > 1])


@aten_rule("arange", "linspace", "scalar_tensor", "eye", "tril", "triu", "sym_size", "randint")
def untracked(ctx: AtenContext) -> None:
    """Numbers that count something: whatever meets them stays."""
    for i in range(ctx.operands()):
        ctx.pin(i, "its elements are counted")


def resize_pad(r: AtenResize) -> None:
    """Amounts along a cut axis: what is left of them."""
    amounts = list(r.arg("pad"))
    rank = len(r.old("self"))
    for k in range(len(amounts) // 2):
        axis = rank - 1 - k
        result, source = r.out_cut(axis), r.cut("self", axis)
        if result is None and source is None:
            continue
        before = int(amounts[2 * k])
        if before > 0 and result is not None:
            before = int((result.kept.reshape(-1, result.count)[0] < before).sum())
        elif before < 0 and source is not None:
            before = -int((source.kept.reshape(-1, source.count)[0] < -before).sum())
        amounts[2 * k] = before
        amounts[2 * k + 1] = r.new_out()[axis] - r.new("self")[axis] - before
    r.set("pad", amounts)


@aten_rule(
    *("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
    *("replication_pad1d", "replication_pad2d", "replication_pad3d", "_pad_circular"),
    resize=lambda r: resize_pad(r) if "pad" in r.call.arguments else None,
)
def pad(ctx: AtenContext) -> None:
    """Pairs (before, after) from the last axis on."""
    t = ctx.moved(0)
    name = "pad" if "pad" in ctx.call.arguments else "padding"
    amounts = [int(n) for n in ctx.arg(name)]
    constant = ctx.op == "constant_pad_nd" or ctx.arg("mode", "constant") == "constant"
    zeros = constant and name == "pad"
    for k in range(len(amounts) // 2):
        before, after = amounts[2 * k], amounts[2 * k + 1]
        if before or after:
            t = ctx.alg.pad(t, t.rank - 1 - k, before, after, zeros=zeros)
    ctx.set(t)


aten_boundary(
    "diag", "diagonal", "diag_embed", "trace", reason="it relates two axes by their number"
)
