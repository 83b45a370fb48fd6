from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from graphprune.errors import UsageError
from graphprune.onnx.bindings import RUNGS, default_bindings, dynamic_dims, input_dims


def model(inputs: str) -> ir.Model:
    names = [part.split()[-1] for part in inputs.split(", ") if not part.strip()[0].isdigit()]
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}) => (float y)'
    return ir.from_proto(onnx.parser.parse_model(text + f" {{ y = Identity ({names[-1]}) }}"))


@pytest.mark.parametrize(
    ("inputs", "first", "second"),
    [
        ("float[1,3,224,224] x", {}, {}),
        ("float[N,3,H,W] x", {"N": 2, "H": 64, "W": 64}, {"N": 3, "H": 96, "W": 96}),
        ("float[?,3,?,?] x", {"x:0": 2, "x:2": 64, "x:3": 64}, {"x:0": 3, "x:2": 96, "x:3": 96}),
        ("int64[batch,seq] x", {"batch": 2, "seq": 12}, {"batch": 3, "seq": 17}),
        ("int64[a,p] x, int64[a,q] z", {"a": 2, "p": 12, "q": 13}, {"a": 3, "p": 17, "q": 18}),
        ("float[1,samples] x", {"samples": 512}, {"samples": 768}),
        (
            "int64[batch,sequence_length] i, int64[batch,total_sequence_length] m, "
            "float[batch,4,past_sequence_length,8] p",
            {
                "batch": 2,
                "sequence_length": 12,
                "past_sequence_length": 5,
                "total_sequence_length": 17,
            },
            {
                "batch": 3,
                "sequence_length": 17,
                "past_sequence_length": 7,
                "total_sequence_length": 24,
            },
        ),
        ("float[?,?] x, float[2,?,128] s", {"x:0": 2, "x:1": 12, "s:1": 2}, None),
    ],
)
def test_defaults_by_name_and_position(
    inputs: str, first: dict[str, int], second: dict[str, int] | None
) -> None:
    found = default_bindings(model(inputs))
    assert found[0] == first
    if second is not None:
        assert found[1] == second
    for name in found[0]:
        assert found[0][name] != found[1][name]
        assert 1 not in (found[0][name], found[1][name])


def test_overrides_hold_in_both_bindings() -> None:
    first, second = default_bindings(model("float[N,3,H,W] x"), {"H": 128, "N": 1})
    assert (first["H"], second["H"], first["N"], second["N"]) == (128, 128, 1, 1)
    assert (first["W"], second["W"]) == (64, 96)


def test_overrides_address_dims_without_a_name() -> None:
    assert default_bindings(model("float[?,3] x"), {"x:0": 7})[1] == {"x:0": 7}


def test_overrides_that_fit_nothing() -> None:
    with pytest.raises(UsageError, match=r"no dynamic dimension 'X'.*'N'"):
        default_bindings(model("float[N,3] x"), {"X": 2})
    with pytest.raises(UsageError, match="at least 1"):
        default_bindings(model("float[N,3] x"), {"N": 0})
    with pytest.raises(UsageError, match="all shapes are static"):
        default_bindings(model("float[2,3] x"), {"N": 1})


def test_dims_that_are_arithmetic_over_others_are_computed() -> None:
    graph = model("int64[b,s] i, int64[b,k] m")
    mask = graph.graph.inputs[1]
    mask.shape = ir.Shape([ir.SymbolicDim("b"), ir.SymbolicDim("past + s")])
    graph.graph.inputs.append(
        ir.Value(
            name="p", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["b", 4, "past", 8])
        )
    )
    assert set(dynamic_dims(graph)) == {"b", "s", "past"}
    binding = default_bindings(graph)[0]
    assert input_dims(mask, binding) == (2, binding["past"] + binding["s"])


def test_a_name_with_a_dash_is_a_plain_name() -> None:
    graph = model("float[b,3] x")
    graph.graph.inputs[0].shape = ir.Shape([ir.SymbolicDim("batch-size"), 3])
    assert default_bindings(graph)[0] == {"batch-size": 2}


def test_initializers_that_are_listed_as_inputs_have_no_dims_to_bind() -> None:
    graph = model("float[N,3] x, float[K,3] w")
    graph.graph.inputs[1].const_value = ir.tensor([[1.0, 2.0, 3.0]], name="w")
    graph.graph.initializers["w"] = graph.graph.inputs[1]
    assert set(dynamic_dims(graph)) == {"N"}


def test_later_rungs_are_different_sizes() -> None:
    graph = model("float[N,3,H,W] x")
    sizes = [default_bindings(graph, None, rung)[0]["H"] for rung in range(len(RUNGS))]
    assert len(set(sizes)) == len(RUNGS)


def test_a_question_mark_is_no_name_that_two_dims_could_share() -> None:
    shape = [None, 3, "?", "?"]
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    found = input_dims(
        ir.serde.deserialize_value_info_proto(value, None), {"x:0": 1, "x:2": 48, "x:3": 192}
    )
    assert found == (1, 3, 48, 192)
