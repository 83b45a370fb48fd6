"""Conv and ConvTranspose, 1 to 3 spatial dimensions, any groups and multiplier."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.context import OpContext
from graphprune.rules.onnx._macs import conv_macs, conv_transpose_macs
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize
from graphprune.rules.shared.conv import conv_like


def groups_of(ctx: OpContext) -> int:
    """Attribute `group`."""
    return int(ctx.attr("group", 1))


def resize_conv(r: Resize) -> None:
    """`group`: the input channels that are left over the input channels of a kernel."""
    if r.attr("group", 1) == 1:
        return
    if r.node.op_type == "ConvTranspose":
        groups = r.new_out()[1] // r.new(1)[1]
    else:
        groups = r.new(0)[1] // r.new(1)[1]
    r.set_attr("group", groups)


@op_rule("", "Conv", macs=conv_macs, resize=resize_conv)
def conv(ctx: OpContext) -> None:
    ctx.set(conv_like(ctx, 0, 1, 2, groups=groups_of(ctx), transposed=False).factors)


@op_rule("", "ConvTranspose", macs=conv_transpose_macs, resize=resize_conv)
def conv_transpose(ctx: OpContext) -> None:
    ctx.set(conv_like(ctx, 0, 1, 2, groups=groups_of(ctx), transposed=True).factors)


@op_rule("com.microsoft", "FusedConv", macs=conv_macs, resize=resize_conv)
def fused_conv(ctx: OpContext) -> None:
    """Conv, then an optional sum with input 3, then an activation."""
    labels = conv_like(ctx, 0, 1, 2, groups=groups_of(ctx), transposed=False)
    if ctx.has(3):
        other = ctx.labels(3)
        met = ctx.alg.meet([Labels(ctx.out_shape(), labels.factors), other])
        ctx.adopt(3, met.operands[1])
        if met.merged and not other.weight:
            ctx.residual()
        labels = Labels(labels.shape, met.factors)
    ctx.set(labels.factors)
