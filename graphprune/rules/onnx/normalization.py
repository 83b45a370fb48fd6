"""Normalisations. BatchNorm works on each channel alone; the others take statistics over axes, and
where channels leave such an axis the statistics are those of what is kept (noted in the plan)."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.labels import Labels
from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import boundary_rule, op_rule
from graphprune.rules.resize import Resize
from graphprune.rules.shared.conv import channel_operand
from graphprune.rules.shared.normalization import over_statistics, trailing_operands


@op_rule("", "BatchNormalization")
def batch_norm(ctx: OpContext) -> None:
    labels = ctx.labels(0)
    if labels.weight:
        labels = ctx.moved(0)
    if labels.rank > 1:
        for i in range(1, 5):
            labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)
    vectors = [f.renamed({1: 0}) for f in labels.factors if f.axes == (1,)]
    for k in range(1, len(ctx.node.outputs)):  # running statistics, in training mode
        if len(ctx.sizes(ctx.node.outputs[k]) or ()) == 1:
            ctx.set(vectors, k)


@op_rule("", "InstanceNormalization")
def instance_norm(ctx: OpContext) -> None:
    labels = over_statistics(ctx, ctx.moved(0), range(2, len(ctx.shape(0))))
    for i in (1, 2):
        labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)


@op_rule("", "LayerNormalization")
def layer_norm(ctx: OpContext) -> None:
    normalise_tail(ctx, params=(1, 2))


@op_rule("", "RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(ctx: OpContext) -> None:
    normalise_tail(ctx, params=(1,))


def normalise_tail(ctx: OpContext, params: Sequence[int]) -> None:
    """Statistics over the axes from `axis` on, then scale and bias of their shape."""
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", -1)), x.rank)
    labels = over_statistics(ctx, x, range(axis, x.rank))
    labels = trailing_operands(ctx, labels, params)
    ctx.set(labels.factors)
    for i in range(1, len(ctx.node.outputs)):
        rest = [f for f in labels.factors if all(a < axis for a in f.axes)]
        ctx.set(rest, i)


def resize_group_norm(r: Resize) -> None:
    """Whole groups leave, or equally many channels of each."""
    cut = r.cut(0, 1)
    if cut is None:
        return
    groups = int(r.attr("num_groups"))
    inner = cut.size // groups
    touched = len({int(i) // inner for i in cut.kept})
    r.set_attr("num_groups", touched)


@op_rule("", "GroupNormalization", since=18, resize=resize_group_norm)
def group_norm(ctx: OpContext) -> None:
    """Channels split as (group, inner); statistics over inner and all positions."""
    x = ctx.moved(0)
    groups = int(ctx.attr("num_groups"))
    inner = x.shape[1] // groups
    split = ctx.alg.reshape(x, (x.shape[0], groups, inner, *x.shape[2:]))
    split = over_statistics(ctx, split, range(2, split.rank))
    ctx.found.statistics.pop(ctx.node, None)  # its axes were those of the split tensor
    if split.on(2) is not None:
        ctx.found.statistics[ctx.node] = tuple(range(1, x.rank))
    per_group = ctx.shape(1) == (groups,) and inner > 1
    if per_group:
        for i in (1, 2):
            split = channel_operand(ctx, split, i, axis=1)
    labels = ctx.alg.reshape(split, x.shape)
    if not per_group:
        for i in (1, 2):
            labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)


@op_rule("com.microsoft", "SkipLayerNormalization")
def skip_layer_norm(ctx: OpContext) -> None:
    _skip_norm(ctx, params=(2, 3), bias=4)


@op_rule("com.microsoft", "SkipSimplifiedLayerNormalization")
def skip_rms_norm(ctx: OpContext) -> None:
    _skip_norm(ctx, params=(2,), bias=3)


def _skip_norm(ctx: OpContext, params: Sequence[int], bias: int) -> None:
    """y = norm(x + skip + bias); output 3 is the sum."""
    x, skip = ctx.labels(0), ctx.labels(1)
    lead = x.rank - skip.rank
    names = {a: a + lead for a in range(skip.rank)}
    view = Labels(
        (1,) * lead + skip.shape, tuple(f.renamed(names) for f in skip.factors), skip.weight
    )
    met = ctx.alg.meet([x, view])
    if skip.weight:
        ctx.adopt(1, [f.renamed({a + lead: a for a in names}) for f in met.operands[1]])
    elif met.merged:
        ctx.residual()
    labels = trailing_operands(ctx, Labels(x.shape, met.factors), [bias])
    ctx.set(labels.factors, 3)
    labels = over_statistics(ctx, labels, [x.rank - 1])
    labels = trailing_operands(ctx, labels, params)
    ctx.set(labels.factors)
    for i in (1, 2):
        ctx.set((), i)


@op_rule("", "LpNormalization")
def lp_norm(ctx: OpContext) -> None:
    """A norm is neutral to removed zeros: only positions are tied."""
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", -1)), x.rank)
    keep = dict(ctx.found.statistics)
    labels = over_statistics(ctx, x, [axis])
    ctx.found.statistics = keep
    ctx.set(labels.factors)


@op_rule("", "MeanVarianceNormalization")
def mean_variance(ctx: OpContext) -> None:
    x = ctx.moved(0)
    axes = [positive(int(a), x.rank) for a in ctx.attr("axes", [0, 2, 3])]
    ctx.set(over_statistics(ctx, x, axes).factors)


boundary_rule("", "LRN", reason="it normalises over neighbouring channels")
