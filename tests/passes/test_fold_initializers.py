from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes
import pytest

from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.runtime import Session
from graphprune.passes.fold_initializers import FoldInitializersPass

RNG = np.random.default_rng(0)


def model(body: str, weights: dict[str, np.ndarray], output: str = "float[N, M] y") -> ir.Model:
    text = '<ir_version: 10, opset_import: ["" : 18]> '
    text += f"g (float[N, 8] x) => ({output}) {{ {body} }}"
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def ops(graph: ir.Model) -> list[str]:
    return [n.op_type for n in graph.graph]


def check(source: ir.Model, expected: list[str]) -> ir.Model:
    """Fold a copy; the rest of the graph is `expected` and computes the same."""
    folded = canonicalise(source)
    assert ops(folded) == expected
    x = RNG.standard_normal((3, 8)).astype(np.float32)
    with Session(source) as before, Session(folded) as after:
        old, new = before.run({"x": x}), after.run({"x": x})
    assert float(np.abs(old["y"]).max()) > 0.1
    assert np.allclose(old["y"], new["y"], atol=1e-5)
    return folded


W = RNG.standard_normal((8, 6)).astype(np.float32)
I64 = np.int64

CASES = {
    "transpose": ("w2 = Transpose <perm = [1, 0]> (w) y = MatMul (x, w2)", {"w": W.T.copy()}),
    "cast": ("w2 = Cast <to = 1> (w) y = MatMul (x, w2)", {"w": W.astype(np.float16)}),
    "slice": (
        "w2 = Slice (w, a, b) y = MatMul (x, w2)",
        {
            "w": RNG.standard_normal((10, 6)).astype(np.float32),
            "a": np.array([1]),
            "b": np.array([9]),
        },
    ),
    "concat": (
        "w2 = Concat <axis = 1> (w, w) y = MatMul (x, w2)",
        {"w": W},
    ),
    "reshape": (
        "w2 = Reshape (w, s) y = MatMul (x, w2)",
        {"w": W.reshape(2, 24).copy(), "s": np.array([8, -1])},
    ),
    "unsqueeze and squeeze": (
        "a = Unsqueeze (w, i) w2 = Squeeze (a, i) y = MatMul (x, w2)",
        {"w": W, "i": np.array([1])},
    ),
    "arithmetic": ("a = Add (w, b) w2 = Mul (a, b) y = MatMul (x, w2)", {"w": W, "b": W[0]}),
    "gather": ("w2 = Gather <axis = 1> (w, i) y = MatMul (x, w2)", {"w": W, "i": np.array([3, 0])}),
    "an op only the reference evaluator has": (
        "w2 = Softplus (w) y = MatMul (x, w2)",
        {"w": W},
    ),
    "small constants": (
        "s = Constant <value = int64[1] {8}> () w2 = ConstantOfShape (s) v = Add (w2, b) "
        "y = Mul (x, v)",
        {"b": RNG.standard_normal(8).astype(np.float32)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_weight_side_nodes_fold_to_one_initializer(case: str) -> None:
    body, weights = CASES[case]
    source = model(
        body, {n: a.astype(I64) if a.dtype.kind == "i" else a for n, a in weights.items()}
    )
    last = ops(source)[-1]
    folded = check(source, [last])
    (node,) = folded.graph
    weight = node.inputs[1]
    assert weight.name == source.graph[-1].inputs[1].name
    assert set(folded.graph.initializers) == {weight.name}
    assert weight.shape == ir.Shape(weight.const_value.shape)


def test_an_identity_gives_way_to_the_initializer() -> None:
    folded = check(model("w2 = Identity (w) y = MatMul (x, w2)", {"w": W}), ["MatMul"])
    assert list(folded.graph.initializers) == ["w"]
    body = "b2 = Identity (b) b3 = Identity (b2) a = Add (x, b) c = Add (a, b2) y = Mul (c, b3)"
    folded = check(model(body, {"b": W[:, 0].copy()}), ["Add", "Add", "Mul"])
    assert list(folded.graph.initializers) == ["b"]


def test_nodes_that_compute_the_same_share_one_result() -> None:
    body = "s = Transpose <perm = [1, 0]> (w) t = Transpose <perm = [1, 0]> (w) u = Transpose (w) "
    body += "h = MatMul (x, s) r = Relu (h) k = MatMul (r, t) l = MatMul (k, u) y = Identity (l)"
    square = RNG.standard_normal((8, 8)).astype(np.float32)
    folded = check(model(body, {"w": square}), ["MatMul", "Relu", "MatMul", "MatMul", "Identity"])
    assert set(folded.graph.initializers) == {"s", "u"}


BIG = RNG.standard_normal((8, 48)).astype(np.float32)


@pytest.mark.parametrize(
    ("body", "ops_left"),
    [
        # A table that is looked up by ids only known at run time, and the transposed head.
        (
            "i = Cast <to = 7> (x) e = Gather (t, i) s = ReduceMean <keepdims = 0> (e, n) "
            "h = Transpose <perm = [1, 0]> (t) y = MatMul (s, h)",
            ["Cast", "Gather", "ReduceMean", "Transpose", "MatMul"],
        ),
        # What is computed from the result stays as well.
        (
            "a = MatMul (x, t) h = Transpose <perm = [1, 0]> (t) k = Mul (h, h) y = MatMul (a, k)",
            ["MatMul", "Transpose", "Mul", "MatMul"],
        ),
    ],
)
def test_a_weight_that_is_read_as_it_is_too_is_not_stored_twice(
    body: str, ops_left: list[str]
) -> None:
    folded = check(model(body, {"t": BIG, "n": np.array([1])}), ops_left)
    assert [n for n, v in folded.graph.initializers.items() if v.const_value.size > 1] == ["t"]


def test_a_small_weight_may_stand_twice() -> None:
    body = "a = MatMul (x, w) h = Transpose <perm = [1, 0]> (w) y = MatMul (a, h)"
    folded = check(model(body, {"w": W}), ["MatMul", "MatMul"])
    assert set(folded.graph.initializers) == {"w", "h"}


def test_an_initializer_that_the_caller_may_replace_is_no_constant() -> None:
    source = model("w2 = Transpose <perm = [1, 0]> (w) y = MatMul (x, w2)", {"w": W.T.copy()})
    source.graph.inputs.append(source.graph.initializers["w"])
    assert ops(check(source, ["Transpose", "MatMul"])) == ["Transpose", "MatMul"]


def test_constants_become_initializers_under_their_own_name() -> None:
    source = model("w = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> () y = Mul (x, w)", {})
    folded = check(source, ["Mul"])
    assert list(folded.graph.initializers) == ["w"]
    assert ops(source) == ["Constant", "Mul"]
    assert not source.graph.initializers


def test_all_pieces_of_a_split_fold() -> None:
    body = "a, b = Split <axis = 1, num_outputs = 2> (w) "
    body += "h = MatMul (x, a) k = MatMul (x, b) y = Sub (h, k)"
    folded = check(model(body, {"w": W}), ["MatMul", "MatMul", "Sub"])
    assert set(folded.graph.initializers) == {"a", "b"}


def test_large_results_are_computed_when_read_and_hold_no_second_copy() -> None:
    big = RNG.standard_normal((600, 8, 100)).astype(np.float32)
    source = model(
        "t = Transpose <perm = [1, 0, 2]> (w) r = Reshape (t, s) y = MatMul (x, r)",
        {"w": big, "s": np.array([8, -1])},
    )
    folded = check(source, ["MatMul"])
    tensor = folded.graph.initializers["r"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    assert tuple(tensor.shape) == (8, 60000)
    assert np.array_equal(tensor.numpy(), big.transpose(1, 0, 2).reshape(8, -1))


def test_results_much_larger_than_their_inputs_stay() -> None:
    body = "e = Expand (w, s) y = MatMul (x, e)"
    source = model(body, {"w": W[:1, :1], "s": np.array([8, 100_000])})
    assert ops(canonicalise(source)) == ["Expand", "MatMul"]
    assert ops(canonicalise(model(body, {"w": W[:1, :1], "s": np.array([8, 100])}))) == [
        *("Expand", "MatMul")
    ]
    assert ops(canonicalise(model(body, {"w": W[:1, :1], "s": np.array([8, 10])}))) == ["MatMul"]


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        (
            "w = DequantizeLinear (q, s, z) y = MatMul (x, w)",
            {
                "q": RNG.integers(-9, 9, (8, 6)).astype(np.int8),
                "s": np.array(0.1, np.float32),
                "z": np.array(0, np.int8),
            },
        ),
        ("r = RandomNormalLike <dtype = 1> (w) y = MatMul (x, r)", {"w": W}),
        ("w2 = Neg (w) h = MatMul (x, w) y = Identity (h)", {"w": W}),
    ],
)
def test_what_is_not_computed_from_initializers_alone_stays(
    body: str, weights: dict[str, np.ndarray]
) -> None:
    source = model(body, weights)
    folded = canonicalise(source)
    assert ops(folded) == [op for op in ops(source) if op != "Neg"]


def test_an_output_of_the_graph_is_not_folded() -> None:
    source = model("y = MatMul (x, w) z = Neg (w)", {"w": W}, "float[N, 6] y, float[8, 6] z")
    folded = check(source, ["MatMul", "Neg"])
    assert [v.name for v in folded.graph.outputs] == ["y", "z"]


def test_nested_graphs_fold_too() -> None:
    body = """
        c = ReduceMax <keepdims = 0> (x) k = Greater (c, zero)
        y = If (k) <
            then_branch = t () => (float[N, 6] a) { w2 = Neg (w) a = MatMul (x, w2) },
            else_branch = e () => (float[N, 6] b) { w3 = Abs (w) b = MatMul (x, w3) }
        >"""
    source = model(body, {"w": W, "zero": np.array(0, np.float32)})
    folded = check(source, ["ReduceMax", "Greater", "If"])
    inner = [n.op_type for n in ir.traversal.RecursiveGraphIterator(folded.graph)]
    assert inner.count("MatMul") == 2
    assert "Neg" not in inner
    assert "Abs" not in inner


def test_unused_initializers_go_and_inputs_stay() -> None:
    source = model("y = MatMul (x, w)", {"w": W, "unused": W})
    source.graph.initializers["w"].name = "w"
    source.graph.inputs.append(source.graph.initializers["unused"])
    assert set(canonicalise(source).graph.initializers) == {"w", "unused"}
    source.graph.inputs.pop()
    assert set(canonicalise(source).graph.initializers) == {"w"}
    assert set(source.graph.initializers) == {"w", "unused"}


def test_modified_is_told_truly_and_a_second_run_changes_nothing() -> None:
    source = model("w2 = Neg (w) y = MatMul (x, w2)", {"w": W})
    assert onnx_ir.passes.Sequential(FoldInitializersPass())(source).modified
    assert not FoldInitializersPass()(source).modified


def test_tensors_are_shared_with_the_original() -> None:
    source = model("y = MatMul (x, w)", {"w": W})
    copy = canonicalise(source)
    assert copy.graph.initializers["w"].const_value is source.graph.initializers["w"].const_value


def test_nodes_may_be_left_by_the_name_of_their_result() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            """
            <ir_version: 10, opset_import: ["": 18]>
            g (float[N, 4] x) => (float[N, 4] y)
            <float[4, 4] w = {1,2,3,4, 5,6,7,8, 9,10,11,12, 13,14,15,16}> {
              t = Transpose <perm = [1, 0]> (w)
              n = Neg (t)
              y = MatMul (x, n)
            }
            """
        )
    )
    FoldInitializersPass(leave={"n"})(model)
    assert [node.op_type for node in model.graph] == ["Neg", "MatMul"]
    FoldInitializersPass()(model)
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_the_tensor_of_a_constant_node_keeps_its_name() -> None:
    """It may be the caller's: the model that was folded is a copy that shares its tensors."""
    source = model("w = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> () y = Mul (x, w)", {})
    tensor = source.graph[0].attributes["value"].as_tensor()
    before = tensor.name
    folded = canonicalise(source)
    ir.to_proto(folded)
    assert folded.graph.initializers["w"].const_value.name == "w"
    assert tensor.name == before != "w"
