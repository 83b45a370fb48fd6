"""Weights that onnxruntime takes as arrays: the same results, and the model stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from workbench import drawn, from_text

from graphprune.onnx import handover
from graphprune.onnx.handover import handed_over
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.onnx.save import save

W = drawn(8, 600, seed=1)
C = drawn(600, seed=2)
X = drawn(3, 8, seed=3)

IF = """g (float[N, 8] x, bool c) => (float[N, M] y)
<float[8, 600] w = {}> {
    y = If (c) <
        then_branch = one () => (float[N, M] a) { a = MatMul (x, w) },
        else_branch = two () => (float[N, M] b) { p = MatMul (x, w) b = Neg (p) }
    >
}"""


def product() -> ir.Model:
    return load(from_text("h = MatMul (x, w) y = Add (h, c)", {"w": W, "c": C})).model


def test_only_names_are_written_and_the_result_is_the_same() -> None:
    model = product()
    data = ir.to_proto(model).SerializeToString()
    with handed_over(model) as weights:
        small = ir.to_proto(model).SerializeToString()
        assert set(weights) == {"w", "c"}
        assert isinstance(weights["w"], ort.OrtValue)
        assert len(small) < len(data) / 20
    assert ir.to_proto(model).SerializeToString() == data
    plain = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    with Session(model) as session:
        assert np.array_equal(session.run({"x": X})["y"], plain)
    assert np.abs(plain).max() > 1


def test_the_model_is_whole_again_where_something_fails() -> None:
    model = product()
    before = model.graph.initializers["w"].const_value

    def fail() -> None:
        with handed_over(model):
            assert model.graph.initializers["w"].const_value is not before
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        fail()
    assert model.graph.initializers["w"].const_value is before


def test_small_tensors_and_unread_ones_are_written() -> None:
    model = product()
    model.graph.initializers["c"].const_value = ir.tensor(np.zeros(1, np.float32), name="c")
    with handed_over(model) as weights:
        assert set(weights) == {"w"}
    extra = ir.Value(name="unread", const_value=ir.tensor(W, name="unread"))
    model.graph.initializers["unread"] = extra
    with handed_over(model) as weights:
        assert set(weights) == {"w"}
    with Session(model) as session:
        assert session.run({"x": X})["y"].shape == (3, 600)


@pytest.mark.parametrize("outputs", [["w"], ["h", "w", "c"]])
def test_weights_that_are_asked_for(outputs: list[str]) -> None:
    with Session(product(), outputs=outputs) as session:
        found = session.run({"x": X})
    assert np.array_equal(found["w"], W)
    assert np.allclose(found["y"], X @ W + C, atol=1e-4)


def test_weights_that_only_bodies_read() -> None:
    values = ", ".join(map(repr, W.ravel().tolist()))
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]>\n' + IF.replace("{}", "{" + values + "}", 1)
    )
    model = ir.from_proto(proto)
    with handed_over(model) as weights:
        assert set(weights) == {"w"}
    with Session(model) as session:
        found = session.run({"x": X, "c": np.array(False)})["y"]
    assert np.allclose(found, -(X @ W), atol=1e-4)


def test_files_stay_where_they_are_beside_weights_in_memory(tmp_path: Path) -> None:
    save(product(), tmp_path / "m.onnx", external=True)
    model = load(tmp_path / "m.onnx").model
    other = drawn(8, 600, seed=9)
    model.graph.initializers["w"].const_value = ir.tensor(other, name="w")
    assert isinstance(model.graph.initializers["c"].const_value, ir.ExternalTensor)
    with handed_over(model) as weights:
        assert set(weights) == {"w"}
    with Session(model) as session:
        assert np.allclose(session.run({"x": X})["y"], X @ other + C, atol=1e-4)


@pytest.mark.parametrize("dtype", handover._DTYPES)
def test_every_dtype_arrives(dtype: ir.DataType) -> None:
    array = (7 * drawn(40, 40, 8, seed=4)).astype(dtype.numpy())
    body = from_text("y = Add (x, w)", {"w": W[:1]}, inputs="float[8] x", outputs="float[8] y")
    model = ir.from_proto(body)
    value = model.graph.initializers["w"]
    value.const_value = ir.tensor(array, name="w")
    value.dtype = dtype
    for end in (*model.graph.inputs, *model.graph.outputs):
        end.dtype, end.shape = dtype, None
    ones = np.ones(8, dtype.numpy())
    with handed_over(model) as weights:
        assert set(weights) == {"w"}
    if dtype in (ir.DataType.INT8, ir.DataType.UINT8):  # no such kernel of Add
        model.graph.node(0).op_type = "BitwiseXor"
    with Session(model) as session:
        found = session.run({model.graph.inputs[0].name or "": ones})["y"]
    wanted = array ^ ones if model.graph.node(0).op_type == "BitwiseXor" else array + ones
    assert np.array_equal(found, wanted)
