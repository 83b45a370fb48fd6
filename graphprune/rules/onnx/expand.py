"""Expand, Tile, Pad, Resize, ConstantOfShape and other ops that are told sizes."""

from __future__ import annotations

import numpy as np

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import boundary_rule, op_rule
from graphprune.rules.resize import Resize


def resize_expand(r: Resize) -> None:
    target = r.const(1)
    if target is None:
        return
    old, new = r.old_out(), r.new_out()
    lead = len(old) - len(target)
    entries = [
        new[lead + k] if int(e) == old[lead + k] and e != 1 else int(e)
        for k, e in enumerate(target)
    ]
    r.set_operand(1, np.array(entries, np.int64))


@op_rule("", "Expand", resize=resize_expand)
def expand(ctx: OpContext) -> None:
    ctx.set(ctx.alg.broadcast(ctx.moved(0), ctx.out_shape()))


def resize_tile(r: Resize) -> None:
    if r.const(1) is not None:
        ratios = [n // o for n, o in zip(r.new_out(), r.new(0), strict=True)]
        r.set_operand(1, np.array(ratios, np.int64))


@op_rule("", "Tile", resize=resize_tile)
def tile(ctx: OpContext) -> None:
    repeats = ctx.const(1)
    if repeats is None:
        ctx.boundary("its repeats are not known before it runs")
        return
    ctx.set(ctx.alg.tile(ctx.moved(0), [int(n) for n in repeats]))


def resize_constant_of_shape(r: Resize) -> None:
    if r.const(0) is not None:
        r.set_operand(0, np.array(r.new_out(), np.int64))


@op_rule("", "ConstantOfShape", resize=resize_constant_of_shape)
def constant_of_shape(ctx: OpContext) -> None:
    """Sizes without a weight behind them: they follow what they meet."""
    shape = ctx.out_shape()
    factors = [
        Factor((a,), ctx.alg.space.fresh(n, weak=True)) for a, n in enumerate(shape) if n > 1
    ]
    ctx.set(factors)


def pad_amounts(pads: np.ndarray, axes: list[int], rank: int) -> dict[int, tuple[int, int]]:
    """Axis -> (before, after)."""
    half = len(axes)
    return {positive(a, rank): (int(pads[i]), int(pads[half + i])) for i, a in enumerate(axes)}


def resize_pad(r: Resize) -> None:
    pads = r.const(1) if r.has(1) else r.attr("pads")
    if pads is None:
        return
    rank = len(r.old(0))
    listed = r.const(3) if r.has(3) else None
    axes = list(range(rank)) if listed is None else [positive(int(a), rank) for a in listed]
    new = np.array(pads, np.int64).copy()
    for i, axis in enumerate(axes):
        result, source = r.out_cut(axis), r.cut(0, axis)
        before = int(new[i])
        if before >= 0 and result is not None:
            new[i] = int((result.kept.reshape(-1, result.count)[0] < before).sum())
        elif before < 0 and source is not None:
            new[i] = -int((source.kept.reshape(-1, source.count)[0] < -before).sum())
        if result is not None or source is not None:
            new[len(axes) + i] = r.new_out()[axis] - r.new(0)[axis] - new[i]
    if r.has(1):
        r.set_operand(1, new)
    else:
        r.set_attr("pads", new.tolist())


@op_rule("", "Pad", resize=resize_pad)
def pad(ctx: OpContext) -> None:
    t = ctx.moved(0)
    pads = ctx.const(1) if ctx.has(1) else ctx.attr("pads")
    if pads is None or (ctx.has(3) and ctx.const(3) is None):
        ctx.boundary("what it pads is not known before it runs")
        return
    listed = ctx.const(3) if ctx.has(3) else None
    axes = list(range(t.rank)) if listed is None else [int(a) for a in listed]
    mode = ctx.attr("mode", "constant")
    for axis, (before, after) in pad_amounts(np.asarray(pads), axes, t.rank).items():
        if before or after:
            t = ctx.alg.pad(t, axis, before, after, zeros=mode == "constant")
    ctx.set(t)


def resize_resize(r: Resize) -> None:
    """`sizes` names the channels too."""
    place = 3 if r.node.op_type == "Resize" and r.opset >= 11 else None
    if place is None or not r.has(place):
        return
    sizes = r.const(place)
    if sizes is None or not sizes.size:
        return
    rank = len(r.old(0))
    axes = [positive(int(a), rank) for a in r.attr("axes", range(rank))]
    r.set_operand(place, np.array([r.new_out()[a] for a in axes], np.int64))


@op_rule("", "Resize", "Upsample", resize=resize_resize)
def resize(ctx: OpContext) -> None:
    """Positions are interpolated, channels are not."""
    t = ctx.moved(0)
    scaled = [a for a, (n, m) in enumerate(zip(t.shape, ctx.out_shape(), strict=True)) if n != m]
    t = ctx.alg.tie_across(
        t,
        [*scaled, *range(2, t.rank)] if t.rank > 3 and not scaled else scaled,
        "it is interpolated",
    )
    ctx.set(t.factors)


@op_rule("", "DepthToSpace")
def depth_to_space(ctx: OpContext) -> None:
    """[N, r * r * C, H, W] (DCR) or [N, C * r * r, H, W] (CRD) -> [N, C, H * r, W * r]."""
    x = ctx.moved(0)
    r = int(ctx.attr("blocksize"))
    channels = x.shape[1] // (r * r)
    crd = ctx.attr("mode", "DCR") == "CRD"
    split = (channels, r, r) if crd else (r, r, channels)
    t = ctx.alg.reshape(x, (x.shape[0], *split, *x.shape[2:]))
    inner = [2, 3] if crd else [1, 2]
    t = ctx.alg.tie_across(t, [*inner, 4, 5], "it becomes positions")
    at = 1 if crd else 3
    out = ctx.out_shape()
    ctx.set(ctx.alg.rename(Labels(t.shape, t.factors), {0: 0, at: 1, 4: 2, 5: 3}, out))


@op_rule("", "SpaceToDepth")
def space_to_depth(ctx: OpContext) -> None:
    """[N, C, H, W] -> [N, r * r * C, H / r, W / r]."""
    x = ctx.moved(0)
    r = int(ctx.attr("blocksize"))
    t = ctx.alg.tie_across(x, [2, 3], "positions become channels")
    tiles = (1, r * r, 1, 1)
    factors = [Factor(f.axes, np.tile(f.labels, [tiles[a] for a in f.axes])) for f in t.factors]
    ctx.set(Labels(ctx.out_shape(), tuple(factors)))


@op_rule("", "Shape", "Size", "Constant", "Range", "RandomNormal", "RandomUniform")
def untracked(ctx: OpContext) -> None:
    """Reads no channel: sizes computed from shapes are put right when the graph is rewritten."""


boundary_rule(
    "", "RandomNormalLike", "RandomUniformLike", "Bernoulli", reason="random numbers would differ"
)
