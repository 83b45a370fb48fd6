"""Slice: starts and ends move with what leaves before them."""

from __future__ import annotations

import numpy as np

from graphprune.cut import Cut
from graphprune.rules.context import OpContext, positive
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize


def normalised(start: int, stop: int, step: int, size: int) -> tuple[int, int, int]:
    """ONNX's clamping, as the arguments of numpy.arange."""
    first = None if step < 0 and start >= size else start
    last = None if step < 0 and stop < -size else stop
    return slice(first, last, step).indices(size)


@op_rule("", "Slice", since=10, resize=lambda r: resize_slice(r))
@op_rule("", "Slice", resize=lambda r: resize_slice(r))
def slice_(ctx: OpContext) -> None:
    t = ctx.moved(0)
    starts, ends = ctx.ints(1, "starts"), ctx.ints(2, "ends")
    axes = ctx.ints(3, "axes")
    steps = ctx.ints(4, "steps")
    if starts is None or ends is None or (ctx.has(3) and axes is None):
        if not ctx.has(3) or ctx.const(3) is None:
            ctx.boundary("what it slices is not known before it runs")
            return
        sliced = [positive(a, t.rank) for a in axes or []]
        t = ctx.alg.tie_across(t, sliced, "what it slices is not known before it runs")
        ctx.set(t.factors)
        return
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps if steps is not None else [1] * len(starts)
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = positive(axis, t.rank)
        if ctx.dynamic(0, at) and t.tracked(at):
            t = ctx.alg.tie_across(t, [at], "an axis of dynamic length is sliced")
        t = ctx.alg.slice(t, at, *normalised(start, stop, step, t.shape[at]))
    ctx.set(t)


def moved_bounds(cut: Cut, start: int, stop: int, step: int) -> tuple[int, int]:
    """Start and stop that pick the same of what is kept (the first row stands for all)."""
    kept = cut.kept.reshape(-1, cut.count)[0]
    first, last, step = normalised(start, stop, step, cut.size)
    picked = np.intersect1d(np.arange(first, last, step), kept)
    if step == 1:
        return int(np.searchsorted(kept, first)), int(np.searchsorted(kept, last))
    if not picked.size:
        return 0, 0
    if step > 0:
        new_start = int(np.searchsorted(kept, picked[0]))
        return new_start, min(new_start + step * (len(picked) - 1) + 1, cut.count)
    new_stop = int(np.searchsorted(kept, picked[0])) - 1
    return int(np.searchsorted(kept, picked[-1])), new_stop if new_stop >= 0 else -cut.count - 1


def resize_slice(r: Resize) -> None:
    by_operand = r.has(1)
    starts = r.const(1) if by_operand else np.array(r.attr("starts"), np.int64)
    ends = r.const(2) if by_operand else np.array(r.attr("ends"), np.int64)
    if starts is None or ends is None:
        return
    rank = len(r.old(0))
    axes = r.const(3) if r.has(3) else r.attr("axes")
    axes = list(range(len(starts))) if axes is None else [positive(int(a), rank) for a in axes]
    steps = r.const(4) if r.has(4) else None
    new_starts, new_ends = starts.copy(), ends.copy()
    for k, axis in enumerate(axes):
        cut = r.cut(0, axis)
        if cut is not None:
            step = 1 if steps is None else int(steps[k])
            new_starts[k], new_ends[k] = moved_bounds(cut, int(starts[k]), int(ends[k]), step)
    if by_operand:
        r.set_operand(1, new_starts)
        r.set_operand(2, new_ends)
    else:
        r.set_attr("starts", new_starts.tolist())
        r.set_attr("ends", new_ends.tolist())
