"""Which values of the pruned graph are to be what they are in the original.

The outputs (in front of a closing softmax or sigmoid, whose errors vanish where it saturates), and
the outputs of blocks: sums of two branches that come from different layers. Where a graph has few
of those, outputs of layers spread over its depth, or what a global maximum makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphprune.cut import Cut
from graphprune.onnx.channels import LAYERS, channels_first
from graphprune.onnx.operands import op_names
from graphprune.onnx.peaks import global_maximum
from graphprune.onnx.saturation import before_saturation
from graphprune.onnx.shapes import infer_shapes
from graphprune.plan import Plan
from graphprune.rules.context import is_weight

MOST = 12
"""Values inside the graph that are matched, at most."""

FEW = 4
"""With fewer block outputs than this, outputs of layers are added."""

_SUMS = op_names("Add SkipLayerNormalization SkipSimplifiedLayerNormalization")
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@dataclass(frozen=True, eq=False)
class Match:
    """A value of both graphs.

    Attributes:
        name: Of the value.
        cuts: What the plan takes from it.
        axis: The axis of its channels.
        output: Whether it stands for an output of the model.
    """

    name: str
    cuts: tuple[Cut, ...]
    axis: int
    output: bool


def find_matches(original: ir.Model, pruned: ir.Model, plan: Plan) -> tuple[Match, ...]:
    """Outputs first, then values inside, in graph order.

    Args:
        original: Canonical.
        pruned: What the plan made of it.
        plan: What was cut.
    """
    known = infer_shapes(original, plan.binding)
    there = {o.name for node in pruned.graph for o in node.outputs if o.name}

    def match(value: ir.Value, output: bool) -> Match | None:
        name, dims = value.name or "", known.dims.get(value)
        cuts = tuple(plan.tensors.get(name, ()))
        if name not in there or not dims or value in known.values or any(c.dynamic for c in cuts):
            return None
        if known.dtypes.get(value) not in _FLOATS or is_weight(value):
            return None
        axis = cuts[0].axis if cuts else (1 if channels_first(value) else len(dims) - 1)
        return Match(name, cuts, axis, output)

    outputs = [match(before_saturation(v), True) or match(v, True) for v in original.graph.outputs]
    found = {m.name: m for m in outputs if m is not None}
    blocks = [m for v in _blocks(original, known.dims) if (m := match(v, False))]
    inside = _spread([m for m in blocks if m.name not in found], MOST)
    if len(inside) < FEW:
        names = {m.name for m in inside} | set(found)
        dims = {v.name: d for v, d in known.dims.items() if v.name}
        values = [_counting(v, dims) for v in _layers(original)]
        layers = [m for v in values if (m := match(v, False)) and m.name not in names]
        inside += _spread(layers, FEW + 2 - len(inside))
        order = {v.name: i for i, n in enumerate(original.graph) for v in n.outputs}
        inside.sort(key=lambda m: order[m.name])
    return (*found.values(), *inside)


def _spread(matches: Sequence[Match], most: int) -> list[Match]:
    """At most so many, evenly over the graph, the last one included."""
    count = len(matches)
    if count <= most:
        return list(matches)
    return [matches[(i + 1) * count // most - 1] for i in range(most)]


def _layers(model: ir.Model) -> list[ir.Value]:
    """Outputs of layers with weights; of a MatMul with the bias behind it."""
    found = []
    for node in model.graph:
        if node.op_type not in LAYERS or not any(map(_is_weight, node.inputs)):
            continue
        value = node.outputs[0]
        uses = list(value.uses())
        biased = len(uses) == 1 and uses[0].node.op_type == "Add"
        if biased and any(map(_is_weight, uses[0].node.inputs)):
            value = uses[0].node.outputs[0]
        found.append(value)
    return found


def _counting(value: ir.Value, dims: Mapping[str, tuple[int, ...]]) -> ir.Value:
    """What is left of a layer's output in front of the next layer: places may not count one by one."""
    largest = global_maximum(value, dims, (1 if channels_first(value) else -1,))
    return value if largest is None else largest


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and is_weight(value)


def _blocks(model: ir.Model, dims: Mapping[ir.Value, tuple[int, ...]]) -> list[ir.Value]:
    """Sums of two activations of one shape, of which one passed a layer that the other did not."""
    layers: dict[ir.Value, frozenset[ir.Node]] = {}
    found = []
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None and not is_weight(v)]
        behind = frozenset[ir.Node]().union(*(layers.get(v, frozenset()) for v in inputs))
        here = frozenset([node]) if node.op_type in LAYERS else behind
        layers.update(dict.fromkeys(node.outputs, here))
        if node.op_type in _SUMS and len(inputs) >= 2:
            a, b = inputs[:2]
            alike = dims.get(a) == dims.get(b) != None  # noqa: E711
            differ = layers.get(a, frozenset()) != layers.get(b, frozenset())
            scores = any(u.node.op_type == "Softmax" for u in node.outputs[0].uses())
            if alike and differ and not scores:
                found.append(node.outputs[0])
    return found
