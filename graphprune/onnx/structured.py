"""Shapes through control flow (If, Loop, Scan) and sequences of tensors.

Importing this module registers the ops with the sweep. Source: ONNX operator reference.
"""

from __future__ import annotations

import onnx_ir as ir

from graphprune.onnx.operands import attribute
from graphprune.onnx.shape_rules import Dims, Typed
from graphprune.onnx.sweep import Sweep, describe, structured


@structured("If")
def _if(sweep: Sweep, node: ir.Node) -> None:
    """Both branches are swept; outputs come from the taken one where the condition is known."""
    then, other = (node.attributes[n].value for n in ("then_branch", "else_branch"))
    sweep.graph(then)
    sweep.graph(other)
    condition = None if node.inputs[0] is None else sweep.values.get(node.inputs[0])
    for output, a, b in zip(node.outputs, then.outputs, other.outputs, strict=True):
        if condition is not None:
            source = a if bool(condition.reshape(-1)[0]) else b
            _copy(sweep, output, source)
            if source in sweep.values:
                sweep.values[output] = sweep.values[source]
        elif sweep.dims.get(a) == sweep.dims.get(b):
            _copy(sweep, output, a)
        else:
            reason = f"{describe(node)}: branches give different shapes"
            _copy(sweep, output, a if a in sweep.dims else b, reason=reason)


@structured("Loop")
def _loop(sweep: Sweep, node: ir.Node) -> None:
    """Carried values keep their shape or are unknown; scanned ones gain an axis of trips."""
    body: ir.Graph = node.attributes["body"].value
    carried = len(body.inputs) - 2
    sweep.put(body.inputs[0], (ir.DataType.INT64, ()), None)
    sweep.put(body.inputs[1], (ir.DataType.BOOL, ()), None)
    for inner, outer in zip(body.inputs[2:], node.inputs[2:], strict=True):
        if outer is not None:
            _copy(sweep, inner, outer)
    sweep.graph(body)
    trips = _trips(sweep, node, body)
    for index, output in enumerate(node.outputs):
        inner = body.outputs[index + 1]
        if index >= carried:
            _copy(sweep, output, inner, add=(0, trips))
        elif sweep.dims.get(inner) == sweep.dims.get(body.inputs[index + 2]):
            _copy(sweep, output, inner)
        else:
            reason = f"{describe(node)}: a carried shape changes from step to step"
            _copy(sweep, output, inner, reason=reason)


def _trips(sweep: Sweep, node: ir.Node, body: ir.Graph) -> int:
    """How often a Loop runs, -1 where a condition may end it or the count is not known."""
    count = None if node.inputs[0] is None else sweep.values.get(node.inputs[0])
    again = sweep.values.get(body.outputs[0])
    endless = body.outputs[0] is body.inputs[1] or (again is not None and bool(again.all()))
    return int(count.reshape(-1)[0]) if count is not None and endless else -1


@structured("Scan")
def _scan(sweep: Sweep, node: ir.Node) -> None:
    """State keeps its shape, scanned inputs lose an axis, scanned outputs gain one (opset 9+)."""
    body: ir.Graph = node.attributes["body"].value
    scanned = int(attribute(node, "num_scan_inputs"))
    states = len(node.inputs) - scanned
    if len(body.inputs) != len(node.inputs):  # opset 8: batched, with lengths
        for output in node.outputs:
            sweep.put(output, None, f"{describe(node)}: Scan of opset 8 is not supported")
        return
    axes = attribute(node, "scan_input_axes", (0,) * scanned)
    length = -1
    for index, (inner, outer) in enumerate(zip(body.inputs, node.inputs, strict=True)):
        if outer is None:
            continue
        axis = int(axes[index - states]) if index >= states else None
        _copy(sweep, inner, outer, drop=axis)
        if axis is not None and outer in sweep.dims:
            length = sweep.dims[outer][axis]
    sweep.graph(body)
    out_axes = attribute(node, "scan_output_axes", (0,) * (len(node.outputs) - states))
    for index, output in enumerate(node.outputs):
        add = (int(out_axes[index - states]), length) if index >= states else None
        _copy(sweep, output, body.outputs[index], add=add)


def _copy(
    sweep: Sweep,
    target: ir.Value,
    source: ir.Value,
    *,
    drop: int | None = None,
    add: tuple[int, int] | None = None,
    reason: str | None = None,
) -> None:
    """Give `target` the type of `source`, without axis `drop`, with a new axis `add` = (axis,
    size)."""
    if source in sweep.sequences:
        sweep.sequences[target] = sweep.sequences[source]
        return
    dims = sweep.dims.get(source)
    typed: Typed | None = None
    if dims is not None:
        if drop is not None:
            dims = _without(dims, drop)
        if add is not None:
            axis = add[0] + len(dims) + 1 if add[0] < 0 else add[0]
            dims = (*dims[:axis], add[1], *dims[axis:])
        typed = (sweep.dtypes.get(source), dims)
    sweep.put(target, typed, sweep.unknown.get(source) or reason)


