"""The structural check: interface, operands and attributes, without running anything."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from certify_case import attribute, build, cut, find, plan, rewire, weight
from certify_cases import all_cases
from certify_convolutions import conv_chain
from certify_movement import if_body, shuffle

from graphprune.certify import certify, operands
from graphprune.certify.structural import check_interface, check_structure


def failures(case, change, bindings=({"N": 2}, {"N": 3})) -> tuple[str, ...]:
    model = case.pruned.clone()
    change(model)
    return check_structure(case.original, model, case.plan, list(bindings)).failures


# --- interface ------------------------------------------------------------------------------------


def renamed_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "z"


def fixed_batch(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape((2, 3, 8, 8))


def other_dim_name(model: ir.Model) -> None:
    model.graph.outputs[0].shape = ir.Shape(("batch", 4))


def other_type(model: ir.Model) -> None:
    model.graph.inputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def another_input(model: ir.Model) -> None:
    model.graph.inputs.append(
        ir.Value(name="extra", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape((1,)))
    )


def other_opset(model: ir.Model) -> None:
    model.opset_imports[""] = 18


def other_ir_version(model: ir.Model) -> None:
    model.ir_version = 9


def changed_metadata(model: ir.Model) -> None:
    model.metadata_props["author"] = "somebody else"


def lost_metadata(model: ir.Model) -> None:
    model.metadata_props.clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed_output, "the graph's outputs are ['z'] instead of ['y']"),
        (fixed_batch, "input 'x' is FLOAT [2,3,8,8] instead of FLOAT [N,3,8,8]"),
        (other_dim_name, "output 'y' is FLOAT [batch,4] instead of"),
        (other_type, "input 'x' is FLOAT16"),
        (another_input, "the graph's inputs are ['x', 'extra'] instead of ['x']"),
        (other_opset, "opsets are {'': 18} instead of {'': 17}"),
        (other_ir_version, "IR version is 9 instead of 10"),
        (changed_metadata, "metadata 'author' was changed"),
        (lost_metadata, "metadata 'author' was changed"),
    ],
)
def test_interface_must_not_change(change, message: str) -> None:
    case = conv_chain()
    case.original.metadata_props["author"] = "us"
    case.pruned.metadata_props["author"] = "us"
    model = case.pruned.clone()
    change(model)
    found = check_interface(case.original, model)
    assert found
    assert found[0].startswith(message), found[0]
    certificate = certify(case.original, model, case.plan)
    assert certificate.status == "failed"
    assert certificate.first_difference == found[0]


def test_metadata_may_be_added() -> None:
    case = conv_chain()
    case.pruned.metadata_props["graphprune.version"] = "0"
    assert check_interface(case.original, case.pruned) == []


# --- operands and attributes ----------------------------------------------------------------------


def test_a_consumer_that_reads_a_constant_is_found() -> None:
    case = conv_chain()
    found = failures(case, rewire("s1", 0, "b2"))
    assert found[0] == "Sigmoid 's1': input 0 reads the constant 'b2' instead of 'r1'"


def test_a_bias_that_is_left_out_is_found() -> None:
    def drop(model: ir.Model) -> None:
        find(model, "c1").replace_input_with(2, None)

    assert failures(conv_chain(), drop)[0] == "Conv 'c1': input 2 ('b1') is missing"


def test_a_weight_that_is_computed_from_sizes_is_found() -> None:
    def fill(model: ir.Model) -> None:
        node = find(model, "y")
        shape = ir.node("Constant", [], {"value": ir.tensor(np.array([5, 4]))})
        zeros = ir.node("Shape", [find(model, "p").outputs[0]])
        made = ir.node("ConstantOfShape", [zeros.outputs[0]])
        for index, new in enumerate((shape, zeros, made)):
            new.outputs[0].name = f"new{index}"
            model.graph.insert_before(node, new)
        node.replace_input_with(1, made.outputs[0])

    assert failures(conv_chain(), fill)[0] == "MatMul 'y': input 1 ('w3') is no constant any more"


def test_a_size_of_a_node_that_no_cut_touches_must_stay() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 2] y, float[A, B] z)
      <float[3, C] w, float[C, 2] v, int64[2] to = {3, 2}> {
      a = MatMul(x, w)
      y = MatMul(a, v)
      z = Reshape(x, to)
    }"""
    make = np.random.default_rng(0).standard_normal
    w = {"w": make((3, 4)).astype(np.float32), "v": make((4, 2)).astype(np.float32)}
    small = {"w": w["w"][:, :2], "v": w["v"][:2]}
    original = build(text.replace(" C]", " 4]").replace("[C", "[4"), w)
    pruned = build(text.replace(" C]", " 2]").replace("[C", "[2"), small)
    made = plan(
        {"a": [cut(1, 4, [0, 1])]},
        [("w", "a", 1, [cut(1, 4, [0, 1])]), ("v", "y", 1, [cut(0, 4, [0, 1])])],
    )
    assert check_structure(original, pruned, made, [{}]).failures == ()
    weight("to", lambda a: np.array([6, 1]))(pruned)
    found = check_structure(original, pruned, made, [{}]).failures[0]
    assert found == "Reshape 'z': input 1 ('to') is not the original's (first at [0])"


