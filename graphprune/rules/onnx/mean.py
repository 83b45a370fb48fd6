"""Mul and Div, and the means that are written with them: a ReduceSum times 1 / C, or divided by C.

Exact against a zero mask such a mean would still divide by C when C' channels are left, and what
is normalised with it would shrink (tf2onnx and jax write LayerNorm by hand). It is therefore a
statistic like ReduceMean: taken over what is kept, and noted in the plan. The statistics node is
the Mul or Div; the axes are those of the ReduceSum's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from graphprune.rules.context import OpContext
from graphprune.rules.onnx.reduce import reduced_axes
from graphprune.rules.registry import op_rule
from graphprune.rules.resize import Resize
from graphprune.rules.shared.elementwise import pointwise

_SUMS = ("ReduceSum", "ReduceSumSquare", "ReduceL1")
_VIEWS = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Transpose")
_CLOSE = 1e-5


def summed(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The sum that a Mul or Div scales, seen through views, and which input the factor is."""
    if node.op_type not in ("Mul", "Div") or node.domain not in ("", "ai.onnx"):
        return None
    for place in (1, 0) if node.op_type == "Mul" else (1,):
        value = node.inputs[1 - place]
        producer = None if value is None else value.producer()
        while producer is not None and producer.op_type in _VIEWS:
            value = producer.inputs[0]
            producer = None if value is None else value.producer()
        if producer is not None and producer.op_type in _SUMS:
            return producer, place
    return None


def mean_axes(ctx: OpContext) -> list[int] | None:
    """Axes of the sum's input over which this Mul or Div makes a mean; None where it does not."""
    found = summed(ctx.node)
    if found is None:
        return None
    total, place = found[0], found[1]
    factor, value = ctx.const(place), ctx.node.inputs[place]
    if factor is None or value is None or factor.size != 1 or factor.dtype.kind in "biu":
        return None
    if value.is_graph_input():
        return None
    there = ctx.beside(total)
    axes = reduced_axes(there, len(there.shape(0)))
    if not axes:
        return None
    if value.is_initializer() and any(there.dynamic(0, a) for a in axes):
        return None  # a constant cannot follow a size that varies
    count = prod(there.shape(0)[a] for a in axes)
    wanted = np.asarray(count if ctx.node.op_type == "Div" else 1 / count)
    got = factor.reshape(())
    same = got == wanted.astype(got.dtype) or abs(float(got) / float(wanted) - 1) <= _CLOSE
    return axes if same else None


def scaled(contents: np.ndarray, before: int, after: int, *, divisor: bool) -> np.ndarray:
    """The factor of a mean over `after` elements, from that of the mean over `before`.

    What was C or 1 / C to the last bit becomes C' or 1 / C' so.
    """
    one, old, new = (np.asarray(n, contents.dtype) for n in (1, before, after))
    plain = (old, new) if divisor else (one / old, one / new)
    if np.array_equal(contents.reshape(()), plain[0]):
        return np.broadcast_to(plain[1], contents.shape)
    ratio = after / before if divisor else before / after
    return np.asarray(contents.astype(np.float64) * ratio).astype(contents.dtype)


def resize_mean(r: Resize) -> None:
    """The factor of a mean over a cut axis counts what is kept."""
    found = summed(r.node)
    if found is None or not r.statistics:
        return
    there = r.beside(found[0])
    before, after = (_count(shape, r.statistics) for shape in (there.old(0), there.new(0)))
    contents = r.const(found[1])
    if contents is not None and before != after:
        divisor = r.node.op_type == "Div"
        r.set_operand(found[1], scaled(contents, before, after, divisor=divisor))


def _count(shape: Sequence[int], axes: Sequence[int]) -> int:
    return prod(shape[a] for a in axes)


@op_rule("", "Mul", "Div", resize=resize_mean)
def scale(ctx: OpContext) -> None:
    """Elementwise; where it makes a mean of a sum, a statistic."""
    pointwise(ctx)
    axes = mean_axes(ctx)
    found = summed(ctx.node)
    if axes is not None and found is not None:
        ctx.statistic(axes, ctx.beside(found[0]).labels(0))
