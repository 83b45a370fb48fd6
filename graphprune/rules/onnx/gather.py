"""Gather and scatter: constant indices move labels, those known only at run time pin their axis."""

from __future__ import annotations

import numpy as np

from graphprune.labels import Factor, Labels
from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import boundary_rule, op_rule
from graphprune.rules.resize import Resize

_DATA = "its indices are not known before it runs"
_SIZED = "how many of its elements are looked up depends on a dynamic size"


def resize_gather(r: Resize) -> None:
    """Constant indices are renumbered; those of removed elements are dropped."""
    indices = r.const(1)
    rank = len(r.old(0))
    axis = positive(int(r.attr("axis", 0)), rank)
    cut = r.cut(0, axis)
    if indices is None or cut is None:
        return
    kept = cut.kept.reshape(-1, cut.count)[0]
    position = np.full(cut.size, -1, np.int64)
    position[kept] = np.arange(cut.count)
    new = position[np.where(indices < 0, indices + cut.size, indices)]
    shape = r.new_out()[axis : axis + indices.ndim]
    r.set_operand(1, new[new >= 0].reshape(shape).astype(indices.dtype))


@op_rule("", "Gather", resize=resize_gather)
def gather(ctx: OpContext) -> None:
    t = ctx.labels(0)
    axis = positive(int(ctx.attr("axis", 0)), t.rank)
    indices = ctx.const(1)
    if t.weight:  # a table: its rows are looked up, its other axes make labels
        others = [a for a in range(t.rank) if a != axis and t.shape[a] > 1]
        factors = tuple(Factor((a,), ctx.alg.space.fresh(t.shape[a])) for a in others)
        ctx.adopt(0, factors)
        t = Labels(t.shape, factors)
    sized = indices is not None and any(ctx.dynamic(1, a) for a in range(indices.ndim))
    if indices is None or sized:  # sized: positions, of which more are looked up in longer inputs
        index = ctx.labels(1)
        ctx.alg.pin(index.factors, "indices of a lookup")
        t = ctx.alg.tie_across(t, [axis], _SIZED if sized else _DATA)
        grow = index.rank - 1
        names = {a: a if a < axis else a + grow for a in range(t.rank) if a != axis}
        ctx.set(tuple(f.renamed(names) for f in t.factors))
        return
    if ctx.dynamic(0, axis):
        t = ctx.alg.tie_across(t, [axis], "it is looked up in an axis of dynamic length")
    ctx.set(ctx.alg.gather(t, axis, indices))


@op_rule("", "GatherElements")
def gather_elements(ctx: OpContext) -> None:
    """Looks up along one axis, every other position for itself."""
    t, index = ctx.moved(0), ctx.moved(1)
    axis = positive(int(ctx.attr("axis", 0)), t.rank)
    t = ctx.alg.tie_across(t, [axis], _DATA)
    index = ctx.alg.tie_across(index, [axis], "indices of a lookup")
    differ = [a for a in range(t.rank) if a != axis and t.shape[a] != index.shape[a]]
    t = ctx.alg.tie_across(t, differ, _DATA)
    index = ctx.alg.tie_across(index, differ, _DATA)
    space = tuple(1 if a == axis or a in differ else n for a, n in enumerate(t.shape))
    met = ctx.alg.meet([Labels(space, t.factors), Labels(space, index.factors)])
    ctx.set(met.factors)


@op_rule("", "GatherND")
def gather_nd(ctx: OpContext) -> None:
    """[batch, looked up, rest], indices [batch, ..., k] -> [batch, ..., rest]."""
    t = ctx.moved(0)
    ctx.pin(1, "indices of a lookup")
    batch = int(ctx.attr("batch_dims", 0))
    depth = ctx.shape(1)[-1]
    t = ctx.alg.tie_across(t, range(batch + depth), _DATA)
    grow = len(ctx.shape(1)) - 1 - batch - depth
    names = {a: a + grow for a in range(batch + depth, t.rank)}
    ctx.set(tuple(f.renamed(names) for f in t.factors))


@op_rule("", "ScatterND")
def scatter_nd(ctx: OpContext) -> None:
    """Writes whole rows: data and updates meet on the axes behind the indexed ones."""
    t, updates = ctx.moved(0), ctx.moved(2)
    ctx.pin(1, "indices of a write")
    depth = ctx.shape(1)[-1]
    lead = len(ctx.shape(1)) - 1
    t = ctx.alg.tie_across(t, range(depth), "its rows are written by index")
    updates = ctx.alg.tie_across(updates, range(lead), "its rows are written by index")
    names = {lead + i: i for i in range(t.rank - depth)}
    behind = tuple(f.renamed({a: a - depth for a in f.axes}) for f in t.factors)
    rows = Labels(t.shape[depth:], behind)
    tail = Labels(updates.shape[lead:], tuple(f.renamed(names) for f in updates.factors))
    met = ctx.alg.meet([rows, tail])
    ctx.set(tuple(f.renamed({a: a + depth for a in f.axes}) for f in met.factors))


boundary_rule(
    "", "ScatterElements", "Scatter", "TensorScatter", reason="it writes single elements by index"
)
boundary_rule("", "NonMaxSuppression", reason="it selects boxes by their scores")
boundary_rule("", "NonZero", "Unique", "Compress", reason="its result depends on the data")
boundary_rule("", "OneHot", reason="it makes as many classes as it is told")
boundary_rule("", "EyeLike", "Trilu", "Det", reason="it works on whole matrices")
