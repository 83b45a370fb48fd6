"""Shape functions of our own: the cheap ones, and those that onnx does not have or has wrong.

A rule takes a `NodeInputs` (dims, dtypes and known contents of a node's inputs) and returns one
`(dtype, dims)` per output, None for an output it says nothing about, or raises `Unknown`. Rules
exist for three reasons: elementwise ops are most nodes of a graph and need no C++ call; Reshape and
Expand take computed targets; fused ops of onnxruntime are unknown to onnx (`shape_rules_fused`).
Source: ONNX operator reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.operands import Array, attribute, op_names, reshape_dims

Dims = tuple[int, ...]
Typed = tuple[ir.DataType | None, Dims]


class Unknown(Exception):
    """The shape cannot be told from what is known; the message says why."""


@dataclass(frozen=True)
class NodeInputs:
    """What is known of one node's inputs, by position."""

    node: ir.Node
    dims: Sequence[Dims | None]
    dtypes: Sequence[ir.DataType | None]
    values: Sequence[Array | None]

    def shape(self, index: int) -> Dims:
        """Dims of input `index`; raises Unknown where they are not known."""
        dims = self.optional(index)
        if dims is None:
            raise Unknown(f"the shape of input {index} is not known")
        return dims

    def optional(self, index: int) -> Dims | None:
        """Dims of input `index`, None where unknown or omitted."""
        return self.dims[index] if index < len(self.dims) else None

    def dtype(self, index: int) -> ir.DataType | None:
        """Element type of input `index`."""
        return self.dtypes[index] if index < len(self.dtypes) else None

    def value(self, index: int) -> Array | None:
        """Contents of input `index`, None where unknown."""
        return self.values[index] if index < len(self.values) else None

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return attribute(self.node, name, default)


Rule = Callable[[NodeInputs], "Sequence[Typed | None]"]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a shape function for some ops of a domain."""

    def register(function: Rule) -> Rule:
        for op in ops:
            RULES[domain, op] = function
        return function

    return register


def broadcast(*shapes: Dims) -> Dims:
    """Numpy's broadcast, as plain ints. Raises Unknown where the shapes do not fit."""
    if all(s == shapes[0] for s in shapes):
        return shapes[0]
    try:
        return tuple(int(s) for s in np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise Unknown(f"shapes {', '.join(map(str, shapes))} do not broadcast") from error


def outputs(x: NodeInputs, *typed: Typed | None) -> Sequence[Typed | None]:
    """As many of `typed` as the node has outputs."""
    return list(typed[: len(x.node.outputs)])


# --- same shape as the first input ----------------------------------------------------------------


@rule(
    *op_names(
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumSum Elu Erf "
        "Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity LRN LeakyRelu "
        "InstanceNormalization Log LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg "
        "Not PRelu RMSNormalization Reciprocal Relu RotaryEmbedding Round Scatter ScatterElements "
        "ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh "
        "ThresholdedRelu Trilu"
    )
)
def _same_as_first(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(0), x.shape(0))]


@rule("BatchNormalization")
def _batch_norm(x: NodeInputs) -> Sequence[Typed | None]:
    statistics: Typed = (x.dtype(3), x.shape(3))  # further outputs in training mode only
    return outputs(x, (x.dtype(0), x.shape(0)), *[statistics] * 4)


@rule("IsNaN", "IsInf")
def _boolean(x: NodeInputs) -> Sequence[Typed | None]:
    return [(ir.DataType.BOOL, x.shape(0))]


@rule("Cast")
def _cast(x: NodeInputs) -> Sequence[Typed | None]:
    return [(ir.DataType(x.attr("to")), x.shape(0))]


@rule("CastLike")
def _cast_like(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(1), x.shape(0))]


# --- broadcasting ---------------------------------------------------------------------------------


@rule(
    *op_names("Add Sub Mul Div Mod Pow Max Min Mean Sum BitShift BitwiseAnd BitwiseOr BitwiseXor")
)
def _broadcasting(x: NodeInputs) -> Sequence[Typed | None]:
    shapes = [x.shape(i) for i in range(len(x.node.inputs))]
    return [(x.dtype(0), broadcast(*shapes))]


@rule(*op_names("Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor"))
def _comparison(x: NodeInputs) -> Sequence[Typed | None]:
    return [(ir.DataType.BOOL, broadcast(x.shape(0), x.shape(1)))]


@rule("Where")
def _where(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(1), broadcast(x.shape(0), x.shape(1), x.shape(2)))]


# --- computed targets and movement ----------------------------------------------------------------


@rule("Shape")
def _shape(x: NodeInputs) -> Sequence[Typed | None]:
    if x.attr("start", 0) or x.attr("end") is not None:
        raise Unknown("the rank of its input is not known")
    return [(ir.DataType.INT64, (len(x.shape(0)),))]


@rule("Reshape")
def _reshape(x: NodeInputs) -> Sequence[Typed | None]:
    target = x.value(1) if len(x.node.inputs) > 1 else np.array(x.attr("shape", ()))
    if target is None:
        raise Unknown("its target shape depends on data")
    try:
        dims = reshape_dims(
            x.shape(0), [int(t) for t in target.reshape(-1)], bool(x.attr("allowzero", 0))
        )
    except ValueError as error:
        raise Unknown(str(error)) from error
    return [(x.dtype(0), dims)]


