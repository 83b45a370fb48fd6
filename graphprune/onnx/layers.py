"""Layers of an ONNX model (`graphprune.analysis.layers`)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

import onnx_ir as ir

from graphprune.analysis.layers import Layer, Step, find_layers
from graphprune.onnx.costs import mac_rule
from graphprune.onnx.operands import op_names
from graphprune.onnx.shapes import Shapes
from graphprune.onnx.subject import origins_of
from graphprune.onnx.trace import captured
from graphprune.rules.context import is_weight
from graphprune.rules.registry import no_macs

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
_SUMS = op_names("Add Sum")
_SUMS_WITH_NORM = op_names("SkipLayerNormalization SkipSimplifiedLayerNormalization")
_SUM_OUTPUT = 3
"""Where these give the sum itself, before the norm."""
_ANONYMOUS = ("onnx::", "val_")


def layers_of(model: ir.Model, shapes: Sequence[Shapes]) -> tuple[Layer, ...]:
    """What of a model can leave as a whole layer or residual block.

    Args:
        model: Canonical.
        shapes: Its sizes at two bindings.
    """
    return find_layers(list(_steps(model, shapes[0])), _kinds(model, shapes))


def _steps(model: ir.Model, shapes: Shapes) -> Iterator[Step]:
    origins = origins_of(model)
    for node in model.graph:
        reads = [*(v for v in node.inputs if v is not None), *captured(node)]
        active = [v for v in reads if not is_weight(v) and v not in shapes.values]
        inputs = tuple(v.name or "" for v in active)
        outputs = tuple(v.name or "" for v in node.outputs)
        rule = mac_rule(model, node)
        ours = node.domain in ("", "ai.onnx")
        fused = node.op_type in _SUMS_WITH_NORM and len(inputs) == 2
        step = Step(
            _kind_of(node),
            inputs,
            outputs,
            adds=fused or (ours and node.op_type in _SUMS and len(inputs) == 2),
            works=rule is not None and rule is not no_macs,
            owner=_owner(node, origins),
        )
        if fused and len(outputs) > _SUM_OUTPUT and outputs[_SUM_OUTPUT]:
            total = (outputs[_SUM_OUTPUT],)
            yield Step("Add", inputs, total, adds=True)
            yield Step(step.op, total, outputs[:_SUM_OUTPUT])
        else:
            yield step


def _kind_of(node: ir.Node) -> str:
    settings = sorted(
        f"{name}={attribute.value}"
        for name, attribute in node.attributes.items()
        if attribute.type != ir.AttributeType.GRAPH
    )
    return f"{node.domain}.{node.op_type}({', '.join(settings)})"


def _owner(node: ir.Node, origins: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """The name that a weight had in the module, where exporters kept it.

    A name without a dot is of a constant that was computed (rotary positions), or tells no place.
    """
    for value in node.inputs:
        if value is None or not is_weight(value) or value.dtype not in _FLOATS:
            continue
        name, _ = origins.get(value.name or "", (value.name or "", ()))
        size = 0 if value.const_value is None else value.const_value.size
        if size > 1 and "." in name and not name.startswith(_ANONYMOUS):
            return name
    return ""


def _kinds(model: ir.Model, shapes: Sequence[Shapes]) -> Mapping[str, Hashable]:
    first = shapes[0]
    values = [v for node in model.graph for v in node.outputs]
    return {
        v.name: (*(s.dims[v] for s in shapes), first.dtypes[v])
        for v in [*model.graph.inputs, *values]
        if v.name
        and first.dtypes.get(v) in _FLOATS
        and v not in first.values
        and all(v in s.dims and v not in s.unknown for s in shapes)
    }
