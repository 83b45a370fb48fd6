"""Movement ops on index tensors: `take(op(i), cuts) == op(take(i, cuts))`.

An op that only moves elements (Reshape, Transpose, Slice, ...) is run twice, in numpy, on an array
that holds every element's own index: as the original has it, then shortened by the plan; and as the
pruned graph has it, on the indices shortened first. Where both agree, the pruned op moves exactly
the kept elements to where the plan says they go. Axes that no cut touches and the op does not mix
with others are shortened to one or two entries first, which makes this a matter of milliseconds.

An elementwise op is checked as the broadcast of each operand to the shape of its result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphprune.certify.moves import (
    MOVES,
    VARIADIC,
    Array,
    Dims,
    Move,
    Place,
    UncheckedError,
)
from graphprune.cut import Cut, take

__all__ = ["Dims", "Move", "UncheckedError", "check_move", "data_inputs", "is_movement"]

_MOST_ELEMENTS = 1 << 24


def check_move(
    op: str,
    original: Move,
    pruned: Move,
    input_cuts: Sequence[Sequence[Cut]],
    output_cuts: Sequence[Sequence[Cut]],
) -> str:
    """Why the pruned op does not move what is kept to where it belongs; empty where it does.

    Args:
        op: A movement op; `Expand` for the broadcast of an elementwise op's operand.
        original: The op in the original.
        pruned: Its counterpart; with as many data inputs and outputs.
        input_cuts: Cuts of each data input.
        output_cuts: Cuts of each output.

    Raises:
        UncheckedError: See there.
    """
    for mine, theirs in zip(
        (*original.inputs, *original.outputs), (*pruned.inputs, *pruned.outputs), strict=True
    ):
        if len(mine) != len(theirs):
            return f"has a {len(theirs)}-d operand or result where the original's is {len(mine)}-d"
    move, link = MOVES[op]
    tracked = {
        (side, which, axis)
        for side, several in (("in", input_cuts), ("out", output_cuts))
        for which, cuts in enumerate(several)
        for cut in cuts
        for axis in (cut.axis, *cut.blocks)
    }
    idle = [places for places in link(original) if not tracked & set(places)]
    before, after = _collapsed(original, idle), _collapsed(pruned, idle)
    if sum(math.prod(d) for d in (*before.inputs, *before.outputs)) > _MOST_ELEMENTS:
        raise UncheckedError("too many elements to follow one by one")
    index: list[Array] = []
    start = 0
    for dims in before.inputs:
        size = math.prod(dims)
        index.append(np.arange(start, start + size).reshape(dims))
        start += size
    want = [take(a, c) for a, c in zip(move(before, index), output_cuts, strict=True)]
    short = [take(a, c) for a, c in zip(index, input_cuts, strict=True)]
    try:
        got = move(after, short)
    except (ValueError, IndexError, TypeError) as error:
        if isinstance(error, UncheckedError):
            raise
        return f"does not fit what is kept ({error})"
    for which, (w, g) in enumerate(zip(want, got, strict=True)):
        if w.shape != g.shape:
            return f"gives shape {list(g.shape)} instead of {list(w.shape)} at output {which}"
        if not np.array_equal(w, g):
            place = [int(i) for i in np.argwhere(w != g)[0]]
            return f"moves kept entries elsewhere (first at {place} of output {which})"
    return ""


def is_movement(node: ir.Node) -> bool:
    """Whether `check_move` knows the op."""
    return node.domain in ("", "ai.onnx") and node.op_type in MOVES


def data_inputs(node: ir.Node) -> list[int]:
    """Which inputs of a movement op are moved (the others are sizes and indices)."""
    if node.op_type in VARIADIC:
        return [i for i, v in enumerate(node.inputs) if v is not None]
    return [0]


def _collapsed(move: Move, idle: Sequence[Sequence[Place]]) -> Move:
    """`move` on short axes where no cut is: two entries still tell axes apart, one of a whole
    group that is regrouped suffices (its dims say how)."""
    inputs, outputs = [list(d) for d in move.inputs], [list(d) for d in move.outputs]
    for places in idle:
        longest = 2 if len({p[:2] for p in places}) == len(places) else 1
        for side, which, axis in places:
            dims = (inputs if side == "in" else outputs)[which]
            dims[axis] = min(dims[axis], longest)
    return replace(
        move,
        inputs=tuple(tuple(d) for d in inputs),
        outputs=tuple(tuple(d) for d in outputs),
    )
