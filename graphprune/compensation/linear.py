"""Layers that are linear in their weights, as matrices: what they read, row by row, and W and b.

A layer is `y[row, group] = x[row, group] W[group] + b[group]`. A row is one place of the output: a
position of a convolution, whose x is the patch under the kernel with the padding's zeros in it (so
that a bias is right at borders too), or one vector of a matrix product.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.names import FreshNames
from graphprune.onnx.operands import attribute
from graphprune.rules.context import is_weight

Array = np.ndarray[Any, Any]

MOST_INPUTS = 4608
"""Wider problems (inputs x taps of one group) are left: their equations take gigabytes."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclass(frozen=True, eq=False)
class Linear:
    """A Conv, Gemm or MatMul of the pruned graph with a weight of its own.

    Attributes:
        node: The node.
        weights: `(groups, inputs, outputs)`, float64.
        bias: `(groups, outputs)`, zeros where there is none.
        added: The Add behind a MatMul that holds its bias, and which input that is.
        biased: Whether a bias can be set without adding a node.
    """

    node: ir.Node
    weights: Array
    bias: Array
    added: tuple[ir.Node, int] | None = None
    biased: bool = True

    @property
    def output(self) -> ir.Value:
        """What the layer makes, its bias included."""
        value: ir.Value = (self.node if self.added is None else self.added[0]).outputs[0]
        return value


def linear_of(node: ir.Node) -> Linear | None:
    """A node as a linear layer; None where it is none, or one that this module cannot refit."""
    if node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
        return None
    weight = _constant(node, 1)
    if weight is None or node.inputs[0] is None or is_weight(node.inputs[0]):
        return None
    if node.op_type == "Conv":
        return _conv(node, weight)
    if node.op_type == "Gemm" and weight.ndim == 2:
        plain = not attribute(node, "transA") and attribute(node, "alpha", 1.0) == 1.0
        if not plain or attribute(node, "beta", 1.0) != 1.0:
            return None
        matrix = weight.T if attribute(node, "transB") else weight
        return _with_bias(node, matrix[None], 2)
    if node.op_type == "MatMul" and weight.ndim == 2:
        added = constant_add(node)
        held = None if added is None else _constant(*added)
        bias = np.zeros((1, weight.shape[1])) if held is None else held[None]
        return _bounded(Linear(node, weight[None], bias, added, added is not None))
    return None


def _conv(node: ir.Node, weight: Array) -> Linear | None:
    groups = int(attribute(node, "group", 1))
    outputs = weight.shape[0] // groups
    matrix = weight.reshape(groups, outputs, -1).transpose(0, 2, 1)
    return _with_bias(node, matrix, 2)


def _with_bias(node: ir.Node, matrix: Array, index: int) -> Linear | None:
    groups, _, outputs = matrix.shape
    bias = np.zeros((groups, outputs))
    if index < len(node.inputs) and node.inputs[index] is not None:
        found = _constant(node, index)
        if found is None or found.size != groups * outputs:
            return None
        bias = found.reshape(groups, outputs)
    return _bounded(Linear(node, matrix, bias))


def _bounded(layer: Linear) -> Linear | None:
    return layer if 0 < layer.weights.shape[1] <= MOST_INPUTS and layer.bias.size else None


def _constant(node: ir.Node, i: int) -> Array | None:
    value = node.inputs[i]
    if value is None or not is_weight(value) or value.const_value is None:
        return None
    if value.const_value.dtype not in _FLOATS:
        return None
    return np.asarray(value.const_value.numpy(), np.float64)


