"""Multiply-accumulates of the ops that contract, from shapes alone.

Convention: 1 MAC = one multiply-add of a contraction (convolution, matrix product, recurrent cell,
attention). Elementwise ops, norms, softmax, pools, resizes, lookups and biases count 0. Padding and
causal masks do not lower the count: a kernel runs over every output position, attention over every
query-key pair. Zero weights count like any other, because onnxruntime multiplies them too.

Every function takes the node and `dims`, which gives the concrete shape of a value and raises where
it is unknown. `MACS` maps (domain, op) to its function; what is not in it costs 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import onnx_ir as ir

from graphprune.rules.shared.einsum import contraction_macs

Dims = Callable[[ir.Value], tuple[int, ...]]
MacFunction = Callable[[ir.Node, Dims], int]


def conv_macs(node: ir.Node, dims: Dims, weight: int = 1) -> int:
    """Conv with W `[M, C/group, *kernel]` at input `weight`: output elements x C/group x kernel."""
    return prod(dims(_output(node))) * prod(dims(_input(node, weight))[1:])


def conv_transpose_macs(node: ir.Node, dims: Dims) -> int:
    """ConvTranspose with W `[C, M/group, *kernel]`: input elements x M/group x kernel."""
    return prod(dims(_input(node, 0))) * prod(dims(_input(node, 1))[1:])


def gemm_macs(node: ir.Node, dims: Dims) -> int:
    """Gemm: M x N x K, whichever operand is stored transposed."""
    inner = dims(_input(node, 0))[0 if _int(node, "transA") else 1]
    return prod(dims(_output(node))) * inner


def matmul_macs(node: ir.Node, dims: Dims) -> int:
    """MatMul with numpy's broadcasting, also of two vectors; FusedMatMul's `transA` counts too."""
    left = dims(_input(node, 0))
    # transBatchA moves the batch axes behind the rows: [M, *batch, K] instead of [*batch, M, K].
    if len(left) > 1 and _int(node, "transA"):
        inner = left[0 if _int(node, "transBatchA") else -2]
    else:
        inner = left[-1]
    return prod(dims(_output(node))) * inner


def matmul_n_bits_macs(node: ir.Node, dims: Dims) -> int:
    """MatMul with a packed weight of `K` rows and `N` columns (both attributes)."""
    return prod(dims(_input(node, 0))) * _int(node, "N")


def einsum_macs(node: ir.Node, dims: Dims) -> int:
    """Einsum, operands contracted pairwise from left to right, as onnxruntime does."""
    operands = [dims(value) for value in node.inputs if value is not None]
    return contraction_macs(node.attributes["equation"].as_string(), operands)


def lstm_macs(node: ir.Node, dims: Dims) -> int:
    """LSTM, GRU, RNN: tokens x (W + R). W `[directions, gates x hidden, input]` (4, 3, 1 gates)."""
    tokens = prod(dims(_input(node, 0))[:2])
    return tokens * (prod(dims(_input(node, 1))) + prod(dims(_input(node, 2))))


def attention_macs(node: ir.Node, dims: Dims) -> int:
    """Attention of ai.onnx (opset 23+): Q.K^T and P.V over the past and present keys.

    Operands are `[batch, heads, length, head size]` or `[batch, length, heads x head size]`.
    """
    query, key, value = (dims(_input(node, i)) for i in range(3))
    past = _length(node, dims, 4, axis=2)
    if len(query) == 4:
        batch, heads, length, size = query
        return batch * heads * length * (key[2] + past) * (size + value[3])
    batch, length, hidden = query
    # With grouped queries a key-value head serves several query heads, which all read its width.
    value_hidden = value[2] // _int(node, "kv_num_heads") * _int(node, "q_num_heads")
    return batch * length * (key[1] + past) * (hidden + value_hidden)


def fused_attention_macs(node: ir.Node, dims: Dims, past: int = 4) -> int:
    """com.microsoft Attention, QAttention: packed projection, then attention over past + present.

    X `[batch, length, input]`, W `[input, q + k + v]`, past `[2, batch, heads, past, head size]`.
    """
    batch, length, _ = dims(_input(node, 0))
    weight = dims(_input(node, 1))
    hidden = _ints(node, "qkv_hidden_sizes") or (weight[1] // 3,) * 3
    total = length + _length(node, dims, past, axis=3)
    return batch * length * (prod(weight) + total * (hidden[0] + hidden[2]))


def multi_head_attention_macs(node: ir.Node, dims: Dims) -> int:
    """com.microsoft MultiHeadAttention: separate, packed QKV or packed KV, cross attention.

    Packed QKV is one tensor `[batch, length, heads, 3, head size]`, packed KV
    `[batch, kv length, heads, 2, head size]`; keys and values may also come as
    `[batch, heads, kv length, head size]`.
    """
    query = dims(_input(node, 0))
    key = _dims_or_none(node, dims, 1)
    value = _dims_or_none(node, dims, 2)
    batch, length = query[:2]
    if len(query) == 5 or key is None:
        hidden = value_hidden = query[2] * query[4]
        keys = length
    elif len(key) == 5 or value is None:
        hidden = value_hidden = query[2]
        keys = key[1]
    else:
        hidden = query[2]
        keys = key[2] if len(key) == 4 else key[1]
        value_hidden = value[1] * value[3] if len(value) == 4 else value[2]
    keys += _length(node, dims, 6, axis=2)
    return batch * length * keys * (hidden + value_hidden)


def grouped_query_attention_macs(node: ir.Node, dims: Dims) -> int:
    """com.microsoft GroupQueryAttention: every query head over its group's past and present keys.

    Q `[batch, length, heads x head size]`, or with no key input the packed
    `[batch, length, (heads + 2 x kv heads) x head size]`. With the past and present in one buffer
    the count is that of a full buffer.
    """
    batch, length, hidden = dims(_input(node, 0))
    heads = _int(node, "num_heads")
    if _value(node, 1) is None:
        hidden = hidden // (heads + 2 * _int(node, "kv_num_heads")) * heads
    present = node.outputs[1] if len(node.outputs) > 1 else None
    past = _value(node, 3)
    if present is not None and present.name:
        keys = dims(present)[2]
    else:
        keys = length + (dims(past)[2] if past is not None else 0)
    return batch * length * keys * 2 * hidden


_ORT = "com.microsoft"

MACS: dict[tuple[str, str], MacFunction] = {
    ("", "Conv"): conv_macs,
    ("", "ConvInteger"): conv_macs,
    ("", "DeformConv"): conv_macs,
    ("", "QLinearConv"): partial(conv_macs, weight=3),
    ("", "ConvTranspose"): conv_transpose_macs,
    ("", "Gemm"): gemm_macs,
    ("", "MatMul"): matmul_macs,
    ("", "MatMulInteger"): matmul_macs,
    ("", "QLinearMatMul"): matmul_macs,
    ("", "Einsum"): einsum_macs,
    ("", "LSTM"): lstm_macs,
    ("", "GRU"): lstm_macs,
    ("", "RNN"): lstm_macs,
    ("", "Attention"): attention_macs,
    (_ORT, "FusedConv"): conv_macs,
    (_ORT, "QLinearConv"): partial(conv_macs, weight=3),
    (_ORT, "ConvTransposeWithDynamicPads"): conv_transpose_macs,
    (_ORT, "FusedGemm"): gemm_macs,
    (_ORT, "QGemm"): gemm_macs,
    (_ORT, "FusedMatMul"): matmul_macs,
    (_ORT, "TransposeMatMul"): matmul_macs,
    (_ORT, "GemmFastGelu"): matmul_macs,
    (_ORT, "DynamicQuantizeMatMul"): matmul_macs,
    (_ORT, "MatMulIntegerToFloat"): matmul_macs,
    (_ORT, "MatMulNBits"): matmul_n_bits_macs,
    (_ORT, "MatMulBnb4"): matmul_n_bits_macs,
    (_ORT, "DynamicQuantizeLSTM"): lstm_macs,
    (_ORT, "Attention"): fused_attention_macs,
    (_ORT, "QAttention"): partial(fused_attention_macs, past=8),
    (_ORT, "MultiHeadAttention"): multi_head_attention_macs,
    (_ORT, "GroupQueryAttention"): grouped_query_attention_macs,
}


def _value(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _input(node: ir.Node, index: int) -> ir.Value:
    value = _value(node, index)
    if value is None:
        raise ValueError(f"{node.op_type} {node.name!r} lacks its input {index}")
    return value


def _output(node: ir.Node) -> ir.Value:
    return node.outputs[0]


def _dims_or_none(node: ir.Node, dims: Dims, index: int) -> tuple[int, ...] | None:
    value = _value(node, index)
    return None if value is None else dims(value)


def _length(node: ir.Node, dims: Dims, index: int, axis: int) -> int:
    """The length of `axis` of an optional input (a key-value cache), 0 where it is absent."""
    shape = _dims_or_none(node, dims, index)
    return 0 if shape is None else shape[axis]


def _int(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else attribute.as_int()


def _ints(node: ir.Node, name: str) -> tuple[int, ...]:
    attribute = node.attributes.get(name)
    return () if attribute is None else tuple(attribute.as_ints())
