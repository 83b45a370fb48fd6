"""The masked original: what it forces to zero, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from certify_case import cut, plan
from certify_cases import all_cases
from certify_matrices import lstm
from certify_movement import if_body

from graphprune.certify import twin as twin_module
from graphprune.certify.emit import PREFIX
from graphprune.certify.masks import joint, masks
from graphprune.certify.twin import TwinError, masked_twin
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.runtime import Session
from graphprune.onnx.shapes import infer_shapes


def parse(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def twin_of(model: ir.Model, made, binding=None):
    return masked_twin(model, made, infer_shapes(model, binding or dict(made.binding)))


def run(model: ir.Model, feeds, names=()):
    return Session(model, optimize=False, outputs=names).run(feeds)


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_nothing_that_was_removed_matters(case) -> None:
    """Weights that lead to removed channels may be anything: the twin's outputs stay the same."""
    text = ir.to_proto(case.original).SerializeToString(deterministic=True)
    feeds = random_feeds(case.original, dict(case.plan.binding), 0)
    want = run(twin_of(case.original, case.plan).model, feeds)
    assert ir.to_proto(case.original).SerializeToString(deterministic=True) == text
    other = case.original.clone()
    generator = np.random.default_rng(1)
    for use in case.plan.initializers:
        value = other.graph.initializers[use.initializer]
        array = np.array(value.const_value.numpy())
        if array.dtype != np.float32:
            continue
        stays = np.broadcast_to(joint(masks(use.cuts, array.shape)), array.shape)
        noise = generator.standard_normal(array.shape).astype(np.float32)
        value.const_value = ir.tensor(np.where(stays, array, noise))
    changed = run(twin_of(other, case.plan).model, feeds)
    plain = run(other, feeds)
    for name, array in want.items():
        assert np.array_equal(changed[name], array)
        assert not np.allclose(plain[name], array), "the removed weights never mattered"


def test_tensors_keep_their_names_and_are_seen_before_their_masks() -> None:
    case = all_cases()[0]
    feeds = random_feeds(case.original, dict(case.plan.binding), 0)
    twin = twin_of(case.original, case.plan).model
    seen = run(twin, feeds, ["s1"])["s1"]
    assert np.all(seen[:, [1, 4]] == 0.5)  # Sigmoid of zero: its consumers read zeros instead
    ours = {v.name for n in twin.graph for v in n.outputs if v.name.startswith(PREFIX)}
    names = {v.name for n in twin.graph for v in n.outputs} - ours
    assert names == {v.name for n in case.original.graph for v in n.outputs}


def test_not_a_number_does_not_leak() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 3] l, float[2, 1] y) <float[3, 1] w = {1, 1, 1}> {
      l = Log(x)
      y = MatMul(l, w)
    }""")
    made = plan({"l": [cut(1, 3, [0, 2])]}, [("w", "y", 1, [cut(0, 3, [0, 2])])])
    x = np.array([[2, -1, 3], [4, 0, 5]], dtype=np.float32)
    got = run(twin_of(model, made).model, {"x": x})
    assert np.isnan(got["l"][0, 1])
    assert np.allclose(got["y"][:, 0], np.log(x[:, [0, 2]]).sum(axis=1))


@pytest.mark.parametrize(
    "dtype",
    [
        *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL"),
        *("INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64", "UINT64"),
    ],
)
def test_every_element_type_is_masked(dtype: str) -> None:
    element = onnx.TensorProto.DataType.Value(dtype)
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["t"], to=element),
        onnx.helper.make_node("Cast", ["t"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [info("x", 1, [2, 3])], [info("y", 1, [2, 3])])
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9))
    twin = twin_of(model, plan({"t": [cut(1, 3, [0, 2])]}, [])).model
    got = run(twin, {"x": np.ones((2, 3), np.float32)})["y"]
    assert got.tolist() == [[1, 0, 1]] * 2


def test_strings_are_masked() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (string[2, 3] x) => (string[2, 3] y) {
      t = Identity(x)
      y = Identity(t)
    }""")
    twin = twin_of(model, plan({"t": [cut(1, 3, [1])]}, [])).model
    x = np.array([["a", "b", "c"]] * 2, dtype=object)
    assert run(twin, {"x": x})["y"].tolist() == [["", "b", ""]] * 2


def test_shared_initializers_are_zeroed_for_each_use() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[3] x) => (float[3] a, float[3] b, float[3] c) <float[3] w = {1, 2, 3}> {
      a = Add(x, w)
      b = Add(x, w)
      c = Add(w, x)
    }""")
    uses = [("w", "a", 1, [cut(0, 3, [0])]), ("w", "c", 0, [cut(0, 3, [1, 2])])]
    got = run(twin_of(model, plan({}, uses)).model, {"x": np.zeros(3, np.float32)})
    assert [got[n].tolist() for n in "abc"] == [[1, 0, 0], [1, 2, 3], [0, 2, 3]]


def test_weights_that_are_computed_are_masked_where_they_are_read() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 2] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6}> {
      t = Transpose<perm = [1, 0]>(w)
      u = Mul(t, t)
      y = MatMul(x, t)
    }""")
    cuts = [cut(0, 3, [0, 2]), cut(1, 2, [1])]
    got = run(
        twin_of(model, plan({}, [("t", "y", 1, cuts)])).model, {"x": np.ones((2, 3), np.float32)}
    )
    assert got["y"].tolist() == [[0, 4 + 6]] * 2


