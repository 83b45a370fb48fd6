"""Dims inside heads that may be mixed: two layers, and nothing but views between them.

The scores of a head are `(x Wq)(x Wk)^T`, what it gives is `A (x Wv) Wo`. So dims inside a head may be
mixed by any invertible matrix on one side and its inverse on the other, where a dim goes straight
from one layer into the product with the other: through views and multiplication by a number. A
rotary embedding, a norm, a cache, a bias that is added to heads stands in the way. Which channel of
a layer becomes which dim of which head is read off by sending channel numbers through the views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import part
from graphprune.compensation.linear import Linear, linear_of
from graphprune.cut import Cut
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.operands import VIEWS, op_names
from graphprune.onnx.runtime import Session
from graphprune.plan import Plan
from graphprune.rules.context import is_weight, node_name

Array = np.ndarray[Any, Any]
Dims = Mapping[str, tuple[int, ...]]

_VIEWS = VIEWS | op_names("Dropout Split Slice Gather")
_SIZES = ("Shape", "Size")


@dataclass(frozen=True, eq=False)
class HeadPair:
    """Two layers of the original that meet in the dims of heads.

    Attributes:
        first: Makes the dims.
        second: Makes them too (scores), or reads what is mixed of them (`reads`).
        ours: Channels that `first` makes, `(heads, dims)`.
        theirs: Of `second`: channels that it makes, or reads, in the same order.
        reads: Whether `second` reads what `first` makes.
    """

    first: Linear
    second: Linear
    ours: Array
    theirs: Array
    reads: bool


@dataclass(frozen=True, eq=False)
class _Leaf:
    """Where a walk through views ends: a reader, or None for a graph output or a body."""

    value: ir.Value
    node: ir.Node | None
    position: int


@dataclass(frozen=True, eq=False)
class _Operand:
    """What stands in a product of two activations.

    Attributes:
        layer: That made it.
        channels: `(*leading axes of the product, dims)`.
        summed: Whether the product sums over the dims.
        bad: Channels of the layer that something else reads as well.
    """

    layer: Linear
    channels: Array
    summed: bool
    bad: frozenset[int]


def find_head_pairs(original: ir.Model, plan: Plan, dims: Dims) -> list[HeadPair]:
    """Pairs of layers with heads of which some dims, not all, are cut.

    Args:
        original: Canonical.
        plan: What is cut.
        dims: Shapes of its values, at any binding.
    """
    found: dict[ir.Node, dict[int, _Operand]] = {}
    for node in original.graph:
        layer = linear_of(node)
        if layer is not None and made_cut(layer, plan, dims) is not None:
            for product, position, operand in _operands(original, layer, dims):
                found.setdefault(product, {})[position] = operand
    pairs: list[HeadPair] = []
    for product, sides in found.items():
        one, two = sides.get(0), sides.get(1)
        if one is not None and two is not None and one.summed and two.summed:
            pairs.extend(_scores(one, two, plan, dims))
        elif one is None and two is not None and not two.summed:
            pairs.extend(_mixed(original, product, two, plan, dims))
    return pairs


def made_cut(layer: Linear, plan: Plan, dims: Dims) -> Cut | None:
    """The cut of what a layer makes; None where that is not one of its channels alone."""
    name = layer.output.name or ""
    cuts = plan.tensors.get(name, ())
    if name not in dims or len(layer.weights) != 1 or len(layer.axes) != 1 or layer.gated:
        return None
    axis = layer.axes[0] % len(dims[name])
    if len(cuts) != 1 or cuts[0].axis != axis or cuts[0].blocks or cuts[0].dynamic:
        return None
    return cuts[0]


def read_cut(layer: Linear, plan: Plan) -> Cut | None:
    """The cut of what a layer reads, of its stored weight; None without one."""
    name = node_name(layer.node)
    uses = [u for u in plan.initializers if u.node == name and u.input == 1]
    cuts = [c for u in uses for c in u.cuts if c.axis == layer.reads and not c.blocks]
    return cuts[0] if cuts else None


def _operands(
    model: ir.Model, layer: Linear, dims: Dims
) -> Iterator[tuple[ir.Node, int, _Operand]]:
    leaves = list(_leaves(layer.output, dims, model.graph))
    if not any(leaf.node is not None and leaf.node.op_type == "MatMul" for leaf in leaves):
        return
    start = layer.output
    width = dims[start.name or ""][layer.axes[0]]
    shape = [1] * len(dims[start.name or ""])
    shape[layer.axes[0]] = width
    numbers = np.broadcast_to(np.arange(width).reshape(shape), dims[start.name or ""])
    arrays = _sent(model, start, numbers, [leaf.value for leaf in leaves], dims)
    if arrays is None:
        return
    for i, leaf in enumerate(leaves):
        if leaf.node is None or leaf.node.op_type != "MatMul" or arrays[i].ndim < 2:
            continue
        others = (a for j, a in enumerate(arrays) if j != i)
        bad = frozenset(int(c) for a in others for c in np.unique(a))
        x = arrays[i]
        along_rows, along_columns = (bool((x == x.take([0], axis=a)).all()) for a in (-2, -1))
        if along_rows and not along_columns:
            yield leaf.node, leaf.position, _Operand(layer, x[..., 0, :], leaf.position == 0, bad)
        elif along_columns and not along_rows and leaf.position == 1:
            yield leaf.node, 1, _Operand(layer, x[..., 0], True, bad)


def _leaves(value: ir.Value, dims: Dims, graph: ir.Graph) -> Iterator[_Leaf]:
    """Readers behind all views of `value`."""
    if value.is_graph_output():
        yield _Leaf(value, None, 0)
    for use in value.uses():
        node, position = use.node, use.idx
        if node.graph is not graph:
            yield _Leaf(value, None, 0)
        elif node.op_type in _SIZES:
            continue
        elif (node.op_type in _VIEWS and position == 0) or _scales(node, position, dims):
            for output in node.outputs:
                yield from _leaves(output, dims, graph)
        else:
            yield _Leaf(value, node, position)


def _scales(node: ir.Node, position: int, dims: Dims) -> bool:
    """Whether a node multiplies by, or divides by, one number."""
    if node.op_type not in ("Mul", "Div") or (node.op_type == "Div" and position):
        return False
    other = node.inputs[1 - position]
    if other is None:
        return False
    known = dims.get(other.name or "")
    if is_weight(other) and other.const_value is not None:
        known = tuple(int(n) for n in other.const_value.shape.numpy())
    return known is not None and np.prod(known) == 1


def _sent(
    model: ir.Model, start: ir.Value, numbers: Array, ends: list[ir.Value], dims: Dims
) -> list[Array] | None:
    """`numbers` in the place of `start`, as they arrive at `ends`; None where that cannot be told.

    Everything else that is read is looked at for its size only. What is made of `start` itself
    (exporters ask a view for its size, too) is not: the numbers must come through there.
    """
    known: dict[str, Array] = {}
    sized = [v for node in model.graph if node.op_type in _SIZES for v in node.inputs]
    made = _made_of(start)
    for value in [*model.graph.inputs, *sized]:
        if value is None or value in made or is_weight(value):
            continue
        if value.name not in dims or value.dtype is None:
            continue
        known[value.name or ""] = np.zeros(dims[value.name or ""], value.dtype.numpy())
    name = start.name or ""
    dtype = start.dtype.numpy() if start.dtype is not None else np.dtype(np.float32)
    names = list(dict.fromkeys(v.name or "" for v in ends))
    outputs = [n for n in names if n != name]
    arrived = []
    for sent in (numbers + 1, np.ones_like(numbers)):
        given = {**known, name: sent.astype(dtype)}
        results = {name: given[name]}
        if outputs:
            try:
                with Session(part(model, given, outputs)) as session:
                    results |= session.run({n: given[n] for n in session.input_names})
            except (UnsupportedModelError, KeyError):
                return None
        arrived.append(results)
    found = []
    for value in ends:
        top, unit = (np.asarray(a[value.name or ""], np.float64) for a in arrived)
        if not (np.isfinite(top) & (unit != 0)).all():
            return None
        found.append(np.rint(top / unit - 1).astype(np.int64))
    return found


def _made_of(start: ir.Value) -> set[ir.Value]:
    """All values that a value goes into."""
    found: set[ir.Value] = set()
    stack = [start]
    while stack:
        for use in stack.pop().uses():
            new = [v for v in use.node.outputs if v not in found]
            found.update(new)
            stack.extend(new)
    return found


def _scores(one: _Operand, two: _Operand, plan: Plan, dims: Dims) -> Iterator[HeadPair]:
    leading = np.broadcast_shapes(one.channels.shape[:-1], two.channels.shape[:-1])
    size = one.channels.shape[-1]
    sides = [np.broadcast_to(o.channels, (*leading, size)).reshape(-1, size) for o in (one, two)]
    heads = np.unique(np.concatenate(sides, axis=1), axis=0)
    ours, theirs = heads[:, :size], heads[:, size:]
    first, second = made_cut(one.layer, plan, dims), made_cut(two.layer, plan, dims)
    assert first is not None
    assert second is not None
    if _disjoint(ours, one.bad) and _disjoint(theirs, two.bad):
        yield from _cut_pairs(HeadPair(one.layer, two.layer, ours, theirs, False), first, second)


def _mixed(
    model: ir.Model, product: ir.Node, operand: _Operand, plan: Plan, dims: Dims
) -> Iterator[HeadPair]:
    output = product.outputs[0]
    leaves = list(_leaves(output, dims, model.graph))
    reader = leaves[0].node if len(leaves) == 1 and leaves[0].position == 0 else None
    layer = None if reader is None else linear_of(reader)
    shape = dims.get(output.name or "")
    if layer is None or layer.gated or layer.reads is None or shape is None:
        return
    inputs = layer.weights.shape[1]
    size = operand.channels.shape[-1]
    numbers = np.broadcast_to(operand.channels[..., None, :], shape)
    arrays = _sent(model, output, numbers, [leaves[0].value], dims)
    if arrays is None or layer.node.op_type == "Conv" or arrays[0].shape[-1] != inputs:
        return
    arrived = arrays[0].reshape(-1, inputs)
    heads = np.unique(operand.channels.reshape(-1, size), axis=0)
    made, read = made_cut(operand.layer, plan, dims), read_cut(layer, plan)
    once = np.array_equal(np.sort(arrived[0]), np.unique(heads))
    if not (arrived == arrived[:1]).all() or not once or not _disjoint(heads, operand.bad):
        return
    order = np.argsort(arrived[0])
    theirs = order[np.searchsorted(arrived[0][order], heads)]
    if made is not None and read is not None:
        yield from _cut_pairs(HeadPair(operand.layer, layer, heads, theirs, True), made, read)


def _disjoint(heads: Array, bad: frozenset[int]) -> bool:
    """Whether every channel is a dim of one head and nothing else."""
    return np.unique(heads).size == heads.size and bad.isdisjoint(heads.ravel().tolist())


def _cut_pairs(pair: HeadPair, first: Cut, second: Cut) -> Iterator[HeadPair]:
    """The pair with those heads of which some dims are cut, the same on both sides."""
    stay = np.isin(pair.ours, first.kept)
    if not np.array_equal(stay, np.isin(pair.theirs, second.kept)):
        return
    some = stay.any(1) & ~stay.all(1)
    if some.any():
        yield HeadPair(pair.first, pair.second, pair.ours[some], pair.theirs[some], pair.reads)
