"""Concat and Split: labels are joined and cut like the data."""

from __future__ import annotations

import numpy as np

from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize


@op_rule("", "Concat")
def concat(ctx: OpContext) -> None:
    parts = [ctx.labels(i) for i in range(len(ctx.node.inputs))]
    axis = positive(int(ctx.attr("axis", 1)), parts[0].rank)
    result, now = ctx.alg.concat(parts, axis)
    for i, part in enumerate(now):
        ctx.adopt(i, part.factors)
    ctx.set(result)


def resize_split(r: Resize) -> None:
    """Sizes are written out where the pieces are no longer what the op would make by default."""
    axis = int(r.attr("axis", 0))
    new = [r.new_out(k)[axis] for k in range(len(r.node.outputs))]
    old = [r.old_out(k)[axis] for k in range(len(r.node.outputs))]
    if new == old:
        return
    if r.has(1):
        r.set_operand(1, np.array(new, np.int64))
        return
    if r.attr("split") is not None:
        r.set_attr("split", new)
        return
    chunk = -(-sum(new) // len(new))
    uneven = r.opset >= 18  # before, pieces without sizes are equal
    default = [min(chunk, sum(new) - k * chunk) if uneven else new[0] for k in range(len(new))]
    if new == default:
        return
    if r.opset < 13:
        r.set_attr("split", new)
    else:
        r.set_operand(1, np.array(new, np.int64))
        r.set_attr("num_outputs", None)


@op_rule("", "Split", resize=resize_split)
def split(ctx: OpContext) -> None:
    x = ctx.moved(0)
    axis = positive(int(ctx.attr("axis", 0)), x.rank)
    start = 0
    for k in range(len(ctx.node.outputs)):
        size = ctx.out_shape(k)[axis]
        ctx.set(ctx.alg.slice(x, axis, start, start + size, 1), k)
        start += size