def test_large_weights_stay_in_their_file_where_masks_around_them_suffice(monkeypatch) -> None:
    monkeypatch.setattr(twin_module, "_LARGE", 8)
    case = all_cases()[0]
    twin = twin_of(case.original, case.plan).model
    by_name = {n.outputs[0].name: n for n in twin.graph}
    assert by_name["c1"].inputs[1].const_value is case.original.graph.initializers["w1"].const_value
    feeds = random_feeds(case.original, dict(case.plan.binding), 0)
    monkeypatch.undo()
    want = run(twin_of(case.original, case.plan).model, feeds)["y"]
    assert np.allclose(run(twin, feeds)["y"], want, atol=1e-6)
    monkeypatch.setattr(twin_module, "_LARGE", 8)
    recurrent = twin_of(lstm().original, lstm().plan).model
    node = next(n for n in recurrent.graph if n.op_type == "LSTM")
    assert all(v.name.startswith(PREFIX) for v in node.inputs[1:4])


def test_bodies_are_masked_inside() -> None:
    case = if_body()
    twin = twin_of(case.original, case.plan).model
    node = next(n for n in twin.graph if n.op_type == "If")
    for attr in node.attributes.values():
        body = attr.as_graph()
        assert body.outputs[0].producer().op_type == "Where"
        assert all(n.op_type != "Where" or n.inputs[0].is_initializer() for n in body)


def test_loop_state_and_scan_outputs_are_masked() -> None:
    model = parse("""<ir_version: 10, opset_import: ["" : 17]>
    g (float[3] x) => (float[3] y, float[S, 3] z) <int64 n = {3}, bool go = {1}> {
      i = Identity(x)
      y, z = Loop (n, go, i) <
        body = step (int64 k, bool c, float[3] s) => (bool d, float[3] t, float[3] o) {
          d = Identity(c)
          t = Exp(s)
          o = Cos(t)
        }
      >
    }""")
    kept = cut(0, 3, [0, 2])
    names = ("i", "s", "t", "o")
    made = plan({n: [kept] for n in names}, [])
    x = np.array([0.1, 0.2, -0.3], dtype=np.float32)
    got = run(twin_of(model, made).model, {"x": x})
    s, rows = x[[0, 2]], []
    for _ in range(3):
        s = np.exp(s)
        rows.append(np.cos(s))
    assert np.allclose(got["y"][[0, 2]], s, rtol=1e-5)
    assert np.allclose(got["z"][:, [0, 2]], rows, rtol=1e-4)
    assert got["y"][1] == 0
    assert not got["z"][:, 1].any()


def test_masks_of_tensors_with_a_dynamic_cut() -> None:
    case = next(c for c in all_cases() if c.name == "merged_batch")
    assert twin_of(case.original, case.plan).skipped == ()
    twin = twin_of(case.original, case.plan, {"B": 3})
    assert twin.skipped == ("e", "m", "n")


FOUR = (
    '<ir_version: 10, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) '
    "<float[4] w = {1, 2, 3, 4}> { t = Add(x, w) y = Relu(t) }"
)


@pytest.mark.parametrize(
    ("tensors", "uses", "statistics", "message"),
    [
        ({"nope": [cut(0, 4, [0])]}, [], {}, "'nope', which the model does not have"),
        ({"t": [cut(0, 5, [0])]}, [], {}, "'t': axis 0 is 4 long"),
        ({"t": [cut(1, 4, [0])]}, [], {}, "'t': axis 1"),
        ({}, [("w", "y", 1, [cut(0, 4, [0])])], {}, "no node 'y' reads a constant 'w' as input 1"),
        ({}, [("x", "t", 0, [cut(0, 4, [0])])], {}, "no node 't' reads a constant 'x'"),
        ({}, [("w", "t", 1, [cut(0, 3, [0])])], {}, "initializer 'w': axis 0 is 4 long"),
        ({}, [], {"gone": (0,)}, "statistics node 'gone' is not in the model"),
    ],
)
def test_plans_that_do_not_fit(tensors, uses, statistics, message: str) -> None:
    with pytest.raises(TwinError, match=message):
        twin_of(parse(FOUR), plan(tensors, uses, statistics))


def test_old_opsets_are_refused_with_advice() -> None:
    model = parse(FOUR.replace("17", "9"))
    with pytest.raises(UnsupportedModelError, match="opset 11 or newer, the model has 9: convert"):
        twin_of(model, plan({"t": [cut(0, 4, [0])]}, []))
