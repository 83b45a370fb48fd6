"""Shape functions of the fused ops of onnxruntime (domain `com.microsoft`).

Importing this module registers them. Source: onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphprune.onnx.operands import op_names
from graphprune.onnx.shape_rules import (
    RULES,
    Dims,
    NodeInputs,
    Typed,
    Unknown,
    broadcast,
    matmul_dims,
    outputs,
    rule,
)

MS = "com.microsoft"

# Standard ops that onnxruntime also has, unchanged in shape, in its own domain.
for _op in ("Gelu", "RotaryEmbedding", "Trilu", "Transpose"):
    RULES[MS, _op] = RULES["", _op]
RULES[MS, "FusedGemm"] = RULES["", "Gemm"]
for _op in op_names(
    "BiasGelu FastGelu QuickGelu BiasAdd BiasSoftmax GroupNorm "
    "QLinearLeakyRelu QLinearSigmoid QLinearSoftmax"
):
    RULES[MS, _op] = RULES["", "Relu"]


# --- quantised ops --------------------------------------------------------------------------------


@rule("QuantizeLinear", domain=MS)
def _quantize(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(2) or ir.DataType.UINT8, x.shape(0))]


@rule("DequantizeLinear", domain=MS)
def _dequantize(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(1), x.shape(0))]


@rule("QLinearAdd", "QLinearMul", domain=MS)
def _quantized_broadcast(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(0), broadcast(x.shape(0), x.shape(3)))]


# --- matrix products ------------------------------------------------------------------------------


def _swap(dims: Dims, last: bool, batch: bool) -> Dims:
    if batch and len(dims) > 2:  # the first batch axis trades places with the row axis
        dims = (*dims[1:-1], dims[0], dims[-1])
    return (*dims[:-2], dims[-1], dims[-2]) if last and len(dims) > 1 else dims


@rule("FusedMatMul", "TransposeMatMul", domain=MS)
def _fused_matmul(x: NodeInputs) -> Sequence[Typed | None]:
    a = _swap(x.shape(0), bool(x.attr("transA", 0)), bool(x.attr("transBatchA", 0)))
    b = _swap(x.shape(1), bool(x.attr("transB", 0)), bool(x.attr("transBatchB", 0)))
    return [(x.dtype(0), matmul_dims(a, b))]


@rule("MatMulNBits", "MatMulBnb4", domain=MS)
def _matmul_packed(x: NodeInputs) -> Sequence[Typed | None]:
    return [(x.dtype(0), (*x.shape(0)[:-1], int(x.attr("N"))))]


@rule("MatMulIntegerToFloat", "DynamicQuantizeMatMul", domain=MS)
def _matmul_quantized(x: NodeInputs) -> Sequence[Typed | None]:
    scale = 2 if x.node.op_type == "MatMulIntegerToFloat" else 0
    return [(x.dtype(scale), matmul_dims(x.shape(0), x.shape(1)))]


# --- norms of onnxruntime -------------------------------------------------------------------------


@rule("SimplifiedLayerNormalization")
@rule("SimplifiedLayerNormalization", "LayerNormalization", domain=MS)
def _layer_norm(x: NodeInputs) -> Sequence[Typed | None]:
    dims = x.shape(0)
    axis = x.attr("axis", -1) % max(len(dims), 1)
    statistic: Typed = (ir.DataType.FLOAT, (*dims[:axis], *(1 for _ in dims[axis:])))
    return outputs(x, (x.dtype(0), dims), statistic, statistic)


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MS)
def _skip_layer_norm(x: NodeInputs) -> Sequence[Typed | None]:
    dims = x.shape(0)
    statistic: Typed = (ir.DataType.FLOAT, (*dims[:-1], 1))
    return outputs(x, (x.dtype(0), dims), statistic, statistic, (x.dtype(0), dims))


@rule("SkipGroupNorm", domain=MS)
def _skip_group_norm(x: NodeInputs) -> Sequence[Typed | None]:
    return outputs(x, (x.dtype(0), x.shape(0)), (x.dtype(0), x.shape(0)))


@rule("EmbedLayerNormalization", domain=MS)
def _embed_layer_norm(x: NodeInputs) -> Sequence[Typed | None]:
    ids, width = x.shape(0), x.shape(2)[1]
    embedded: Typed = (x.dtype(2), (*ids, width))
    return outputs(x, embedded, (ir.DataType.INT32, ids[:1]), embedded)


@rule("BiasSplitGelu", domain=MS)
def _split_gelu(x: NodeInputs) -> Sequence[Typed | None]:
    dims = x.shape(0)
    return [(x.dtype(0), (*dims[:-1], dims[-1] // 2))]


# --- attention of onnxruntime ---------------------------------------------------------------------


@rule("Attention", "QAttention", domain=MS)
def _attention(x: NodeInputs) -> Sequence[Typed | None]:
    batch, sequence, _ = x.shape(0)
    packed = x.shape(1)[1]
    sizes = x.attr("qkv_hidden_sizes")
    width = int(sizes[2]) if sizes else packed // 3
    quantized = x.node.op_type == "QAttention"
    dtype = x.dtype(3 if quantized else 0)
    past = x.optional(8 if quantized else 4)
    heads = int(x.attr("num_heads"))
    total = (past[3] if past else 0) + sequence
    return outputs(
        x, (dtype, (batch, sequence, width)), (dtype, (2, batch, heads, total, width // heads))
    )


@rule("MultiHeadAttention", domain=MS)
def _multi_head_attention(x: NodeInputs) -> Sequence[Typed | None]:
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
    return outputs(
        x,
        (dtype, (batch, sequence, heads * head_v)),
        (dtype, (batch, heads, total, head_q)),
        (dtype, (batch, heads, total, head_v)),
        (dtype, (batch, heads, sequence, total)),
    )


@rule("GroupQueryAttention", domain=MS)
def _group_query_attention(x: NodeInputs) -> Sequence[Typed | None]:
    batch, sequence, width = x.shape(0)
    heads, kv_heads = int(x.attr("num_heads")), int(x.attr("kv_num_heads"))
    head = width // heads if x.has(1) else width // (heads + 2 * kv_heads)
    past, total = x.optional(3), x.value(6)
    length = past[2] if past else 0
    present = max(length, int(total.reshape(-1)[0])) if total is not None else length + sequence
    cache: Typed = (x.dtype(3) or x.dtype(0), (batch, kv_heads, present, head))
    scores: Typed = (x.dtype(0), (batch, heads, sequence, present))
    return outputs(x, (x.dtype(0), (batch, sequence, heads * head)), cache, cache, scores)


# --- convolution layouts --------------------------------------------------------------------------


@rule("QLinearGlobalAveragePool", domain=MS)
def _quantized_global_pool(x: NodeInputs) -> Sequence[Typed | None]:
    dims = x.shape(0)
    ones = (1,) * (len(dims) - 2)
    pooled = (dims[0], *ones, dims[-1]) if x.attr("channels_last", 0) else (*dims[:2], *ones)
    return [(x.dtype(0), pooled)]


@rule("QGemm", domain=MS)
def _quantized_gemm(x: NodeInputs) -> Sequence[Typed | None]:
    """A and B at inputs 0 and 3; the result is floating where no scale for it is given."""
    a, b = x.shape(0), x.shape(3)
    rows, columns = a[1 if x.attr("transA", 0) else 0], b[0 if x.attr("transB", 0) else 1]
    return [(x.dtype(8) if x.has(8) else x.dtype(1), (rows, columns))]


@rule("QLinearConcat", domain=MS)
def _quantized_concat(x: NodeInputs) -> Sequence[Typed | None]:
    shapes = [x.shape(i) for i in range(2, len(x.node.inputs), 3)]
    axis = x.attr("axis") % len(shapes[0])
    length = sum(s[axis] for s in shapes)
    return [(x.dtype(2), (*shapes[0][:axis], length, *shapes[0][axis + 1 :]))]


ALIASES: dict[tuple[str, str], str] = {
    (MS, "FusedConv"): "Conv",
    (MS, "QLinearAveragePool"): "MaxPool",  # AveragePool takes no integers
    (MS, "GatherND"): "GatherND",
    (MS, "Pad"): "Pad",
    (MS, "Range"): "Range",
    (MS, "Unique"): "Unique",
}
"""Fused ops with the shapes of a standard op (its extra attributes are dropped)."""
