"""Layers that are linear in their weights, as matrices: what they read, row by row, and W and b.

A layer is `y[row, group] = x[row, group] W[group] + b[group]`. A row is one place of the output: a
position of a convolution, whose x is the patch under the kernel with the padding's zeros in it (so
that a bias is right at borders too), or one vector of a matrix product. Of an LSTM, a GRU or a fused
Attention, y is what its input weights make of x, before anything else happens to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.patches import can_unfold, patches
from graphprune.compensation.products import Product, product_of
from graphprune.onnx.constants import constant, set_constant
from graphprune.onnx.names import FreshNames
from graphprune.onnx.operands import attribute
from graphprune.onnx.states import RECURRENT
from graphprune.scoring.statistics import vectors

Array = np.ndarray[Any, Any]
Back = Callable[[Array], Array]

MOST_INPUTS = 4608
"""Wider problems (inputs x taps of one group) are left: their equations take gigabytes."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")
GATED = (*RECURRENT, "Attention")
"""Ops of which the first product is not a value of the graph. Attention: that of com.microsoft."""


@dataclass(frozen=True, eq=False)
class Linear:
    """A layer of the pruned graph with a weight of its own.

    Attributes:
        node: The node.
        weights: `(groups, inputs, outputs)`, float64.
        bias: `(groups, outputs)`, zeros where there is none.
        stored: From weights of that shape to the array of the node's second input.
        holder: The node and input that hold the bias (an Add behind a MatMul, too); None where none
            can be set without adding a node. The input may be missing as yet.
        stored_bias: From a bias of that shape to the array of that input.
        axes: Axes of the output (of its input, for gated ones) that count channels, counted from
            the end where negative.
        product: Of an Einsum, how its operands' axes meet.
        reads: Axis of the stored weight that counts what is read, channel by channel; None where no
            single axis does.
    """

    node: ir.Node
    weights: Array
    bias: Array
    stored: Back
    holder: tuple[ir.Node, int] | None
    stored_bias: Back = np.ravel
    axes: tuple[int, ...] = (-1,)
    product: Product | None = None
    reads: int | None = None

    @property
    def biased(self) -> bool:
        """Whether a bias can be set without adding a node."""
        return self.holder is not None

    @property
    def gated(self) -> bool:
        """Whether what is fitted is no value of the graph."""
        return self.node.op_type in GATED

    @property
    def output(self) -> ir.Value:
        """What the layer makes, its bias included."""
        added = self.holder is not None and self.holder[0].op_type == "Add"
        value: ir.Value = (self.holder[0] if added and self.holder else self.node).outputs[0]
        return value


def linear_of(node: ir.Node) -> Linear | None:
    """A node as a linear layer; None where it is none, or one that this module cannot refit."""
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[0].is_initializer():
        return None
    weight = constant(node, 1)
    if weight is None:
        return None
    ours = node.domain in ("", "ai.onnx")
    layer = None
    if node.op_type in _CONVOLUTIONS and ours:
        layer = _convolution(node, weight)
    elif node.op_type == "Gemm" and ours and weight.ndim == 2:
        layer = _gemm(node, weight)
    elif node.op_type == ("MatMul" if ours else "FusedMatMul") and weight.ndim == 2:
        layer = _matmul(node, weight)
    elif node.op_type == "Einsum" and ours and len(node.inputs) == 2:
        layer = _einsum(node, weight)
    elif node.op_type in GATED and ours != (node.op_type == "Attention"):
        layer = _gated(node, weight)
    if layer is None or not 0 < layer.weights.shape[1] <= MOST_INPUTS or not layer.bias.size:
        return None
    return layer