def test_attributes_must_stay() -> None:
    case = conv_chain()
    found = failures(case, attribute("c2", "dilations", [2, 2]))
    assert found[0] == "Conv 'c2': attribute 'dilations' was added"
    found = failures(case, lambda m: find(m, "c1").attributes.pop("pads"))
    assert found[0] == "Conv 'c1': attribute 'pads' was removed"


def test_another_op_is_found_unless_both_only_move_entries() -> None:
    def change(model: ir.Model) -> None:
        find(model, "s1").op_type = "Tanh"

    assert failures(conv_chain(), change)[0] == "Sigmoid 's1': is now Tanh 's1'"


def test_a_shuffle_written_as_a_gather_is_proven_by_its_results() -> None:
    """Reshape, Transpose, Reshape of the original against one Gather of the same entries."""
    case = shuffle()

    def gathered(order: list[int]) -> ir.Model:
        model = case.pruned.clone()
        last = find(model, "m")
        index = model.graph.initializers["merged"]
        index.const_value = ir.tensor(np.array(order), name="merged")
        index.shape = ir.Shape((4,))
        new = ir.node("Gather", [find(model, "a").outputs[0], index], {"axis": 1})
        model.graph.insert_before(last, new)
        ir.convenience.replace_all_uses_with(last.outputs[0], new.outputs[0])
        for key in ("m", "p", "s"):
            model.graph.remove(find(model, key), safe=True)
        new.outputs[0].name = "m"
        return model

    assert certify(case.original, gathered([0, 2, 1, 3]), case.plan).status == "exact"
    found = certify(case.original, gathered([0, 1, 2, 3]), case.plan)
    assert found.first_difference.startswith("Gather 'node_Gather_0': tensor 'm' differs")
    weak = certify(case.original, gathered([0, 1, 2, 3]), case.plan, level="structural").weak
    assert "Reshape 'm': is now Gather 'node_Gather_0'" in weak


def with_stand_in(op: str) -> ir.Model:
    """The convolution chain, whose Sigmoid reads a value that only the pruned graph has."""
    model = conv_chain().pruned.clone()
    node = find(model, "s1")
    new = ir.node(op, [node.inputs[0]])
    new.outputs[0].name = "stand_in"
    model.graph.insert_before(node, new)
    node.replace_input_with(0, new.outputs[0])
    return model


