"""What nothing reads any more goes, with what only it read; what nobody ever read stays."""

from __future__ import annotations

from workbench import drawn, from_text

from graphprune.onnx.load import load
from graphprune.onnx.unread import drop_unread, read_values

TEXT = "a = MatMul (x, w) b = Relu (a) c = MatMul (x, v) d = Relu (c) y = Add (b, d)"


def test_a_branch_goes_with_its_weight() -> None:
    model = load(from_text(TEXT, {"w": drawn(8, 4), "v": drawn(8, 4), "spare": drawn(3)})).model
    before = read_values(model)
    add = next(n for n in model.graph if n.op_type == "Add")
    add.replace_input_with(1, add.inputs[0])
    drop_unread(model, before)
    assert [n.op_type for n in model.graph] == ["MatMul", "Relu", "Add"]
    assert set(model.graph.initializers) - {"spare"} == {"w"}


def test_bodies_are_part_of_the_model() -> None:
    text = (
        "q = If (flag) <then_branch = t () => (float[N, 4] r) { e = MatMul (x, w) r = Relu (e) }, "
        "else_branch = f () => (float[N, 4] s) { s = MatMul (x, w) }> y = Identity (q)"
    )
    proto = from_text(text, {"w": drawn(8, 4)}, inputs="float[N, 8] x, bool flag")
    model = load(proto).model
    assert {v.name for v in read_values(model)} >= {"x", "w", "e", "flag", "q"}