@rule("Expand")
def _expand(x: NodeInputs) -> Sequence[Typed | None]:
    target = x.value(1)
    if target is None:
        raise Unknown("its target shape depends on data")
    return [(x.dtype(0), broadcast(x.shape(0), tuple(int(t) for t in target.reshape(-1))))]


@rule("Transpose")
def _transpose(x: NodeInputs) -> Sequence[Typed | None]:
    dims = x.shape(0)
    perm = x.attr("perm", tuple(reversed(range(len(dims)))))
    if len(perm) != len(dims):
        raise Unknown(f"perm {tuple(perm)} does not fit rank {len(dims)}")
    return [(x.dtype(0), tuple(dims[p] for p in perm))]


@rule("Concat")
def _concat(x: NodeInputs) -> Sequence[Typed | None]:
    shapes = [x.shape(i) for i in range(len(x.node.inputs))]
    axis = x.attr("axis", 1) % max(len(shapes[0]), 1)
    for shape in shapes[1:]:
        if shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :]:
            raise Unknown(f"shapes {', '.join(map(str, shapes))} do not concatenate")
    length = sum(s[axis] for s in shapes)
    return [(x.dtype(0), (*shapes[0][:axis], length, *shapes[0][axis + 1 :]))]


@rule("Slice")
def _slice(x: NodeInputs) -> Sequence[Typed | None]:
    """A sliced axis whose bounds are not known has an open size; other axes keep theirs."""
    dims = list(x.shape(0))
    if len(x.node.inputs) == 1:
        bounds = zip(x.attr("starts"), x.attr("ends"), strict=True)
        given = x.attr("axes")
        parts: list[slice | None] = [slice(start, end) for start, end in bounds]
    else:
        listed = x.value(3)
        if x.has(3) and listed is None:
            raise Unknown("which axes it slices depends on data")
        given = None if listed is None else listed.reshape(-1).tolist()
        starts, ends, steps = x.value(1), x.value(2), x.value(4)
        if starts is None or ends is None or (x.has(4) and steps is None):
            parts = [None] * (x.shape(1)[0] if given is None else len(given))
        else:
            strides = [1] * starts.size if steps is None else steps.reshape(-1).tolist()
            found = zip(
                starts.reshape(-1).tolist(), ends.reshape(-1).tolist(), strides, strict=True
            )
            parts = [slice(*bounds) for bounds in found]
    for axis, part in zip(range(len(parts)) if given is None else given, parts, strict=True):
        size = dims[axis]
        if part is None:
            dims[axis] = -1
            continue
        if part.step is not None and part.step < 0 and part.stop < -size:
            part = slice(part.start, None, part.step)  # ONNX's "down to the first element"
        dims[axis] = len(range(*part.indices(size)))
    return [(x.dtype(0), tuple(dims))]


# --- matrix products ------------------------------------------------------------------------------


def matmul_dims(a: Dims, b: Dims) -> Dims:
    """Dims of a matrix product, vectors and batches included. Raises Unknown for a misfit."""
    rows: Dims = a[-2:-1]
    columns: Dims = b[-1:] if len(b) > 1 else ()
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise Unknown(f"cannot multiply {a} by {b}")
    return (*broadcast(a[:-2], b[:-2]), *rows, *columns)


@rule("MatMul")
def _matmul(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(0), matmul_dims(x.shape(0), x.shape(1)))]


@rule("Gemm")
def _gemm(x: NodeInputs) -> Sequence[Typed | None]:
    a, b = x.shape(0), x.shape(1)
    a = a[::-1] if x.attr("transA", 0) else a
    b = b[::-1] if x.attr("transB", 0) else b
    return [(x.dtype(0), matmul_dims(a, b))]


# --- corrections ----------------------------------------------------------------------------------


@rule("OneHot")
def _one_hot(x: NodeInputs) -> Sequence[Typed | None]:
    # onnx leaves the new axis open.
    depth, dims = x.value(1), x.shape(0)
    axis = x.attr("axis", -1)
    axis = axis + len(dims) + 1 if axis < 0 else axis
    size = -1 if depth is None else int(depth.reshape(-1)[0])
    return [(x.dtype(2), (*dims[:axis], size, *dims[axis:]))]


@rule("STFT")
def _stft(x: NodeInputs) -> Sequence[Typed | None]:
    # onnx 1.23 gives all frequencies for onesided=1.
    step, window, given = x.value(1), x.optional(2), x.value(3)
    if step is None or (given is None and window is None):
        raise Unknown("its frame step or length depends on data")
    batch, samples = x.shape(0)[:2]
    length = int(given.reshape(-1)[0]) if given is not None else (window or (0,))[0]
    frames = (samples - length) // int(step.reshape(-1)[0]) + 1
    bins = length // 2 + 1 if x.attr("onesided", 1) else length
    return [(x.dtype(0), (batch, frames, bins, 2))]


NEEDS_CONTENTS: frozenset[str] = op_names(
    "AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape DFT Expand HammingWindow "
    "HannWindow MaxUnpool OneHot Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize STFT Slice Split "
    "SplitToSequence Squeeze Tile TopK Unsqueeze Upsample"
)
"""Ops whose output shape depends on the *contents* of inputs: the only ones that get them."""