def constant_add(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The one reader of a node's output, where that is an Add of a constant vector."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    add, position = uses[0].node, uses[0].idx
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx"):
        return None
    vector = _constant(add, 1 - position)
    weight = node.inputs[1]
    width = None if weight is None or weight.shape is None else weight.shape[-1]
    return (add, 1 - position) if vector is not None and vector.shape == (width,) else None


def channel_axis(node: ir.Node, rank: int) -> int:
    """The axis of a layer's output that counts its channels."""
    return 1 if node.op_type == "Conv" else rank - 1


def output_rows(node: ir.Node, array: Array, chosen: Array) -> Array:
    """`chosen` rows of an output, or of what has its shape: `(rows, channels)`."""
    flat = np.moveaxis(array, channel_axis(node, array.ndim), -1)
    return np.asarray(flat.reshape(-1, flat.shape[-1])[chosen])


def input_rows(layer: Linear, x: Array, out_shape: tuple[int, ...], chosen: Array) -> Array:
    """What the layer reads at the same rows: `(groups, rows, inputs)`."""
    node = layer.node
    groups, width, _ = layer.weights.shape
    if node.op_type != "Conv":
        return np.asarray(x.reshape(-1, width)[chosen][None])
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    kernel = tuple(int(k) for k in weight.const_value.shape.numpy()[2:])
    strides = attribute(node, "strides") or [1] * len(kernel)
    dilations = attribute(node, "dilations") or [1] * len(kernel)
    space = out_shape[2:]
    pads = _pads(node, x.shape[2:], space, kernel, strides, dilations)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    places = np.unravel_index(chosen, (out_shape[0], *space))
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        index = tuple(
            p * s + t * d for p, s, t, d in zip(places[1:], strides, tap, dilations, strict=True)
        )
        taps.append(padded[(places[0], slice(None), *index)])
    patches = np.stack(taps, axis=-1)  # rows, channels, taps
    rows = patches.reshape(len(chosen), groups, width)
    return np.ascontiguousarray(rows.transpose(1, 0, 2))


def _pads(
    node: ir.Node,
    size: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: list[int],
    dilations: list[int],
) -> list[tuple[int, int]]:
    auto = attribute(node, "auto_pad", "NOTSET")
    rank = len(kernel)
    if auto in ("NOTSET", "", "VALID"):
        given = attribute(node, "pads") if auto != "VALID" else None
        given = list(given) if given is not None else [0] * (2 * rank)
        return [(int(given[i]), int(given[i + rank])) for i in range(rank)]
    pads = []
    for n, o, k, s, d in zip(size, out, kernel, strides, dilations, strict=True):
        total = max((o - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, math.ceil(total / 2)
        pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pads


def write_back(layer: Linear, weights: Array, bias: Array, names: FreshNames) -> None:
    """Put new weights into the graph: the node's own initializers, no node is added."""
    node = layer.node
    old = node.inputs[1]
    assert old is not None
    assert old.const_value is not None
    shape = tuple(int(n) for n in old.const_value.shape.numpy())
    if node.op_type == "Conv":
        array = weights.transpose(0, 2, 1).reshape(shape)
    else:
        array = weights[0].T if attribute(node, "transB") else weights[0]
    _set(node, 1, array, old, names)
    if not layer.biased:
        return
    holder, index = layer.added or (node, 2)
    flat = bias.reshape(-1)
    present = holder.inputs[index] if index < len(holder.inputs) else None
    if present is None and not flat.any():
        return
    if present is not None and present.const_value is not None:
        flat = flat.reshape(tuple(int(n) for n in present.const_value.shape.numpy()))
    _set(holder, index, flat, present, names, like=old)


def _set(
    node: ir.Node,
    index: int,
    array: Array,
    old: ir.Value | None,
    names: FreshNames,
    like: ir.Value | None = None,
) -> None:
    model = old if old is not None else like
    assert model is not None
    assert model.const_value is not None
    dtype = model.const_value.dtype
    data = np.ascontiguousarray(array, dtype=dtype.numpy())
    if old is not None and len(old.uses()) == 1 and not old.is_graph_output():
        old.const_value = ir.Tensor(data, dtype=dtype, name=old.name)
        return
    base = old.name if old is not None else f"{model.name}_bias"
    name = names.near(f"{base}_refit" if old is not None else str(base))
    value = ir.Value(
        name=name,
        shape=ir.Shape(data.shape),
        type=ir.TensorType(dtype),
        const_value=ir.Tensor(data, dtype=dtype, name=name),
    )
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
