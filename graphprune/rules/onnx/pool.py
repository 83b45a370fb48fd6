"""Pools and other windows over positions: each channel alone."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.context import OpContext
from graphprune.rules.registry import boundary_rule, op_rule

_WINDOW = "a pool's window runs over it"


@op_rule("", "MaxPool", "AveragePool", "LpPool")
def pool(ctx: OpContext) -> None:
    x = ctx.moved(0)
    labels = ctx.alg.tie_across(x, range(2, x.rank), _WINDOW)
    ctx.set(labels.factors)
    if len(ctx.node.outputs) > 1:
        ctx.alg.pin(labels.factors, "the positions of the maxima count through all channels")


@op_rule("", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(ctx: OpContext) -> None:
    x = ctx.moved(0)
    ctx.set(ctx.alg.tie_across(x, range(2, x.rank), _WINDOW).factors)


boundary_rule("", "MaxUnpool", "MaxRoiPool", reason="its positions count through all channels")


@op_rule("", "RoiAlign")
def roi_align(ctx: OpContext) -> None:
    """[N, C, H, W] and boxes -> [boxes, C, h, w]."""
    x = ctx.moved(0)
    tied = ctx.alg.tie_across(x, [0, 2, 3], _WINDOW)
    ctx.set(tied.factors)
    ctx.pin(1, "coordinates of boxes")
    ctx.pin(2, "indices of images")


@op_rule("", "GridSample")
def grid_sample(ctx: OpContext) -> None:
    x = ctx.moved(0)
    batch = [f for f in x.factors if f.axes == (0,)]
    ctx.alg.pin(batch, "batch entries are sampled with a grid of their own")
    tied = ctx.alg.tie_across(x, [0, *range(2, x.rank)], _WINDOW)
    ctx.set(tied.factors)
    ctx.pin(1, "coordinates of samples")


@op_rule("", "Col2Im")
def col2im(ctx: OpContext) -> None:
    """[N, C * window, L] -> [N, C, H, W]."""
    x = ctx.moved(0)
    block = ctx.const(2)
    if block is None:
        ctx.boundary("its block size is not known before it runs")
        return
    window = int(block.prod())
    t = ctx.alg.reshape(x, (x.shape[0], x.shape[1] // window, window, x.shape[2]))
    t = ctx.alg.tie_across(t, [2, 3], _WINDOW)
    ctx.set(Labels(ctx.out_shape(), t.factors).factors)
