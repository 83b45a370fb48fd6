"""Concat and stack: labels along the axis are joined, along other axes the parts meet."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.base import positive
from graphprune.torch.context import AtenContext


def _joined(ctx: AtenContext, numbers: list[int], parts: list[Labels], axis: int) -> Labels:
    result, now = ctx.alg.concat(parts, axis)
    for i, part, met in zip(numbers, parts, now, strict=True):
        if part.weight:
            ctx.adopt(i, met.factors)
    return result


@aten_rule("cat", "concat", "concatenate")
def cat(ctx: AtenContext) -> None:
    """Parts of length 0 (an empty cache) count for nothing."""
    numbers = [i for i in ctx.list_at("tensors") if len(ctx.shape(i)) == len(ctx.out_shape())]
    axis = positive(int(ctx.arg("dim", 0)), len(ctx.out_shape()))
    numbers = [i for i in numbers if ctx.shape(i)[axis]] or numbers[:1]
    parts = [ctx.labels(i) for i in numbers]
    if all(part.weight for part in parts):  # nothing that they could adopt from
        parts = [ctx.moved(i) for i in numbers]
    ctx.set(_joined(ctx, numbers, parts, axis))


@aten_rule("stack")
def stack(ctx: AtenContext) -> None:
    """A new axis."""
    axis = positive(int(ctx.arg("dim", 0)), len(ctx.out_shape()))
    numbers = list(ctx.list_at("tensors"))
    parts = [ctx.moved(i) for i in numbers]
    wide = [ctx.alg.reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])) for t in parts]
    result, _ = ctx.alg.concat(wide, axis)
    ctx.set(result)
