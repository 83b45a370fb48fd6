"""Convolutions, 1 to 3 spatial dimensions, any groups and multiplier, transposed ones too."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.aten._macs import conv_macs, conv_transpose_macs
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.shared.conv import conv_like
from graphprune.torch.context import AtenContext
from graphprune.torch.resize import AtenResize


def resize_conv(r: AtenResize) -> None:
    """`groups`: the input channels that are left over the input channels of a kernel."""
    if int(r.arg("groups", 1)) == 1:
        return
    transposed = r.call.op.startswith("conv_transpose") or bool(r.arg("transposed", False))
    channels = r.new_out() if transposed else r.new("input")
    axis = 1 if len(channels) == len(r.new("weight")) else 0
    r.set("groups", channels[axis] // r.new("weight")[1])


def _conv(ctx: AtenContext, *, transposed: bool) -> None:
    groups = int(ctx.arg("groups", 1))
    if len(ctx.shape(0)) == len(ctx.shape(1)):
        labels = conv_like(ctx, 0, 1, 2, groups=groups, transposed=transposed)
        ctx.set(labels.factors)
        return
    ctx.boundary("a convolution of one image without a batch axis: give a batch")


@aten_rule("conv1d", "conv2d", "conv3d", macs=conv_macs, resize=resize_conv)
def conv(ctx: AtenContext) -> None:
    """Input, weight `[out, in / groups, *kernel]`, bias."""
    _conv(ctx, transposed=False)


@aten_rule(
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    macs=conv_transpose_macs,
    resize=resize_conv,
)
def conv_transpose(ctx: AtenContext) -> None:
    """Input, weight `[in, out / groups, *kernel]`, bias."""
    _conv(ctx, transposed=True)


@aten_rule("convolution", macs=conv_macs, resize=resize_conv)
def convolution(ctx: AtenContext) -> None:
    """Either of them."""
    _conv(ctx, transposed=bool(ctx.arg("transposed", False)))


@aten_rule("unfold", "im2col")
def im2col(ctx: AtenContext) -> None:
    """Windows of positions: `[N, C, *] -> [N, C * window, L]` for im2col."""
    x = ctx.moved(0)
    if ctx.op == "im2col":
        tied = ctx.alg.tie_across(x, range(2, x.rank), "windows run over it")
        flat = Labels((x.shape[0], x.shape[1], 1), tuple(f for f in tied.factors))
        out = ctx.out_shape()
        window = out[1] // x.shape[1]
        spread = ctx.alg.tile(flat, (1, 1, window))
        wide = ctx.alg.reshape(
            Labels(spread.shape, tuple(f for f in spread.factors if 2 not in f.axes)),
            (x.shape[0], x.shape[1] * window),
        )
        ctx.set(Labels(out, wide.factors))
        return
    axis = int(ctx.arg("dimension")) % x.rank
    tied = ctx.alg.tie_across(x, [axis], "windows run over it")
    ctx.set(tied.factors)