def _without(dims: Dims, axis: int) -> Dims:
    axis %= max(len(dims), 1)
    return (*dims[:axis], *dims[axis + 1 :])


# --- sequences ------------------------------------------------------------------------------------


def _typed(sweep: Sweep, value: ir.Value | None) -> Typed | None:
    if value is None or value not in sweep.dims:
        return None
    return (sweep.dtypes.get(value), sweep.dims[value])


def _elements(sweep: Sweep, value: ir.Value | None) -> tuple[Typed, ...] | None:
    return None if value is None else sweep.sequences.get(value)


def _index(sweep: Sweep, node: ir.Node, position: int) -> int | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    array = None if value is None else sweep.values.get(value)
    return None if array is None else int(array.reshape(-1)[0])


@structured("SequenceEmpty")
def _empty(sweep: Sweep, node: ir.Node) -> None:
    sweep.sequences[node.outputs[0]] = ()


@structured("SequenceConstruct")
def _construct(sweep: Sweep, node: ir.Node) -> None:
    elements = [_typed(sweep, v) for v in node.inputs]
    known = tuple(e for e in elements if e is not None)
    _set(sweep, node, known if len(known) == len(elements) else None)


@structured("SequenceInsert", "SequenceErase")
def _insert_or_erase(sweep: Sweep, node: ir.Node) -> None:
    elements = _elements(sweep, node.inputs[0])
    insert = node.op_type == "SequenceInsert"
    place = 2 if insert else 1
    given = len(node.inputs) > place and node.inputs[place] is not None
    index = _index(sweep, node, place)
    new = _typed(sweep, node.inputs[1]) if insert else None
    if elements is None or (given and index is None) or (insert and new is None):
        _set(sweep, node, None)
        return
    items = list(elements)
    if new is not None:
        items.insert(len(items) if index is None else index, new)
    else:
        del items[-1 if index is None else index]
    _set(sweep, node, tuple(items))


@structured("SplitToSequence")
def _split_to_sequence(sweep: Sweep, node: ir.Node) -> None:
    typed = _typed(sweep, node.inputs[0])
    given = node.inputs[1] if len(node.inputs) > 1 else None
    split = None if given is None else sweep.values.get(given)
    if typed is None or (given is not None and split is None):
        _set(sweep, node, None)
        return
    dtype, dims = typed
    axis = int(attribute(node, "axis", 0)) % max(len(dims), 1)
    if split is not None and split.ndim:
        sizes = [int(s) for s in split]
    else:
        step = 1 if split is None else int(split)
        sizes = [min(step, dims[axis] - i) for i in range(0, dims[axis], step)]
    if given is None and not attribute(node, "keepdims", 1):
        _set(sweep, node, ((dtype, _without(dims, axis)),) * dims[axis])
        return
    _set(sweep, node, tuple((dtype, (*dims[:axis], s, *dims[axis + 1 :])) for s in sizes))


@structured("SequenceAt")
def _at(sweep: Sweep, node: ir.Node) -> None:
    elements, index = _elements(sweep, node.inputs[0]), _index(sweep, node, 1)
    if elements and index is not None and -len(elements) <= index < len(elements):
        sweep.put(node.outputs[0], elements[index], None)
    elif elements and all(e == elements[0] for e in elements):
        sweep.put(node.outputs[0], elements[0], None)
    else:
        sweep.put(node.outputs[0], None, f"{describe(node)}: which element depends on data")


@structured("ConcatFromSequence")
def _concat_from_sequence(sweep: Sweep, node: ir.Node) -> None:
    elements = _elements(sweep, node.inputs[0])
    axis = int(attribute(node, "axis"))
    if not elements:
        sweep.put(node.outputs[0], None, f"{describe(node)}: its sequence is not known")
        return
    dtype, dims = elements[0]
    if attribute(node, "new_axis", 0):
        axis = axis + len(dims) + 1 if axis < 0 else axis
        typed: Typed = (dtype, (*dims[:axis], len(elements), *dims[axis:]))
    else:
        axis %= max(len(dims), 1)
        length = sum(e[1][axis] for e in elements)
        typed = (dtype, (*dims[:axis], length, *dims[axis + 1 :]))
    sweep.put(node.outputs[0], typed, None)


@structured("SequenceLength")
def _length(sweep: Sweep, node: ir.Node) -> None:
    sweep.put(node.outputs[0], (ir.DataType.INT64, ()), None)


def _set(sweep: Sweep, node: ir.Node, elements: tuple[Typed, ...] | None) -> None:
    output = node.outputs[0]
    if elements is None:
        sweep.unknown[output] = f"{describe(node)}: the sequence depends on data"
    else:
        sweep.sequences[output] = elements
