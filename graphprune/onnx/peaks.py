"""Values of which only the largest of each channel goes on: those in front of a global maximum.

What such a value is elsewhere counts for nothing, unless it comes out above the largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import onnx_ir as ir

from graphprune.onnx.operands import ELEMENTWISE, VIEWS, op_names
from graphprune.rules.context import is_weight

_FIRST_OPERAND = VIEWS | op_names("Clip Dropout Slice")
_MAXIMA = op_names("GlobalMaxPool MaxPool ReduceMax")


def global_maximum(
    value: ir.Value, dims: Mapping[str, Sequence[int]], axes: Sequence[int]
) -> ir.Value | None:
    """What the maximum over all places of `value` makes; None where anything else is made of it.

    Elementwise ops with constants, or with one another, may stand between, and views. Sizes tell over
    which axes the maximum is: None, too, where channels are as many as places are along some axes.

    Args:
        value: An activation, of which the first axis counts samples.
        dims: Shapes by name.
        axes: Those that count channels; the others but the first count places.
    """
    shape = tuple(dims.get(value.name or "", ()))
    counted = {a % len(shape) for a in axes} if shape else set()
    channels = math.prod(shape[a] for a in counted)
    size, wanted = math.prod(shape), math.prod(shape[:1]) * channels
    if 0 in counted or not 0 < wanted < size or _ways(shape[1:], channels) > 1:
        return None
    reached, waiting = {value}, [value]
    ends: list[ir.Node] = []
    while waiting:
        here = waiting.pop()
        if here.is_graph_output():
            return None
        for use in here.uses():
            node = use.node
            if node.op_type == "Shape":
                continue
            made = math.prod(dims.get(node.outputs[0].name or "", (0,)))
            if node.op_type in _MAXIMA and made == wanted:
                ends.append(node)
            elif not _keeps_places(node) or made != size:
                return None
            elif node.outputs[0] not in reached:
                reached.add(node.outputs[0])
                waiting.append(node.outputs[0])
    passed = (v.producer() for v in reached - {value})
    if len(ends) != 1 or not all(n is not None and _closed(n, reached) for n in passed):
        return None
    return ends[0].outputs[0]


def _ways(sizes: Sequence[int], product: int) -> int:
    """How many choices of axes have this product; an axis of one element makes no difference."""
    longer = [s for s in sizes if s > 1]
    every = (c for n in range(len(longer) + 1) for c in combinations(longer, n))
    return sum(math.prod(c) == product for c in every)


def _keeps_places(node: ir.Node) -> bool:
    return node.op_type in _FIRST_OPERAND or node.op_type in ELEMENTWISE


def _closed(node: ir.Node, reached: set[ir.Value]) -> bool:
    """Whether a node reads nothing but what was reached, and constants."""
    data = node.inputs[:1] if node.op_type in _FIRST_OPERAND else node.inputs
    return all(v is None or v in reached or is_weight(v) for v in data)
