from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphprune.onnx.runtime import Session
from graphprune.passes import GatherChannelShufflesPass


def shuffle(groups: int, *, perm: str = "0, 2, 1, 3, 4", batch: str = "N") -> ir.Model:
    inner = 12 // groups
    return ir.from_onnx_text(f"""
    <ir_version: 10, opset_import: ["" : 18]>
    agraph (float[{batch}, 12, 4, 5] x) => (float[{batch}, 12, 4, 5] y)
    <int64[5] split = {{-1, {groups}, {inner}, 4, 5}}, int64[4] merge = {{-1, 12, 4, 5}}>
    {{
        a = Reshape(x, split)
        b = Transpose<perm = [{perm}]>(a)
        c = Reshape(b, merge)
        y = Relu(c)
    }}
    """)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    with Session(model) as session:
        return session.run({"x": x})["y"]


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
@pytest.mark.parametrize("batch", ["N", "3"])
def test_a_shuffle_becomes_one_gather(groups: int, batch: str) -> None:
    model = shuffle(groups, batch=batch)
    x = np.random.default_rng(0).standard_normal((3, 12, 4, 5), np.float32)
    before = run(model, x)
    result = GatherChannelShufflesPass()(model)
    assert result.modified
    assert [n.op_type for n in model.graph] == ["Gather", "Relu"]
    np.testing.assert_array_equal(run(model, x), before)


def test_names_of_source_and_result_stay() -> None:
    model = shuffle(3)
    GatherChannelShufflesPass()(model)
    gather = model.graph.node(0)
    assert gather.inputs[0] is model.graph.inputs[0]
    assert gather.outputs[0].name == "c"


def test_a_transpose_that_moves_positions_too_is_left() -> None:
    model = shuffle(3, perm="0, 1, 2, 4, 3")
    assert not GatherChannelShufflesPass()(model).modified


def test_an_intermediate_result_with_another_reader_is_left() -> None:
    model = shuffle(3)
    between = model.graph.node(1).outputs[0]
    between.name = "kept"
    extra = ir.node("Identity", [between])
    extra.outputs[0].name = "z"
    extra.outputs[0].type, extra.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), None
    model.graph.append(extra)
    model.graph.outputs.append(extra.outputs[0])
    assert not GatherChannelShufflesPass()(model).modified
