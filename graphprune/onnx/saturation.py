"""What models are compared by: what goes into the softmax, sigmoid or ArgMax that makes an output.

Behind these a badly damaged model can look unharmed, or all damage alike, and errors have no gradient.
Some exporters write them out: `exp(x - max) / sum(exp(x - max))`, `1 / (1 + exp(-x))`.
"""

from __future__ import annotations

import onnx_ir as ir

from graphprune.onnx.operands import VIEWS, op_names
from graphprune.rules.context import is_weight

_SATURATING = op_names("Softmax LogSoftmax Sigmoid HardSigmoid ArgMax ArgMin Hardmax")
_VIEWS = VIEWS | {"Cast"}
_SPREAD = _VIEWS | {"Expand"}


def before_saturation(value: ir.Value) -> ir.Value:
    """What goes into the last saturating op in front of `value`, views aside; else `value`."""
    here = value
    while (node := _ours(here)) is not None:
        source = node.inputs[0] if node.op_type in _SATURATING else _written_out(node)
        if source is not None:
            return source if source.producer() is not None else value
        if node.op_type not in _VIEWS or node.inputs[0] is None:
            break
        here = node.inputs[0]
    return value


def _written_out(node: ir.Node) -> ir.Value | None:
    """The x of a softmax or a sigmoid of which `node` is the division."""
    if node.op_type == "Div":
        above, below = node.inputs[0], node.inputs[1]
    elif node.op_type == "Reciprocal":
        above, below = None, node.inputs[0]
    elif node.op_type == "Mul":
        above, below = _reciprocal(node)
    else:
        return None
    if below is None:
        return None
    if above is not None and (exp := _made_by(above, "Exp")) is not None:
        total = _made_by(_behind(below), "ReduceSum")
        return _unshifted(exp.inputs[0]) if total is not None and total.inputs[0] is above else None
    add = _made_by(below, "Add")
    if add is None or (above is not None and not is_weight(above)):
        return None
    for term in add.inputs:
        exp = None if term is None else _made_by(term, "Exp")
        if exp is not None and exp.inputs[0] is not None:
            negated = _made_by(exp.inputs[0], "Neg")
            return exp.inputs[0] if negated is None else negated.inputs[0]
    return None


def _reciprocal(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """`a * (1 / b)` as (a, b)."""
    for i in (0, 1):
        value = node.inputs[i]
        one_over = None if value is None else _made_by(_behind(value), "Reciprocal")
        if one_over is not None:
            return node.inputs[1 - i], one_over.inputs[0]
    return None, None


def _unshifted(value: ir.Value | None) -> ir.Value | None:
    """x where `value` is x less its own greatest, which a softmax does not see."""
    sub = None if value is None else _made_by(value, "Sub")
    if sub is None or sub.inputs[1] is None:
        return value
    shift = _behind(sub.inputs[1])
    limited = _made_by(shift, "Max")  # by a constant
    found = (_made_by(v, "ReduceMax") for v in ([shift] if limited is None else limited.inputs))
    known = any(node is not None and node.inputs[0] is sub.inputs[0] for node in found)
    return sub.inputs[0] if known else value


def _behind(value: ir.Value) -> ir.Value:
    """What a value is a view of, or spread from."""
    while (node := _ours(value)) is not None and node.op_type in _SPREAD:
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def _made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    node = None if value is None else _ours(value)
    return node if node is not None and node.op_type == op else None


def _ours(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    return node if node is not None and node.inputs and node.domain in ("", "ai.onnx") else None
