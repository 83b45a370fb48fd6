"""Shapes of onnxruntime's fused ops, against what onnxruntime returns."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.onnx.runtime import Session
from graphprune.onnx.shapes import infer_shapes

F, I32, I64, U8 = np.float32, np.int32, np.int64, np.uint8


def f(*dims: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(dims).astype(F)


def quantised(*dims: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9, dims).astype(U8)


SCALE, ZERO = np.array(0.1, F), np.array(0, U8)

# op -> (inputs, attributes, outputs); None is an omitted input, arrays of integers are constants.
CASES: dict[str, tuple[str, list[np.ndarray | None], dict[str, object], int]] = {
    "attention": ("Attention", [f(2, 5, 12), f(12, 36), f(36)], {"num_heads": 3}, 1),
    "attention, own widths": (
        "Attention",
        [f(2, 5, 12), f(12, 30), f(30)],
        {"num_heads": 3, "qkv_hidden_sizes": [12, 12, 6]},
        1,
    ),
    "attention, past": (
        "Attention",
        [f(2, 5, 12), f(12, 36), f(36), None, f(2, 2, 3, 7, 4)],
        {"num_heads": 3, "unidirectional": 1},
        2,
    ),
    "multi-head": (
        "MultiHeadAttention",
        [f(2, 5, 12), f(2, 7, 12), f(2, 7, 18)],
        {"num_heads": 3},
        1,
    ),
    "multi-head, cross": (
        "MultiHeadAttention",
        [f(2, 5, 12), f(2, 3, 7, 4), f(2, 3, 7, 4)],
        {"num_heads": 3},
        1,
    ),
    "multi-head, past": (
        "MultiHeadAttention",
        [f(2, 5, 12), f(2, 5, 12), f(2, 5, 12), None, None, None, f(2, 3, 4, 4), f(2, 3, 4, 4)],
        {"num_heads": 3},
        3,
    ),
    "grouped query": (
        "GroupQueryAttention",
        [
            f(2, 5, 32),
            f(2, 5, 16),
            f(2, 5, 16),
            None,
            None,
            np.array([4, 4], I32),
            np.array(5, I32),
        ],
        {"num_heads": 4, "kv_num_heads": 2},
        3,
    ),
    "grouped query, packed, past": (
        "GroupQueryAttention",
        [
            f(2, 1, 64),
            None,
            None,
            f(2, 2, 6, 8),
            f(2, 2, 6, 8),
            np.array([6, 6], I32),
            np.array(7, I32),
        ],
        {"num_heads": 4, "kv_num_heads": 2},
        3,
    ),
    "skip layer norm": (
        "SkipLayerNormalization",
        [f(2, 5, 8), f(2, 5, 8), f(8), f(8), f(8)],
        {},
        4,
    ),
    "skip rms norm": (
        "SkipSimplifiedLayerNormalization",
        [f(2, 5, 8), f(2, 5, 8), f(8)],
        {},
        4,
    ),
    "embed layer norm": (
        "EmbedLayerNormalization",
        [
            np.ones((2, 5), I32),
            np.zeros((2, 5), I32),
            f(9, 8),
            f(6, 8),
            f(2, 8),
            f(8),
            f(8),
            np.ones((2, 5), I32),
        ],
        {},
        2,
    ),
    "bias gelu": ("BiasGelu", [f(2, 5, 8), f(8)], {}, 1),
    "fast gelu": ("FastGelu", [f(2, 5, 8), f(8)], {}, 1),
    "quick gelu": ("QuickGelu", [f(2, 5, 8)], {"alpha": 1.7}, 1),
    "fused matmul": ("FusedMatMul", [f(3, 8, 5), f(3, 8, 6)], {"transA": 1}, 1),
    "fused matmul, both": ("FusedMatMul", [f(3, 8, 5), f(3, 6, 8)], {"transA": 1, "transB": 1}, 1),
    "fused matmul, batch": (
        "FusedMatMul",
        [f(5, 3, 8), f(3, 8, 6)],
        {"transBatchA": 1},
        1,
    ),
    "fused gemm": ("FusedGemm", [f(5, 8), f(6, 8), f(6)], {"transB": 1, "activation": "Relu"}, 1),
    "fused conv": (
        "FusedConv",
        [f(2, 3, 9, 9), f(4, 3, 3, 3), f(4)],
        {"activation": "Relu", "strides": [2, 2], "pads": [1, 1, 1, 1]},
        1,
    ),
    "rotary": (
        "RotaryEmbedding",
        [f(2, 5, 16), np.tile(np.arange(5), (2, 1)), f(8, 4), f(8, 4)],
        {"num_heads": 2},
        1,
    ),
    "quantised add": (
        "QLinearAdd",
        [quantised(2, 8), SCALE, ZERO, quantised(8), SCALE, ZERO, SCALE, ZERO],
        {},
        1,
    ),
    "quantised pool": (
        "QLinearGlobalAveragePool",
        [quantised(2, 8, 5, 5), SCALE, ZERO, SCALE, ZERO],
        {},
        1,
    ),
    "quantised concat": (
        "QLinearConcat",
        [SCALE, ZERO, quantised(2, 3), SCALE, ZERO, quantised(2, 5), SCALE, ZERO],
        {"axis": 1},
        1,
    ),
    "dynamic quantised product": (
        "DynamicQuantizeMatMul",
        [f(2, 5, 8), quantised(8, 6), SCALE, ZERO],
        {},
        1,
    ),
    "quantise": ("QuantizeLinear", [f(2, 8), SCALE, ZERO], {}, 1),
    "dequantise": ("DequantizeLinear", [quantised(2, 8), SCALE, ZERO], {}, 1),
    "packed 4 bit product": (
        "MatMulNBits",
        [f(2, 5, 32), quantised(6, 1, 16), f(6)],
        {"K": 32, "N": 6, "bits": 4, "block_size": 32},
        1,
    ),
    "trilu": ("Trilu", [f(2, 5, 5)], {"upper": 0}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_fused_ops_have_the_shapes_that_onnxruntime_gives(case: str) -> None:
    op, arrays, attributes, count = CASES[case]
    names = ["" if a is None else f"i{i}" for i, a in enumerate(arrays)]
    node = onnx.helper.make_node(
        op, names, [f"o{i}" for i in range(count)], domain="com.microsoft", **attributes
    )
    given = [(n, a) for n, a in zip(names, arrays, strict=True) if a is not None]
    inputs = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for n, a in given
        if a.dtype.kind == "f"
    ]
    constants = [onnx.numpy_helper.from_array(a, n) for n, a in given if a.dtype.kind != "f"]
    outputs = [onnx.ValueInfoProto(name=f"o{i}") for i in range(count)]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs, constants)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model = ir.from_proto(proto)
    shapes = infer_shapes(model, {})
    with Session(model, optimize=False) as session:
        results = session.run({n: a for n, a in given if a.dtype.kind == "f"})
    assert not shapes.unknown
    for value in model.graph.outputs:
        array = results[value.name]
        if not array.size:
            continue  # statistics that onnxruntime's CPU kernels leave out
        assert shapes.dims[value] == array.shape
        assert shapes.dtypes[value].numpy() == array.dtype
