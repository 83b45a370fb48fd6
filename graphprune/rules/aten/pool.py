"""Pools, interpolation and other windows over positions: each channel alone."""

from __future__ import annotations

from graphprune.rules.aten.registry import aten_boundary, aten_rule
from graphprune.torch.context import AtenContext

_WINDOW = "a window runs over it"


@aten_rule(
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices"),
)
def pool(ctx: AtenContext) -> None:
    """`[..., C, *positions]`; the number of position axes is in the op's name."""
    x = ctx.moved(0)
    spatial = next(int(c) for c in ctx.op if c.isdigit())
    t = ctx.alg.tie_across(x, range(x.rank - spatial, x.rank), _WINDOW)
    ctx.set(t.factors)
    ctx.set(t.factors, 1)


@aten_rule(
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
    *("upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d"),
    *("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
def upsample(ctx: AtenContext) -> None:
    """`[N, C, *positions]`: positions are interpolated, channels are not."""
    x = ctx.moved(0)
    ctx.set(ctx.alg.tie_across(x, range(2, x.rank), _WINDOW).factors)


@aten_rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sample(ctx: AtenContext) -> None:
    """Channels of input 0 alone; the grid has coordinates."""
    x = ctx.moved(0)
    ctx.alg.pin([f for f in x.factors if f.axes == (0,)], "every image has a grid of its own")
    ctx.pin(1, "coordinates of samples")
    ctx.set(ctx.alg.tie_across(x, [0, *range(2, x.rank)], _WINDOW).factors)


aten_boundary("max_unpool2d", "max_unpool3d", reason="its positions count through all channels")
