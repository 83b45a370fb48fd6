from __future__ import annotations

import onnx_ir as ir

from graphprune.measure.memory import peak_activation_bytes
from graphprune.onnx.shapes import infer_shapes


def peak(text: str) -> int:
    model = ir.from_onnx_text(text)
    shapes = infer_shapes(model, {})
    return peak_activation_bytes(model, shapes.dims, shapes.dtypes)


HEAD = '<ir_version: 10, opset_import: ["" : 20]>\nnet '


def test_a_chain_holds_two_tensors_at_once():
    # x 40 bytes, a 40 bytes; when b is made x has gone.
    assert peak(HEAD + "(float[10] x) => (float[10] b) { a = Relu(x)  b = Neg(a) }") == 80


def test_a_skip_keeps_its_tensor_alive():
    text = HEAD + "(float[10] x) => (float[10] c) { a = Relu(x)  b = Neg(a)  c = Add(x, b) }"
    assert peak(text) == 120


def test_types_narrower_than_a_byte_and_double():
    assert peak(HEAD + "(double[10] x) => (double[10] y) { y = Relu(x) }") == 160
    assert peak(HEAD + "(float16[10] x) => (float16[10] y) { y = Relu(x) }") == 40


def test_weights_are_not_activations():
    text = HEAD + "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"
    assert peak(text) == 16


def test_what_a_branch_captures_stays_alive():
    text = HEAD + (
        "(float[10] x, bool p) => (float[10] y) { a = Relu(x)  b = Neg(x)  c = Abs(b)"
        "  y = If(p) <then_branch = t () => (float[10] u) { u = Add(a, c) },"
        " else_branch = e () => (float[10] v) { v = Identity(c) }> }"
    )
    # At y: a, c, y and the bool p; before it at c: a, b, c and p.
    assert peak(text) == 3 * 40 + 1
