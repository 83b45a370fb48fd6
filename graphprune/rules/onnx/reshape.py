"""Reshape, Flatten, Squeeze, Unsqueeze, Transpose: axes are re-bracketed or permuted."""

from __future__ import annotations

import numpy as np

from graphprune.rules.context import OpContext
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize


def resize_reshape(r: Resize) -> None:
    """Entries that name a size become the new size; 0 (copy) and -1 (infer) stay."""
    target = r.const(1) if r.has(1) else None
    old, new = r.old_out(), r.new_out()
    if old == new:
        return
    if target is None:
        shape = r.attr("shape")
        if shape is not None:  # opset < 5
            named = zip(map(int, shape), new, strict=True)
            r.set_attr("shape", [n if e > 0 else e for e, n in named])
        return
    entries = target.astype(np.int64)
    r.set_operand(1, np.where(entries > 0, np.array(new, np.int64), entries))


def resize_squeeze(r: Resize) -> None:
    """Without axes every axis of one element goes; one that only now has one element must stay."""
    if r.has(1) or r.attr("axes") is not None or r.old(0) == r.new(0):
        return
    axes = [a for a, n in enumerate(r.old(0)) if n == 1]
    if r.opset < 13:
        r.set_attr("axes", axes)
    else:
        r.set_operand(1, np.array(axes, np.int64))


@op_rule("", "Reshape", resize=resize_reshape)
@op_rule("", "Squeeze", resize=resize_squeeze)
@op_rule("", "Flatten", "Unsqueeze")
def reshape(ctx: OpContext) -> None:
    ctx.set(ctx.alg.reshape(ctx.moved(0), ctx.out_shape()))


@op_rule("", "Transpose")
def transpose(ctx: OpContext) -> None:
    x = ctx.moved(0)
    order = [int(a) for a in ctx.attr("perm", reversed(range(x.rank)))]
    ctx.set(ctx.alg.transpose(x, order))
