"""Shape functions of our own: the cheap ones, and those that onnx does not have.

A rule takes a `NodeInputs` (dims, dtypes and known contents of a node's inputs) and returns one
`(dtype, dims)` per output, None for an output it says nothing about, or raises `Unknown`. Rules
exist for three reasons: elementwise ops are most nodes of a graph and need no C++ call; Reshape and
Expand take computed targets; fused ops of onnxruntime (`com.microsoft`) are unknown to onnx.
Sources: ONNX operator reference; onnxruntime docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.shape_values import Array, attribute, reshape_dims

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
        return self.dims[index] if index < len(self.dims) else None

    def dtype(self, index: int) -> ir.DataType | None:
        return self.dtypes[index] if index < len(self.dtypes) else None

    def value(self, index: int) -> Array | None:
        return self.values[index] if index < len(self.values) else None

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)


Rule = Callable[[NodeInputs], "list[Typed | None]"]
RULES: dict[tuple[str, str], Rule] = {}

MS = "com.microsoft"


def _rule(*ops: str, domain: str = "") -> Callable[[Rule], Rule]:
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


# --- same shape as the first input ----------------------------------------------------------------


@_rule(
    *"Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization BitwiseNot Ceil Celu Clip Cos Cosh "
    "CumSum Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity "
    "InstanceNormalization LRN LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization "
    "Mish Neg Not PRelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus "
    "Softsign Sqrt Swish Tan Tanh ThresholdedRelu ScatterElements ScatterND Scatter Trilu "
    "RotaryEmbedding RMSNormalization BiasGelu FastGelu".split()
)
@_rule(
    *"BiasGelu FastGelu QuickGelu Gelu RotaryEmbedding BiasAdd BiasSoftmax GroupNorm Trilu "
    "QLinearLeakyRelu QLinearSigmoid QLinearSoftmax".split(),
    domain=MS,
)
def same_as_first(x: NodeInputs) -> list[Typed | None]:
    """One output with the type and dims of the first input."""
    typed = (x.dtype(0), x.shape(0))
    if x.node.op_type == "BatchNormalization" and len(x.node.outputs) > 1:
        return [typed] + [(x.dtype(3), x.shape(3))] * (len(x.node.outputs) - 1)
    return [typed] + [None] * (len(x.node.outputs) - 1)


@_rule("IsNaN", "IsInf")
def _boolean(x: NodeInputs) -> list[Typed | None]:
    return [(ir.DataType.BOOL, x.shape(0))]


@_rule("Cast")
def _cast(x: NodeInputs) -> list[Typed | None]:
    return [(ir.DataType(x.attr("to")), x.shape(0))]


@_rule("CastLike")
def _cast_like(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(1), x.shape(0))]


@_rule("QuantizeLinear", domain=MS)
def _quantize(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(2) or ir.DataType.UINT8, x.shape(0))]


@_rule("DequantizeLinear", domain=MS)
def _dequantize(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(1), x.shape(0))]


@_rule("Dropout")
def _dropout(x: NodeInputs) -> list[Typed | None]:
    mask: Typed = (ir.DataType.BOOL, x.shape(0))
    return [(x.dtype(0), x.shape(0)), mask][: len(x.node.outputs)]


# --- broadcasting ---------------------------------------------------------------------------------


@_rule(
    *"Add Sub Mul Div Mod Pow Max Min Mean Sum BitShift BitwiseAnd BitwiseOr BitwiseXor".split()
)
def _broadcasting(x: NodeInputs) -> list[Typed | None]:
    shapes = [x.shape(i) for i in range(len(x.node.inputs))]
    return [(x.dtype(0), broadcast(*shapes))]


@_rule(*"Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor".split())
def _comparison(x: NodeInputs) -> list[Typed | None]:
    return [(ir.DataType.BOOL, broadcast(x.shape(0), x.shape(1)))]


@_rule("Where")
def _where(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(1), broadcast(x.shape(0), x.shape(1), x.shape(2)))]


@_rule("QLinearAdd", "QLinearMul", domain=MS)
def _quantized_broadcast(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(0), broadcast(x.shape(0), x.shape(3)))]


# --- computed targets and movement ----------------------------------------------------------------


@_rule("Shape")
def _shape(x: NodeInputs) -> list[Typed | None]:
    if x.attr("start", 0) or x.attr("end") is not None:
        raise Unknown("the rank of its input is not known")
    return [(ir.DataType.INT64, (len(x.shape(0)),))]


@_rule("Reshape")
def _reshape(x: NodeInputs) -> list[Typed | None]:
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


@_rule("Expand")
def _expand(x: NodeInputs) -> list[Typed | None]:
    target = x.value(1)
    if target is None:
        raise Unknown("its target shape depends on data")
    return [(x.dtype(0), broadcast(x.shape(0), tuple(int(t) for t in target.reshape(-1))))]


@_rule("Transpose")
@_rule("Transpose", domain=MS)
def _transpose(x: NodeInputs) -> list[Typed | None]:
    dims = x.shape(0)
    perm = x.attr("perm", tuple(reversed(range(len(dims)))))
    if len(perm) != len(dims):
        raise Unknown(f"perm {tuple(perm)} does not fit rank {len(dims)}")
    return [(x.dtype(0), tuple(dims[p] for p in perm))]


@_rule("Concat")
def _concat(x: NodeInputs) -> list[Typed | None]:
    shapes = [x.shape(i) for i in range(len(x.node.inputs))]
    axis = x.attr("axis", 1) % max(len(shapes[0]), 1)
    for shape in shapes[1:]:
        if shape[:axis] + shape[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :]:
            raise Unknown(f"shapes {', '.join(map(str, shapes))} do not concatenate")
    length = sum(s[axis] for s in shapes)
    return [(x.dtype(0), (*shapes[0][:axis], length, *shapes[0][axis + 1 :]))]


# --- matrix products ------------------------------------------------------------------------------


def _matmul_dims(a: Dims, b: Dims) -> Dims:
    rows: Dims = a[-2:-1]
    columns: Dims = b[-1:] if len(b) > 1 else ()
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise Unknown(f"cannot multiply {a} by {b}")
    return (*broadcast(a[:-2], b[:-2]), *rows, *columns)


@_rule("MatMul")
def _matmul(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(0), _matmul_dims(x.shape(0), x.shape(1)))]


def _swap(dims: Dims, last: bool, batch: bool) -> Dims:
    if batch and len(dims) > 2:  # the first batch axis trades places with the row axis
        dims = (*dims[1:-1], dims[0], dims[-1])
    return (*dims[:-2], dims[-1], dims[-2]) if last and len(dims) > 1 else dims


@_rule("FusedMatMul", "TransposeMatMul", domain=MS)
def _fused_matmul(x: NodeInputs) -> list[Typed | None]:
    a = _swap(x.shape(0), bool(x.attr("transA", 0)), bool(x.attr("transBatchA", 0)))
    b = _swap(x.shape(1), bool(x.attr("transB", 0)), bool(x.attr("transBatchB", 0)))
    return [(x.dtype(0), _matmul_dims(a, b))]


@_rule("Gemm")
@_rule("FusedGemm", domain=MS)
def _gemm(x: NodeInputs) -> list[Typed | None]:
    a, b = x.shape(0), x.shape(1)
    a = a[::-1] if x.attr("transA", 0) else a
    b = b[::-1] if x.attr("transB", 0) else b
    return [(x.dtype(0), _matmul_dims(a, b))]


@_rule("MatMulNBits", "MatMulBnb4", domain=MS)
def _matmul_packed(x: NodeInputs) -> list[Typed | None]:
    return [(x.dtype(0), (*x.shape(0)[:-1], int(x.attr("N"))))]


@_rule("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MS)
def _matmul_quantized(x: NodeInputs) -> list[Typed | None]:
    scale = 2 if x.node.op_type == "MatMulIntegerToFloat" else 0
    return [(x.dtype(scale), _matmul_dims(x.shape(0), x.shape(1)))]


# --- norms of onnxruntime -------------------------------------------------------------------------


def _outputs(x: NodeInputs, *typed: Typed | None) -> list[Typed | None]:
    return list(typed[: len(x.node.outputs)])


@_rule("SimplifiedLayerNormalization")
@_rule("SimplifiedLayerNormalization", "LayerNormalization", domain=MS)
def _layer_norm(x: NodeInputs) -> list[Typed | None]:
    dims = x.shape(0)
    axis = x.attr("axis", -1) % max(len(dims), 1)
    statistic: Typed = (ir.DataType.FLOAT, (*dims[:axis], *(1 for _ in dims[axis:])))
    return _outputs(x, (x.dtype(0), dims), statistic, statistic)


@_rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def _skip_layer_norm(x: NodeInputs) -> list[Typed | None]:
    dims = x.shape(0)
    statistic: Typed = (ir.DataType.FLOAT, (*dims[:-1], 1))
    return _outputs(x, (x.dtype(0), dims), statistic, statistic, (x.dtype(0), dims))


@_rule("SkipGroupNorm", domain=MS)
def _skip_group_norm(x: NodeInputs) -> list[Typed | None]:
    return _outputs(x, (x.dtype(0), x.shape(0)), (x.dtype(0), x.shape(0)))


@_rule("EmbedLayerNormalization", domain=MS)
def _embed_layer_norm(x: NodeInputs) -> list[Typed | None]:
    ids, width = x.shape(0), x.shape(2)[1]
    embedded: Typed = (x.dtype(2), (*ids, width))
    return _outputs(x, embedded, (ir.DataType.INT32, ids[:1]), embedded)


@_rule("BiasSplitGelu", domain=MS)
def _split_gelu(x: NodeInputs) -> list[Typed | None]:
    dims = x.shape(0)
    return [(x.dtype(0), (*dims[:-1], dims[-1] // 2))]


# --- attention of onnxruntime ---------------------------------------------------------------------


@_rule("Attention", "QAttention", domain=MS)
def _attention(x: NodeInputs) -> list[Typed | None]:
    batch, sequence, _ = x.shape(0)
    packed = x.shape(1)[1]
    sizes = x.attr("qkv_hidden_sizes")
    width = int(sizes[2]) if sizes else packed // 3
    quantized = x.node.op_type == "QAttention"
    dtype = x.dtype(3 if quantized else 0)
    past = x.optional(8 if quantized else 4)
    heads = int(x.attr("num_heads"))
    total = (past[3] if past else 0) + sequence
    return _outputs(
        x, (dtype, (batch, sequence, width)), (dtype, (2, batch, heads, total, width // heads))
    )


@_rule("MultiHeadAttention", domain=MS)
def _multi_head_attention(x: NodeInputs) -> list[Typed | None]:
    query, key, value = x.shape(0), x.optional(1), x.optional(2)
    heads, dtype = int(x.attr("num_heads")), x.dtype(0)
    batch, sequence = query[0], query[1]
    past = x.optional(6)
    if len(query) == 5:  # packed as [batch, sequence, heads, 3, head size]
        head_q = head_v = query[4]
        length = sequence
    elif value is None:  # key and value packed as [batch, length, heads, 2, head size]
        if key is None:
            raise Unknown("the shape of its key is not known")
        head_q, head_v, length = query[2] // heads, key[4], key[1]
    else:  # [batch, length, width] or [batch, heads, length, head size]
        head_q = query[2] // heads
        head_v, length = (value[3], value[2]) if len(value) == 4 else (value[2] // heads, value[1])
    total = length + (past[2] if past else 0)
    return _outputs(
        x,
        (dtype, (batch, sequence, heads * head_v)),
        (dtype, (batch, heads, total, head_q)),
        (dtype, (batch, heads, total, head_v)),
    )


@_rule("GroupQueryAttention", domain=MS)
def _group_query_attention(x: NodeInputs) -> list[Typed | None]:
    batch, sequence, width = x.shape(0)
    heads, kv_heads = int(x.attr("num_heads")), int(x.attr("kv_num_heads"))
    head = width // heads if x.has(1) else width // (heads + 2 * kv_heads)
    past, total = x.optional(3), x.value(6)
    length = past[2] if past else 0
    present = max(length, int(total.reshape(-1)[0])) if total is not None else length + sequence
    cache: Typed = (x.dtype(3) or x.dtype(0), (batch, kv_heads, present, head))
    return _outputs(x, (x.dtype(0), (batch, sequence, heads * head)), cache, cache)


# --- convolution layouts --------------------------------------------------------------------------


@_rule("QLinearGlobalAveragePool", domain=MS)
def _quantized_global_pool(x: NodeInputs) -> list[Typed | None]:
    dims = x.shape(0)
    ones = (1,) * (len(dims) - 2)
    pooled = (dims[0], *ones, dims[-1]) if x.attr("channels_last", 0) else (*dims[:2], *ones)
    return [(x.dtype(0), pooled)]


@_rule("QLinearConcat", domain=MS)
def _quantized_concat(x: NodeInputs) -> list[Typed | None]:
    shapes = [x.shape(i) for i in range(2, len(x.node.inputs), 3)]
    axis = x.attr("axis") % len(shapes[0])
    length = sum(s[axis] for s in shapes)
    return [(x.dtype(2), (*shapes[0][:axis], length, *shapes[0][axis + 1 :]))]


ALIASES: dict[tuple[str, str], str] = {
    (MS, "FusedConv"): "Conv",
    (MS, "QLinearAveragePool"): "AveragePool",
    (MS, "GatherND"): "GatherND",
    (MS, "Pad"): "Pad",
    (MS, "Range"): "Range",
    (MS, "Unique"): "Unique",
}
"""Fused ops with the shapes of a standard op (its extra attributes are dropped)."""

NEEDS_CONTENTS: frozenset[str] = frozenset(
    "AffineGrid BlackmanWindow CenterCropPad Col2Im ConstantOfShape DFT Expand HammingWindow "
    "HannWindow MaxUnpool OneHot Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize STFT Slice Split "
    "SplitToSequence Squeeze Tile TopK Unsqueeze Upsample".split()
)
"""Ops whose output shape depends on the *contents* of inputs: the only ones that get them."""
