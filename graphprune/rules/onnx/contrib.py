"""What is left of onnxruntime's fused ops (com.microsoft): norms, gates, boundaries.

Source: onnxruntime docs/ContribOperators.md.
"""

from __future__ import annotations

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext
from graphprune.rules.registry import op_rule, registry
from graphprune.rules.resize import Resize
from graphprune.rules.shared.attention import whole_blocks
from graphprune.rules.shared.conv import channel_operand
from graphprune.rules.shared.elementwise import broadcast_meet

_MS = "com.microsoft"
_GROUP = "the statistics of a group run over it"
_EMBEDDED = "it is normalised inside the op that looks it up"
_IDS = "it holds ids"


def resize_group_norm(r: Resize) -> None:
    """`groups`: whole groups leave."""
    groups = int(r.attr("groups"))
    axis = len(r.old(0)) - 1 if r.attr("channels_last", 1) else 1
    r.set_attr("groups", groups * r.new(0)[axis] // r.old(0)[axis])


@op_rule(_MS, "GroupNorm", "SkipGroupNorm", resize=resize_group_norm)
def group_norm(ctx: OpContext) -> None:
    """X `[batch, ..., channels]`, gamma, beta, and for SkipGroupNorm skip and bias."""
    x = ctx.moved(0)
    axis = x.rank - 1 if ctx.attr("channels_last", 1) else 1
    if ctx.node.op_type == "SkipGroupNorm":
        x = _with_skip(ctx, x)
        ctx.set(x.factors, 1)
    groups = int(ctx.attr("groups"))
    split = ctx.alg.reshape(
        x, (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    )
    positions = [a for a in range(1, split.rank) if a not in (axis, axis + 1)]
    split = ctx.alg.tie_across(split, positions, "statistics run over these positions")
    split = whole_blocks(ctx.alg, split, axis, axis + 1, _GROUP)
    labels = ctx.alg.reshape(split, x.shape)
    for i in (1, 2):
        labels = channel_operand(ctx, labels, i, axis=axis)
    ctx.set(labels.factors)


def _with_skip(ctx: OpContext, x: Labels) -> Labels:
    """x + skip + bias; skip may be `[batch, channels]` or have positions of size 1."""
    skip = ctx.moved(3)
    if skip.rank == 2:
        skip = ctx.alg.reshape(skip, (skip.shape[0], *[1] * (x.rank - 2), skip.shape[1]))
    met = ctx.alg.meet([x, skip], create=[])
    if met.merged:
        ctx.residual()
    x = Labels(x.shape, met.factors)
    return channel_operand(ctx, x, 4, axis=x.rank - 1) if ctx.has(4) else x


@op_rule(_MS, "BiasAdd")
def bias_add(ctx: OpContext) -> None:
    """x + bias + skip."""
    met = broadcast_meet(ctx, (0, 1, 2))
    if met.merged:
        ctx.residual()
    ctx.set(met.factors)


@op_rule(_MS, "BiasSplitGelu")
def bias_split_gelu(ctx: OpContext) -> None:
    """(x + bias) in two halves: one times the GELU of the other."""
    met = broadcast_meet(ctx, (0, 1))
    x = Labels(met.shape, met.factors)
    half = x.shape[-1] // 2
    last = x.rank - 1
    left, right = (ctx.alg.slice(x, last, k * half, (k + 1) * half, 1) for k in (0, 1))
    ctx.set(ctx.alg.meet([left, right]).factors)


@op_rule(_MS, "EmbedLayerNormalization")
def embed_layer_norm(ctx: OpContext) -> None:
    """Tables of words, positions and segments, summed and normalised: their width stays.

    The masked original would need statistics over what is kept of a sum that is no tensor of the
    graph.
    """
    width = ctx.out_shape()[2]
    labels = ctx.alg.space.fresh(width)
    ctx.alg.space.pin(labels, _EMBEDDED)
    for i in (2, 3, 4, 5, 6):
        if ctx.has(i):
            ctx.pin(i, _EMBEDDED)
            ctx.adopt(i, [Factor((len(ctx.shape(i)) - 1,), labels)])
    for i in (0, 1, 7, 8):
        ctx.pin(i, _IDS)
    ctx.set([Factor((2,), labels)])
    ctx.set([Factor((2,), labels)], 2)


@op_rule(
    _MS,
    *("NhwcConv", "NhwcFusedConv", "NhwcMaxPool"),
    boundary="its layout was made for one runtime: prune the model before it is optimised",
)
@op_rule(_MS, "MoE", "QMoE", boundary="the experts inside the op are not looked into")
@op_rule(
    _MS, "DynamicQuantizeLSTM", boundary="its quantised gates are packed for onnxruntime's kernel"
)
@op_rule(_MS, "MatMulBnb4", boundary="its weight is packed as one row of blocks")
@op_rule(_MS, "QEmbedLayerNormalization", boundary=_EMBEDDED)
def fixed(ctx: OpContext) -> None:
    """Nothing of it leaves."""
    rule = registry.find(ctx.node.domain, ctx.node.op_type, None)
    assert rule is not None
    ctx.boundary(rule.boundary)