def test_a_value_that_stands_for_another_must_equal_it() -> None:
    case = conv_chain()
    structure = check_structure(case.original, with_stand_in("Identity"), case.plan, [{"N": 2}])
    assert structure.failures == ()
    assert structure.renamed == {"stand_in": ["r1"]}
    found = certify(case.original, with_stand_in("Identity"), case.plan)
    assert found.status == "exact"
    found = certify(case.original, with_stand_in("Neg"), case.plan)
    assert found.first_difference.startswith("Neg 'node_Neg_0': tensor 'stand_in' differs")
    found = certify(case.original, with_stand_in("Neg"), case.plan, level="structural")
    assert found.status == "exact"
    assert "values stand for others of the original unproven: 'stand_in' for 'r1'" in found.weak


def test_operands_of_which_nothing_is_left_may_go() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 2] y) <float[3, 2] w, float[2, 3] e, float[5, 2] v> {
      a = MatMul(x, w)
      j = Concat<axis = 1>(a, e)
      y = MatMul(j, v)
    }"""
    make = np.random.default_rng(0).standard_normal
    w = {n: make(s).astype(np.float32) for n, s in (("w", (3, 2)), ("e", (2, 3)), ("v", (5, 2)))}
    made = plan(
        {"j": [cut(1, 5, [0, 1])]},
        [("e", "j", 1, [cut(1, 3, [])]), ("v", "y", 1, [cut(0, 5, [0, 1])])],
    )
    short = text.replace("(a, e)", "(a)").replace(" float[2, 3] e,", "").replace("[5,", "[2,")
    pruned = build(short, {**w, "v": w["v"][:2]})
    assert certify(build(text, w), pruned, made).status == "exact"
    weight("v", lambda a: a[::-1])(pruned)
    found = certify(build(text, w), pruned, made)
    assert found.first_difference.startswith("MatMul 'y': input 1 ('v')")


def test_bodies_keep_their_interface() -> None:
    def rename(model: ir.Model) -> None:
        body = find(model, "i").attributes["then_branch"].as_graph()
        body.outputs[0].name = "other"

    found = failures(if_body(), rename)
    assert found[0] == "If 'i': the body's outputs are ['other'] instead of ['ti']"


def test_weights_behind_constant_nodes_are_compared() -> None:
    case = conv_chain()
    proto = ir.to_proto(case.original)
    held = {t.name: t for t in proto.graph.initializer}
    for name in ("w2", "b1"):
        node = onnx.helper.make_node("Constant", [], [name], value=held[name])
        proto.graph.node.insert(0, node)
        proto.graph.initializer.remove(held[name])
    original = ir.from_proto(proto)
    assert certify(original, case.pruned, case.plan).status == "exact"
    model = case.pruned.clone()
    weight("w2", lambda a: a[:, ::-1])(model)
    found = certify(original, model, case.plan)
    assert found.first_difference.startswith(
        "Conv 'c2': input 1 ('w2') is not what the plan leaves"
    )


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_a_plan_for_other_entries_is_found(case) -> None:
    """The right pruned graph with a plan that says the neighbouring entries stay."""
    use = case.plan.initializers[0]
    first = use.cuts[0]
    gone = np.setdiff1d(np.arange(first.size), first.kept)
    kept = np.sort(np.append(first.kept[1:], gone[-1]))
    wrong = cut(first.axis, first.size, kept.tolist())
    uses = [
        (u.initializer, u.node, u.input, (wrong, *u.cuts[1:]) if u is use else u.cuts)
        for u in case.plan.initializers
    ]
    made = plan(
        dict(case.plan.tensors), uses, dict(case.plan.statistics_nodes), dict(case.plan.binding)
    )
    found = certify(case.original, case.pruned, made)
    assert found.status == "failed"
    assert f"'{use.node}': input {use.input}" in found.first_difference


def test_large_weights_are_compared_by_place_where_nothing_was_cut(monkeypatch, tmp_path) -> None:
    """The same bytes of the same file are not read to be compared with themselves."""
    case = conv_chain()
    path = tmp_path / "m.onnx"
    ir.save(case.original, path, external_data="m.data", size_threshold_bytes=0)
    original, pruned = ir.load(path), case.pruned.clone()
    stored = original.graph.initializers["w3"].const_value
    assert isinstance(stored, ir.ExternalTensor)
    pruned.graph.initializers["w3"].const_value = ir.load(path).graph.initializers["w3"].const_value
    compared: list[tuple[int, ...]] = []
    first_difference = operands._first_difference

    def watched(want, got):
        compared.append(want.shape)
        return first_difference(want, got)

    monkeypatch.setattr(operands, "_first_difference", watched)
    structure = check_structure(original, pruned, case.plan, [{"N": 2}])
    assert structure.failures == ()
    assert (4, 3, 3, 3) in compared
    assert (5, 4) not in compared


def test_a_constant_may_stand_for_what_reads_nothing_any_more() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 3] y) <float[3, 4] w, float[4, 3] v, float[3] b> {
      a = MatMul(x, w)
      t = Tanh(a)
      c = MatMul(t, v)
      d = Add(c, b)
      y = Mul(x, d)
    }"""
    short = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 3] y) <float[3] b> {
      y = Mul(x, b)
    }"""
    make = np.random.default_rng(0).standard_normal
    w = {n: make(s).astype(np.float32) for n, s in (("w", (3, 4)), ("v", (4, 3)), ("b", (3,)))}
    nothing = [cut(1, 4, [])]
    made = plan(
        {"a": nothing, "t": nothing},
        [("w", "a", 1, nothing), ("v", "c", 1, [cut(0, 4, [])])],
    )
    original, pruned = build(text, w), build(short, w)
    assert check_structure(original, pruned, made, [{}]).failures == ()
    for level in ("full", "layerwise"):
        assert certify(original, pruned, made, level=level).status == "exact"
    weak = certify(original, pruned, made, level="structural").weak
    assert "constants stand for values of the original unproven: 'd'" in weak
    weight("b", lambda b: b * np.float32(1.01))(pruned)
    for level in ("full", "layerwise"):
        found = certify(original, pruned, made, level=level).first_difference
        assert found.startswith("the pruned graph: tensor 'b' differs")
        assert found.endswith("it stands for 'd'")
    kept = [cut(1, 4, [0])]
    less = plan({"a": kept, "t": kept}, [("w", "a", 1, kept), ("v", "c", 1, [cut(0, 4, [0])])])
    found = certify(original, build(short, w), less).first_difference
    assert found == "Mul 'y': input 1 reads the constant 'b' instead of 'd'"


def test_an_output_that_is_no_longer_computed_is_found() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 3] y) <float[3, 4] w, float[4, 3] v, float[2, 3] b> {
      a = MatMul(x, w)
      c = MatMul(a, v)
      y = Add(c, b)
    }"""
    make = np.random.default_rng(0).standard_normal
    w = {n: make(s).astype(np.float32) for n, s in (("w", (3, 4)), ("v", (4, 3)), ("b", (2, 3)))}
    original = build(text, w)

    def constant(array) -> ir.Model:
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [],
            "g",
            [info("x", 1, [2, 3])],
            [info("y", 1, [2, 3])],
            [onnx.numpy_helper.from_array(array, "y")],
        )
        opsets = [onnx.helper.make_opsetid("", 17)]
        return ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))

    def removing(kept: list[int]):
        cuts = [cut(1, 4, kept)]
        return plan({"a": cuts}, [("w", "a", 1, cuts), ("v", "c", 1, [cut(0, 4, kept)])])

    found = certify(original, constant(w["b"]), removing([]))
    assert found.status == "exact", found.first_difference
    found = certify(original, constant(w["b"] * 2), removing([]))
    assert found.first_difference.endswith("it stands for 'y'")
    found = certify(original, constant(w["b"]), removing([1]))
    assert found.first_difference == "Add 'y': the graph's output 'y' is not computed"
