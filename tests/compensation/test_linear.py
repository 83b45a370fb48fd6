"""Layers as matrices: rows times weights plus bias is what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import drawn, from_text

from graphprune.compensation.linear import input_rows, linear_of, output_rows, write_back
from graphprune.onnx.load import load
from graphprune.onnx.names import FreshNames
from graphprune.onnx.runtime import Session

CONVS = [
    ("pads = [1, 1, 1, 1]", (6, 4, 3, 3), (2, 4, 7, 9)),
    ("strides = [2, 1], dilations = [1, 2], pads = [0, 1, 2, 3]", (6, 4, 3, 2), (2, 4, 7, 9)),
    ("group = 2, pads = [1, 0, 1, 0]", (6, 2, 3, 3), (2, 4, 7, 9)),
    ("group = 4", (8, 1, 2, 2), (3, 4, 5, 5)),
    ('auto_pad = "SAME_UPPER", strides = [2, 2]', (6, 4, 3, 3), (2, 4, 8, 7)),
    ('auto_pad = "SAME_LOWER", strides = [2, 2]', (6, 4, 2, 2), (2, 4, 7, 7)),
    ('auto_pad = "VALID"', (6, 4, 3, 3), (2, 4, 7, 7)),
    ("strides = [3], pads = [2, 1]", (5, 4, 4), (2, 4, 11)),
]
TRANSPOSED = [
    ("pads = [1, 1, 1, 1], strides = [2, 2]", (4, 5, 3, 3), (2, 4, 4, 5)),
    ("strides = [2, 1], output_padding = [1, 0], pads = [0, 1, 1, 0]", (4, 3, 3, 2), (2, 4, 4, 5)),
    ("group = 2, dilations = [2, 1]", (4, 3, 2, 3), (2, 4, 4, 5)),
    ("strides = [3]", (4, 3, 5), (2, 4, 6)),
]
MATRICES = [
    ("y = MatMul (x, w)", (8, 5), (2, 3, 8), {}),
    ("a = MatMul (x, w) y = Add (b, a)", (8, 5), (2, 3, 8), {"b": (5,)}),
    ("y = Gemm (x, w, b)", (8, 5), (6, 8), {"b": (5,)}),
    ("y = Gemm <transB = 1> (x, w)", (5, 8), (6, 8), {}),
    ("y = Gemm (x, w, b)", (8, 5), (6, 8), {"b": (1,)}),
    ("y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", (8, 5), (6, 8), {"b": (5,)}),
    ("y = com.microsoft.FusedMatMul <alpha = 0.5, transB = 1> (x, w)", (5, 8), (2, 3, 8), {}),
    ('y = Einsum <equation = "btgi,gio->btgo"> (x, w)', (3, 4, 5), (2, 6, 3, 4), {}),
    ('y = Einsum <equation = "...gi,goi->...go"> (x, w)', (3, 5, 4), (2, 6, 3, 4), {}),
    ('y = Einsum <equation = "bct,oc->bot"> (x, w)', (5, 4), (2, 4, 6), {}),
]


def check(text: str, weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
    axes = ", ".join(str(n) for n in shape)
    out = ", ".join("ABCD"[: len(shape)])
    proto = from_text(text, weights, inputs=f"float[{axes}] x", outputs=f"float[{out}] y")
    model = load(proto).model
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with Session(model) as session:
        y = session.run({"x": x})["y"]
    node = next(n for n in model.graph if n.op_type != "Add")
    layer = linear_of(node)
    assert layer is not None
    chosen = np.arange(0, y.size // layer.bias.size, 2)

    def result(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        rows = input_rows(layer, x, y.shape, chosen) @ weight + bias[:, None]
        return rows.transpose(1, 0, 2).reshape(len(chosen), -1)

    np.testing.assert_allclose(
        result(layer.weights, layer.bias), output_rows(layer, y, chosen), atol=1e-4
    )
    rng = np.random.default_rng(2)
    weight = rng.normal(size=layer.weights.shape)
    bias = rng.normal(size=layer.bias.shape) if layer.biased else layer.bias
    nodes = len(list(model.graph))
    write_back(layer, weight, bias, FreshNames(model))
    assert len(list(model.graph)) == nodes
    with Session(model) as session:
        y = session.run({"x": x})["y"]
    np.testing.assert_allclose(
        result(weight, bias), output_rows(layer, y, chosen), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize(("attributes", "kernel", "shape"), CONVS)
@pytest.mark.parametrize("bias", [False, True])
def test_convolutions(
    attributes: str, kernel: tuple[int, ...], shape: tuple[int, ...], bias: bool
) -> None:
    weights = {"w": drawn(*kernel, fan_in=8)}
    if bias:
        weights["b"] = drawn(kernel[0])
    operands = "x, w, b" if bias else "x, w"
    check(f"y = Conv <{attributes}> ({operands})", weights, shape)


@pytest.mark.parametrize(("attributes", "kernel", "shape"), TRANSPOSED)
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolutions(
    attributes: str, kernel: tuple[int, ...], shape: tuple[int, ...], bias: bool
) -> None:
    groups = 2 if "group" in attributes else 1
    weights = {"w": drawn(*kernel, fan_in=8)}
    if bias:
        weights["b"] = drawn(groups * kernel[1])
    operands = "x, w, b" if bias else "x, w"
    check(f"y = ConvTranspose <{attributes}> ({operands})", weights, shape)


@pytest.mark.parametrize(("text", "kernel", "shape", "more"), MATRICES)
def test_matrix_products(
    text: str,
    kernel: tuple[int, ...],
    shape: tuple[int, ...],
    more: dict[str, tuple[int, ...]],
) -> None:
    check(text, {"w": drawn(*kernel), **{n: drawn(*s) for n, s in more.items()}}, shape)


@pytest.mark.parametrize(
    "text",
    [
        'y = Einsum <equation = "ni,ij,jk->nk"> (x, w, w)',
        'y = Einsum <equation = "ni,jk->ni"> (x, w)',
        'y = ConvTranspose <auto_pad = "SAME_UPPER"> (x, w)',
        "y = Gemm <transA = 1> (x, w)",
        "y = MatMul (w, x)",
        "y = Add (x, w)",
    ],
)
def test_what_is_not_refitted(text: str) -> None:
    model = load(from_text(text, {"w": drawn(8, 8)}, inputs="float[8, 8] x")).model
    assert linear_of(next(iter(model.graph))) is None


def test_a_shared_weight_is_copied_for_the_layer() -> None:
    text = "a = MatMul (x, w) b = Relu (a) y = MatMul (b, w)"
    model = load(from_text(text, {"w": drawn(8, 8)}, outputs="float[N, 8] y")).model
    first, _, last = list(model.graph)
    layer = linear_of(first)
    assert layer is not None
    before = last.inputs[1].const_value.numpy().copy()
    write_back(layer, 2 * layer.weights, layer.bias, FreshNames(model))
    np.testing.assert_array_equal(last.inputs[1].const_value.numpy(), before)
    np.testing.assert_allclose(first.inputs[1].const_value.numpy(), 2 * before)
