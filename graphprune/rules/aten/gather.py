"""Lookups: constant indices move labels, those known only at run time pin their axis."""

from __future__ import annotations

import numpy as np

from graphprune.labels import Labels
from graphprune.rules.aten.registry import aten_boundary, aten_rule
from graphprune.rules.base import positive
from graphprune.torch.context import AtenContext

_DATA = "its indices are not known before it runs"


@aten_rule("embedding")
def embedding(ctx: AtenContext) -> None:
    """Weight `[rows, hidden]`, indices: rows stay, hidden channels go on."""
    weight = ctx.moved(0)
    ctx.alg.pin(
        [f for f in weight.factors if f.removal == 0], "a table that is looked up keeps its rows"
    )
    ctx.pin(1, "indices")
    rank = len(ctx.out_shape())
    t = ctx.alg.tie_across(weight, [0], _DATA)
    ctx.set(tuple(f.renamed({1: rank - 1}) for f in t.factors if f.axes == (1,)))


@aten_rule("embedding_bag", "_embedding_bag")
def embedding_bag(ctx: AtenContext) -> None:
    """Rows are summed or averaged: hidden channels go on."""
    weight = ctx.moved(0)
    ctx.alg.pin(
        [f for f in weight.factors if f.removal == 0], "a table that is looked up keeps its rows"
    )
    t = ctx.alg.tie_across(weight, [0], _DATA)
    ctx.set(tuple(f for f in t.factors if f.axes == (1,)))


@aten_rule("index_select")
def index_select(ctx: AtenContext) -> None:
    """Indices of one axis."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim")), t.rank)
    tied = ctx.alg.tie_across(t, [axis], "its elements are looked up by their number")
    ctx.pin(1, "indices")
    ctx.set(tied.factors)


@aten_rule("index", "_unsafe_index")
def index(ctx: AtenContext) -> None:
    """`x[i, :, j]`: indexed axes are looked up, whatever the indices are; the others go on."""
    t = ctx.moved(0)
    given = ctx.call.arguments["indices"]
    indexed = [a for a, node in enumerate(given) if node is not None]
    for i in ctx.list_at("indices"):
        if ctx.has(i):
            ctx.pin(i, "indices")
    tied = ctx.alg.tie_across(t, indexed, "its elements are looked up by their number")
    shapes = [ctx.shape(i) for i in ctx.list_at("indices") if ctx.has(i)]
    kinds = {str(given[a].meta["val"].dtype) for a in indexed}
    if "torch.bool" in kinds:
        ctx.alg.pin(tied.factors, _DATA)
        return
    grown = len(np.broadcast_shapes(*shapes))
    together = indexed == list(range(indexed[0], indexed[-1] + 1))
    place = indexed[0] if together else 0
    free = [a for a in range(t.rank) if a not in indexed]
    names = {a: i if i < place else i + grown for i, a in enumerate(free)}
    ctx.set(tuple(f.renamed(names) for f in tied.factors if all(a in names for a in f.axes)))


@aten_rule("gather", "take_along_dim")
def gather(ctx: AtenContext) -> None:
    """The index runs over all axes: what is gathered stays, unless the index follows it."""
    t = ctx.moved(0)
    axis = positive(int(ctx.arg("dim", 0)), t.rank)
    tied = ctx.alg.tie_across(t, [axis], _DATA)
    index = ctx.labels(ctx.at("index") or 1)
    shape = tuple(1 if a == axis else n for a, n in enumerate(index.shape))
    view = Labels(shape, tuple(f for f in index.factors if axis not in f.axes))
    own = Labels(tuple(1 if a == axis else n for a, n in enumerate(t.shape)), tied.factors)
    if own.shape != view.shape:
        ctx.boundary(_DATA)
        return
    ctx.set(ctx.alg.meet([own, view]).factors)


aten_boundary(
    *("scatter", "scatter_add", "scatter_reduce", "index_put", "index_add", "index_copy"),
    *("slice_scatter", "select_scatter", "masked_scatter", "take", "put"),
    reason=_DATA,
)
