from __future__ import annotations

import onnx_ir as ir
import pytest

from graphprune.measure.cost import count_macs
from graphprune.onnx.shapes import infer_shapes

CONV = """<ir_version: 10, opset_import: ["" : 20]>
net (float[n, 3, 8, 8] x, float[5, 3, 3, 3] w, float[4, 5] v) => (float[n, 4] y) {
  [stem] c = Conv<pads = [1, 1, 1, 1]>(x, w)
  r = Relu(c)
  g = GlobalAveragePool(r)
  f = Flatten(g)
  y = Gemm<transB = 1>(f, v)
}"""


def count(text: str, **binding: int):
    model = ir.from_onnx_text(text)
    return count_macs(model, infer_shapes(model, binding))


@pytest.mark.parametrize("batch", [1, 3])
def test_sums_contractions_and_scales_with_batch(batch):
    result = count(CONV, n=batch)
    conv, gemm = batch * 5 * 64 * 27, batch * 4 * 5
    # A node without a name is called after its first output.
    assert result.by_node == {"stem": conv, "y": gemm}
    assert result.total == conv + gemm
    assert result.unknown == ()


LOOP = """<ir_version: 10, opset_import: ["" : 20]>
net (float[2, 3] x, bool go, float[3, 3] w) => (float[2, 3] y)
<int64 trips = {6}> {
  y = Loop(trips, go, x) <body = step (int64 i, bool c, float[2, 3] s)
    => (bool d, float[2, 3] t) { d = Identity(c)  [mm] t = MatMul(s, w) }>
}"""


def test_loop_counts_its_body_once_for_each_trip():
    assert count(LOOP).by_node == {"mm": 6 * 2 * 3 * 3}


IF = """<ir_version: 10, opset_import: ["" : 20]>
net (float[2, 3] x, bool p, float[3, 4] w, float[3, 8] a, float[8, 4] b) => (float[2, 4] y) {
  y = If(p) <
    then_branch = one () => (float[2, 4] t) { t = MatMul(x, w) },
    else_branch = two () => (float[2, 4] e) { h = MatMul(x, a)  e = MatMul(h, b) }>
}"""


def test_if_counts_its_costlier_branch():
    assert count(IF).by_node == {"h": 2 * 3 * 8, "e": 2 * 8 * 4}


def test_contraction_of_unknown_shape_is_named_not_guessed():
    model = ir.from_onnx_text(CONV)
    shapes = infer_shapes(model, {"n": 1})
    conv = model.graph[0]
    known = {value: dims for value, dims in shapes.dims.items() if value is not conv.outputs[0]}
    partial = type("Partial", (), {"dims": known, "values": {}})()
    result = count_macs(model, partial)
    assert result.unknown == ("stem",)
    assert result.total == 4 * 5


def test_a_registered_rule_decides():
    model = ir.from_onnx_text(CONV)
    shapes = infer_shapes(model, {"n": 1})
    result = count_macs(model, shapes, lambda node: (lambda n, dims: 7) if node.name else None)
    assert result.by_node == {"stem": 7}