def _convolution(node: ir.Node, weight: Array) -> Linear | None:
    if not can_unfold(node):
        return None
    groups = int(attribute(node, "group", 1))
    shape = weight.shape
    if node.op_type == "Conv":
        matrix = weight.reshape(groups, shape[0] // groups, -1).transpose(0, 2, 1)
        stored: Back = lambda w: w.transpose(0, 2, 1).reshape(shape)  # noqa: E731
    else:  # channels in, channels out of one group, taps
        parts = (groups, shape[0] // groups, shape[1], -1)
        matrix = weight.reshape(parts).transpose(0, 1, 3, 2)
        outputs = matrix.shape
        matrix = matrix.reshape(groups, -1, shape[1])
        stored = lambda w: w.reshape(outputs).transpose(0, 1, 3, 2).reshape(shape)  # noqa: E731
    bias = _bias(node, 2, groups * matrix.shape[2])
    if bias is None:
        return None
    axis = 1 - len(shape)
    reads = None if groups > 1 else 1 if node.op_type == "Conv" else 0
    bias = bias.reshape(groups, -1)
    return Linear(node, matrix, bias, stored, (node, 2), axes=(axis,), reads=reads)


def _gemm(node: ir.Node, weight: Array) -> Linear | None:
    alpha, beta = (float(attribute(node, name, 1.0)) for name in ("alpha", "beta"))
    if attribute(node, "transA") or not alpha or not beta:
        return None
    turned = bool(attribute(node, "transB"))
    matrix = alpha * (weight.T if turned else weight)
    bias = _bias(node, 2, matrix.shape[1])
    if bias is None:
        return None
    return Linear(
        node,
        matrix[None],
        beta * bias[None],
        lambda w: (w[0].T if turned else w[0]) / alpha,
        (node, 2),
        lambda b: b.ravel() / beta,
        reads=1 if turned else 0,
    )


def _matmul(node: ir.Node, weight: Array) -> Linear | None:
    alpha = float(attribute(node, "alpha", 1.0))
    if any(attribute(node, n) for n in ("transA", "transBatchA", "transBatchB")) or not alpha:
        return None
    turned = bool(attribute(node, "transB"))
    matrix = alpha * (weight.T if turned else weight)
    added = constant_add(node, matrix.shape[1])
    held = None if added is None else constant(*added)
    bias = np.zeros((1, matrix.shape[1])) if held is None else held[None]
    stored: Back = lambda w: (w[0].T if turned else w[0]) / alpha  # noqa: E731
    return Linear(node, matrix[None], bias, stored, added, reads=1 if turned else 0)


def _einsum(node: ir.Node, weight: Array) -> Linear | None:
    product = product_of(str(attribute(node, "equation", "")), weight.ndim)
    if product is None:
        return None
    matrix = product.matrix(weight)
    bias = np.zeros((len(matrix), matrix.shape[2]))
    shape = weight.shape
    return Linear(
        node,
        matrix,
        bias,
        lambda w: product.array(w, shape),
        None,
        axes=product.channel_axes,
        product=product,
    )


def _gated(node: ir.Node, weight: Array) -> Linear | None:
    """Input weights of a recurrent layer (directions, gates, inputs), or those of Q, K and V."""
    if node.op_type == "Attention":
        if weight.ndim != 2:
            return None
        bias = _bias(node, 2, weight.shape[1])
        if bias is None:
            return None
        return Linear(node, weight[None], bias[None], lambda w: w[0], (node, 2), reads=0)
    if weight.ndim != 3 or attribute(node, "layout", 0):
        return None
    shape = weight.shape
    width = shape[0] * shape[1]
    matrix = weight.reshape(width, shape[2]).T
    both = _bias(node, 3, 2 * width)
    if both is None:
        return None
    both = both.reshape(shape[0], 2, shape[1])  # of the inputs, of the state
    present = len(node.inputs) > 3 and node.inputs[3] is not None

    def stored_bias(b: Array) -> Array:
        return np.stack([b.reshape(shape[:2]), both[:, 1]], axis=1).reshape(shape[0], -1)

    return Linear(
        node,
        matrix[None],
        both[:, 0].reshape(1, -1),
        lambda w: w[0].T.reshape(shape),
        (node, 3) if present else None,
        stored_bias,
        reads=2,
    )


def _bias(node: ir.Node, index: int, size: int) -> Array | None:
    """`(size,)`; zeros where it is missing, None where it is computed or fits otherwise."""
    if index >= len(node.inputs) or node.inputs[index] is None:
        return np.zeros(size)
    found = constant(node, index)
    if found is None or found.size not in (1, size):
        return None
    return np.broadcast_to(found.reshape(-1), (size,))


def constant_add(node: ir.Node, width: int | None = None) -> tuple[ir.Node, int] | None:
    """The one reader of a node's output, where that is an Add of a constant vector."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or node.outputs[0].is_graph_output():
        return None
    add, position = uses[0].node, uses[0].idx
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx"):
        return None
    vector, weight = constant(add, 1 - position), node.inputs[1]
    if width is None and weight is not None and weight.const_value is not None:
        width = int(weight.const_value.shape.numpy()[-1])
    return (add, 1 - position) if vector is not None and vector.shape == (width,) else None


def output_rows(layer: Linear, array: Array, chosen: Array) -> Array:
    """`chosen` rows of an output, or of what has its shape: `(rows, channels)`."""
    return vectors(array, layer.axes)[1](chosen)


def input_rows(layer: Linear, x: Array, out_shape: tuple[int, ...], chosen: Array) -> Array:
    """What the layer reads at the same rows: `(groups, rows, inputs)`."""
    groups, width, _ = layer.weights.shape
    if layer.product is not None:
        return layer.product.rows(x, groups, chosen)
    if layer.node.op_type not in _CONVOLUTIONS:
        return np.asarray(x.reshape(-1, width)[chosen][None])
    rows = patches(layer.node, x, out_shape[2:], chosen).reshape(len(chosen), groups, width)
    return np.ascontiguousarray(rows.transpose(1, 0, 2))


def write_back(layer: Linear, weights: Array, bias: Array, names: FreshNames) -> None:
    """Put new weights into the graph: the node's own initializers, no node is added."""
    old = layer.node.inputs[1]
    assert old is not None
    set_constant(layer.node, 1, layer.stored(weights), names)
    if layer.holder is None:
        return
    holder, index = layer.holder
    flat = layer.stored_bias(bias)
    present = holder.inputs[index] if index < len(holder.inputs) else None
    if present is None and not flat.any():
        return
    held = None if present is None else present.const_value
    if held is not None and held.size == flat.size:  # else it was one number for all outputs
        flat = flat.reshape(tuple(int(n) for n in held.shape.numpy()))
    set_constant(holder, index, flat, names, like=old)
