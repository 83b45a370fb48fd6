"""Normalisations. BatchNorm works on each channel alone; the others take statistics over axes, and
where channels leave such an axis the statistics are those of what is kept (noted in the plan)."""

from __future__ import annotations

from graphprune.rules.aten.registry import aten_boundary, aten_rule
from graphprune.rules.base import positive
from graphprune.rules.shared.conv import channel_operand
from graphprune.rules.shared.normalization import over_statistics, trailing_operands
from graphprune.torch.call import Call
from graphprune.torch.context import AtenContext
from graphprune.torch.resize import AtenResize

_WEIGHT_NORM = (
    "weight_norm takes a norm over it: bake it in first "
    "(torch.nn.utils.parametrize.remove_parametrizations)"
)


@aten_rule(
    *("batch_norm", "native_batch_norm", "_native_batch_norm_legit"),
    *("_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training"),
)
def batch_norm(ctx: AtenContext) -> None:
    """Scale, bias, running mean and variance of each channel (axis 1).

    In train mode, and where nothing is running (a standardised weight), statistics run over all
    other axes.
    """
    labels = ctx.moved(0)
    if ctx.arg("training", False) is not False or ctx.at("running_mean") is None:
        labels = over_statistics(ctx, labels, [a for a in range(labels.rank) if a != 1])
    for i in range(1, 5):
        if ctx.has(i):
            labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)
    vectors = [f.renamed({1: 0}) for f in labels.factors if f.axes == (1,)]
    for k in (1, 2):  # statistics that the backward pass wants; empty in evaluation mode
        if ctx.result(k) is not None and ctx.out_shape(k) == labels.shape[1:2]:
            ctx.set(vectors, k)


@aten_rule("instance_norm")
def instance_norm(ctx: AtenContext) -> None:
    """Statistics of every image and channel over its positions."""
    x = ctx.moved(0)
    labels = over_statistics(ctx, x, range(2, x.rank))
    for i in range(1, 5):
        if ctx.has(i):
            labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)


def resize_shape(r: AtenResize) -> None:
    """`normalized_shape`: the trailing sizes."""
    shape = list(r.call.arguments["normalized_shape"])
    r.set("normalized_shape", list(r.new("input")[-len(shape) :]))


@aten_rule("layer_norm", "native_layer_norm", resize=resize_shape)
def layer_norm(ctx: AtenContext) -> None:
    """Statistics over the last axes, then scale and bias."""
    _tail(ctx, (1, 2))


@aten_rule("rms_norm", resize=resize_shape)
def rms_norm(ctx: AtenContext) -> None:
    """Mean square over the last axes, then a scale."""
    _tail(ctx, (1,))


def _tail(ctx: AtenContext, params: tuple[int, ...]) -> None:
    x = ctx.moved(0)
    count = len(ctx.arg("normalized_shape"))
    labels = over_statistics(ctx, x, range(x.rank - count, x.rank))
    ctx.set(trailing_operands(ctx, labels, params).factors)


def _groups(call: Call) -> str:
    """The native op calls it otherwise."""
    return "num_groups" if "num_groups" in call.arguments else "group"


def resize_groups(r: AtenResize) -> None:
    """Whole groups leave, or equally many channels of each."""
    cut = r.cut("input", 1)
    if cut is not None:
        name = _groups(r.call)
        inner = cut.size // int(r.arg(name))
        r.set(name, len({int(i) // inner for i in cut.kept.reshape(-1)}))
        if name == "group":
            r.set("C", cut.count)


@aten_rule("group_norm", "native_group_norm", resize=resize_groups)
def group_norm(ctx: AtenContext) -> None:
    """Channels split as (group, inner); statistics over inner and all positions."""
    x = ctx.moved(0)
    groups = int(ctx.arg(_groups(ctx.call)))
    split = ctx.alg.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    split = over_statistics(ctx, split, range(2, split.rank))
    ctx.found.statistics.pop(ctx.node, None)  # its axes were those of the split tensor
    if split.on(2) is not None:
        ctx.found.statistics[ctx.node] = tuple(range(1, x.rank))
    labels = ctx.alg.reshape(split, x.shape)
    for i in (1, 2):
        if ctx.has(i):
            labels = channel_operand(ctx, labels, i, axis=1)
    ctx.set(labels.factors)
    if ctx.op == "native_group_norm":  # means and deviations, `[N, groups]`
        rows = tuple(f for f in split.factors if f.axes == (1,))
        for k in (1, 2):
            ctx.set(rows, k)


@aten_rule("linalg_vector_norm", "norm", "_weight_norm")
def norm(ctx: AtenContext) -> None:
    """A norm is neutral to removed zeros: where it runs over channels it is a sum."""
    if ctx.op == "_weight_norm":
        _weight_norm(ctx)
        return
    x = ctx.moved(0)
    dims = ctx.arg("dim")
    axes = list(range(x.rank)) if dims is None else [positive(int(a), x.rank) for a in _ints(dims)]
    order = ctx.arg("ord", ctx.arg("p", 2))
    reason = "this norm over it is not neutral to removed channels"
    labels = x if order is None or 0 < float(order) < float("inf") else None
    if labels is None:
        labels = ctx.alg.tie_across(x, axes, reason)
    factors = ctx.alg.reduce(labels.factors, axes)
    if ctx.arg("keepdim", False):
        ctx.set(factors)
        return
    left = [a for a in range(x.rank) if a not in axes]
    ctx.set(tuple(f.renamed({a: i for i, a in enumerate(left)}) for f in factors))


def _weight_norm(ctx: AtenContext) -> None:
    """`v * g / |v|`, the norm over all axes but `dim`: it changes with what leaves from them."""
    v = ctx.moved(0)
    axis = positive(int(ctx.arg("dim", 0)), v.rank)
    rest = [a for a in range(v.rank) if a != axis]
    labels = ctx.alg.tie_across(v, rest, _WEIGHT_NORM)
    g = ctx.labels(1)
    met = ctx.alg.meet([labels, g])
    ctx.adopt(1, met.operands[1])
    ctx.set(met.factors)


def _ints(value: object) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value]  # type: ignore[list-item]


aten_boundary("renorm", reason="it normalises over neighbouring channels")
