"""The numeric walk: pieces, rounding that is no fault, evidence that is none."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from certify_case import build, cut, plan, rewire, weight
from certify_cases import all_cases
from certify_convolutions import conv_chain
from certify_matrices import lstm

from graphprune.certify import certificate, certify, numeric, pieces, walk
from graphprune.certify.masks import zeroed
from graphprune.certify.numeric import compare_graphs
from graphprune.errors import UnsupportedModelError

KEEP = list(range(0, 200, 2))
RNG = np.random.default_rng(0)


def wide(tail: str, outputs: str = "float[N, 8] y", opset: int = 17, **weights: np.ndarray):
    """x -> 200 channels, half of which leave -> 8 sums `s` -> `tail`.

    The norm rounds otherwise in the masked original than in the pruned graph.
    """
    text = """<ir_version: 10, opset_import: ["" : OPSET]>
    g (float[N, 5] x) => (OUTPUTS) <float[5, C] w1, float[C] w0, float[C, 8] w2 REST> {
      a = MatMul(x, w1)
      c = Tanh(a)
      b = LayerNormalization(c, w0)
      s = MatMul(b, w2)
      TAIL
    }"""
    rest = "".join(f", float[{','.join(map(str, a.shape))}] {n}" for n, a in weights.items())
    text = text.replace("OUTPUTS", outputs).replace("REST", rest).replace("TAIL", tail)
    text = text.replace("OPSET", str(opset))
    whole = {
        "w1": RNG.standard_normal((5, 200)).astype(np.float32),
        "w0": RNG.uniform(0.5, 1.5, 200).astype(np.float32),
        "w2": RNG.standard_normal((200, 8)).astype(np.float32) / 14,
        **weights,
    }
    part = {**whole, "w0": whole["w0"][KEEP], "w1": whole["w1"][:, KEEP]}
    part["w2"] = whole["w2"][KEEP]
    kept, first = [cut(1, 200, KEEP)], [cut(0, 200, KEEP)]
    made = plan(
        {"a": kept, "b": kept, "c": kept},
        [("w1", "a", 1, kept), ("w0", "b", 1, first), ("w2", "s", 1, first)],
        statistics={"b": (1,)},
        binding={"N": 40},
    )
    return (
        build(text.replace("C]", "200]").replace("[C", "[200"), whole),
        build(text.replace("C]", "100]").replace("[C", "[100"), part),
        made,
    )


# --- pieces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_many_pieces_find_what_one_finds(case, monkeypatch) -> None:
    whole = certify(case.original, case.pruned, case.plan)
    monkeypatch.setattr(numeric, "ACTIVATION_BYTES", 1)
    parts = certify(case.original, case.pruned, case.plan)
    assert parts.status == whole.status
    assert parts.checked_tensors == whole.checked_tensors
    assert parts.weak == whole.weak
    for mutation in case.mutations:
        if not mutation.numeric:
            continue
        model = case.pruned.clone()
        mutation.apply(model)
        found = compare_graphs(case.original, model, case.plan).difference
        assert any(f"'{node}'" in found for node in mutation.nodes), found


@pytest.mark.parametrize("case", all_cases(), ids=lambda c: c.name)
def test_weights_that_are_fed_change_nothing(case, monkeypatch) -> None:
    monkeypatch.setattr(numeric, "WEIGHT_BYTES", 1)
    monkeypatch.setattr(pieces, "_FED_BYTES", 1)
    found = certify(case.original, case.pruned, case.plan, level="layerwise")
    assert found.status == case.status, found.first_difference
    for mutation in case.mutations:
        if not mutation.numeric:
            continue
        model = case.pruned.clone()
        mutation.apply(model)
        text = compare_graphs(case.original, model, case.plan, layerwise=True).difference
        assert any(f"'{node}'" in text for node in mutation.nodes), text


def test_a_large_model_is_checked_layer_by_layer(monkeypatch) -> None:
    monkeypatch.setattr(certificate, "LAYERWISE_BYTES", 0)
    case = conv_chain()
    found = certify(case.original, case.pruned, case.plan)
    assert found.level == "layerwise"
    assert found.status == "exact"
    assert certify(case.original, case.pruned, case.plan, level="structural").level == "structural"


def test_a_graph_that_runs_in_pieces_only_is_refused(monkeypatch) -> None:
    """Two values of one name: each piece has one of them, the whole graph has both."""
    monkeypatch.setattr(numeric, "ACTIVATION_BYTES", 1)
    case = conv_chain()
    model = case.pruned.clone()
    for position in (0, -1):
        new = ir.node("Identity", [model.graph.inputs[0]])
        new.outputs[0].name = "twice"
        model.graph.insert_before(model.graph[position], new)
    found = compare_graphs(case.original, model, case.plan).difference
    assert found.startswith("the pruned graph does not run as a whole: ")
    assert "twice" in found


def test_pieces_hold_few_values_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(numeric, "ACTIVATION_BYTES", 1)
    held = []
    release = walk.Walk._release

    def watched(self, k: int) -> None:
        release(self, k)
        held.append(len(self.twin_values) + len(self.pruned_values))

    monkeypatch.setattr(walk.Walk, "_release", watched)
    case = conv_chain()
    assert certify(case.original, case.pruned, case.plan).status == "exact"
    # The chain's next input: pruned, and in the twin before and after its mask.
    assert max(held) <= 3
    assert held[6] == 0


# --- rounding -------------------------------------------------------------------------------------

MANY = [{"N": 20000}]  # of so many values some lie where a rounding error decides
FLOOR = """big = Mul(s, k)
      f = Floor(big)
      h = Div(f, k)
      y = MatMul(h, w3)"""
K = {"k": np.array([200], np.float32), "w3": RNG.standard_normal((8, 8)).astype(np.float32)}


def test_a_rounded_value_that_flips_is_no_fault() -> None:
    original, pruned, made = wide(FLOOR, **K)
    found = certify(original, pruned, made, bindings=MANY)
    assert found.status == "statistics"
    notes = [w for w in found.weak if "'f'" in w]
    assert len(notes) == 1
    assert notes[0].startswith("checked alone, on the original's values: Floor 'f' (differs by ")
    assert notes[0].endswith("after the nodes before it, alone it is right)")
    assert found.max_rel_error < 1e-4


def test_a_fault_behind_a_flip_is_still_found() -> None:
    original, pruned, made = wide(FLOOR, **K)
    weight("w3", lambda a: a * np.float32(1.01))(pruned)
    found = compare_graphs(original, pruned, made, bindings=MANY)
    assert found.difference.startswith("MatMul 'y'")


def test_a_flip_does_not_excuse_the_node_itself() -> None:
    original, pruned, made = wide(FLOOR, **K)
    node = next(n for n in pruned.graph if n.op_type == "Floor")
    node.op_type = "Ceil"
    found = compare_graphs(original, pruned, made, bindings=MANY)
    assert found.difference.startswith("Ceil 'f': tensor 'f' differs")
    assert certify(original, pruned, made).first_difference == "Floor 'f': is now Ceil 'f'"


def test_cancellation_is_no_fault() -> None:
    original, pruned, made = wide("t = Add(s, k)\n y = Sub(t, k)", k=np.array([3e4], np.float32))
    found = certify(original, pruned, made, bindings=MANY)
    assert found.status == "statistics"
    assert any("Sub 'y'" in w for w in found.weak)


def test_many_flips_end_in_a_check_of_every_node() -> None:
    steps = "\n".join(
        f"m{i} = Mul({'s' if i == 0 else f'd{i - 1}'}, k)\n f{i} = Floor(m{i})\n"
        f" d{i} = Div(f{i}, k)\n e{i} = Sin(d{i})"
        for i in range(20)
    )
    steps = steps.replace("Mul(d", "Mul(e") + "\n y = MatMul(e19, w3)"
    original, pruned, made = wide(steps, **K)
    found = certify(original, pruned, made, bindings=MANY)
    assert found.status == "statistics"
    assert found.checked_tensors == len(list(original.graph))
    weight("w3", lambda a: a * np.float32(1.01))(pruned)
    found = compare_graphs(original, pruned, made, bindings=MANY)
    assert found.difference.startswith("MatMul 'y'")


def test_a_flipped_index_is_no_fault() -> None:
    tail = """big = Mul(s, k)
      f = Floor(big)
      i = Cast<to = 7>(f)
      p = Mod(i, m)
      y = Gather(w3, p)"""
    original, pruned, made = wide(tail, "float[N, 8, 8] y", **K, m=np.array([8.0], np.float32))
    for model in (original, pruned):
        value = model.graph.initializers["m"]
        value.const_value, value.type = ir.tensor(np.array([8])), ir.TensorType(ir.DataType.INT64)
    found = certify(original, pruned, made, bindings=MANY)
    assert found.status == "statistics", found.first_difference
    assert any("Floor 'f'" in w for w in found.weak)


def test_random_numbers_are_taken_from_the_original() -> None:
    tail = "r = RandomNormalLike(b)\n q = Mul(b, r)\n y = MatMul(q, w2)"
    original, pruned, made = wide(tail)
    kept = [cut(1, 200, KEEP)]
    made = plan(
        {**made.tensors, "r": kept, "q": kept},
        [*((u.initializer, u.node, u.input, u.cuts) for u in made.initializers),
         ("w2", "y", 1, [cut(0, 200, KEEP)])],
        statistics={"b": (1,)},
        binding={"N": 4},
    )  # fmt: skip
    for level in ("full", "layerwise"):
        found = certify(original, pruned, made, level=level)
        assert found.status == "statistics", found.first_difference
        assert any("RandomNormalLike 'r'" in w and "random numbers" in w for w in found.weak)
    rewire("y", 0, "b")(pruned)
    assert certify(original, pruned, made).first_difference.startswith("MatMul 'y'")


# --- evidence -------------------------------------------------------------------------------------


def test_nan_in_the_original_is_allowed_and_said() -> None:
    original, pruned, made = wide("y = Log(s)")
    found = certify(original, pruned, made)
    assert found.status == "statistics"
    assert "1 tensor with NaN or Inf, in the original too: 'y'" in found.weak


def test_nan_in_the_pruned_graph_alone_is_a_fault() -> None:
    original, pruned, made = wide("y = Relu(s)")
    weight("w2", lambda a: np.where(np.arange(8) == 3, np.nan, a).astype(np.float32))(pruned)
    found = compare_graphs(original, pruned, made).difference
    assert found == "MatMul 's': tensor 's' has NaN or Inf where the original has none"


def test_constant_outputs_are_no_evidence() -> None:
    tail = "y = Mul(s, k)\n z = Add(y, one)"
    original, pruned, made = wide(
        tail, "float[N, 8] y, float[N, 8] z", k=np.zeros(1, np.float32), one=np.ones(1, np.float32)
    )
    found = certify(original, pruned, made)
    assert found.status == "statistics"
    assert "output 'y' is nearly zero: no evidence" in found.weak
    assert "output 'z' is nearly constant: no evidence" in found.weak
    assert found.checked_tensors == 4


def test_removing_what_was_dead_proves_nothing() -> None:
    case = lstm()
    dead = case.original.clone()
    for use in case.plan.initializers:
        weight(use.initializer, lambda a, use=use: zeroed(a, use.cuts))(dead)
    found = certify(dead, case.pruned, case.plan)
    assert found.status == "exact"
    assert "what was removed of 3 tensors was zero already: 'h', 'last', 's'" in found.weak
    assert any(w.startswith("what was removed changes output 'y' by 0") for w in found.weak)


def test_a_plan_that_removes_nothing_says_so() -> None:
    case = conv_chain()
    found = certify(case.original, case.original.clone(), plan({}, [], binding={"N": 2}))
    assert found.status == "exact"
    assert "the plan removes nothing" in found.weak


# --- what does not run ----------------------------------------------------------------------------


def test_a_size_at_which_the_original_fails_is_said_and_another_one_tried() -> None:
    tail = "y = Add(s, two)"
    original, pruned, made = wide(tail, two=RNG.standard_normal((2, 8)).astype(np.float32))
    made = plan(
        made.tensors,
        [(u.initializer, u.node, u.input, u.cuts) for u in made.initializers],
        statistics={"b": (1,)},
        binding={"N": 2},
    )
    found = certify(original, pruned, made)
    assert found.status == "statistics"
    assert found.bindings == ({"N": 2},)
    assert any(w.startswith("the original does not run at N=3: ") for w in found.weak)
    with pytest.raises(UnsupportedModelError):
        certify(original, pruned, made, bindings=[{"N": 3}])


def test_a_plan_that_does_not_fit_fails() -> None:
    case = conv_chain()
    uses = [(u.initializer, u.node, u.input, u.cuts) for u in case.plan.initializers]
    for tensors, message in (
        ({"p": [cut(1, 6, [0])]}, "'p'"),
        ({"gone": [cut(1, 6, [0])]}, "the plan cuts tensor 'gone', which the model does not have"),
    ):
        wrong = plan({**case.plan.tensors, **tensors}, uses, binding={"N": 2})
        found = certify(case.original, case.pruned, wrong)
        assert found.status == "failed"
        assert message in found.first_difference


def test_progress_runs_to_one() -> None:
    case = conv_chain()
    seen: list[float] = []
    certify(case.original, case.pruned, case.plan, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_given_bindings_are_run() -> None:
    case = conv_chain()
    sizes = [{"N": 1}, {"N": 4}, {"N": 5}]
    assert list(certify(case.original, case.pruned, case.plan, bindings=sizes).bindings) == sizes


def test_sequences_pass_between_pieces(monkeypatch) -> None:
    monkeypatch.setattr(numeric, "ACTIVATION_BYTES", 1)
    text = """<ir_version: 10, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 2] y) <float[3, C] w, float[C, 2] v, int64 at = {0}> {
      a = MatMul(x, w)
      q = SequenceConstruct(a, a)
      e = SequenceAt(q, at)
      y = MatMul(e, v)
    }"""
    w = {"w": RNG.standard_normal((3, 4)).astype(np.float32)}
    w["v"] = RNG.standard_normal((4, 2)).astype(np.float32)
    keep = [0, 3]
    small = {"w": w["w"][:, keep], "v": w["v"][keep]}
    original = build(text.replace("C", "4", 2).replace("[C", "[4"), w)
    pruned = build(text.replace("C", "2", 2).replace("[C", "[2"), small)
    made = plan(
        {"a": [cut(1, 4, keep)], "e": [cut(1, 4, keep)]},
        [("w", "a", 1, [cut(1, 4, keep)]), ("v", "y", 1, [cut(0, 4, keep)])],
    )
    found = compare_graphs(original, pruned, made)
    assert found.difference == ""
    assert {"a", "e", "y"} <= found.tally.alive


def test_bfloat16_passes_between_pieces(monkeypatch) -> None:
    monkeypatch.setattr(numeric, "ACTIVATION_BYTES", 1)
    tail = "narrow = Cast<to = 16>(s)\n d = Cast<to = 1>(narrow)\n y = Relu(d)"
    original, pruned, made = wide(tail)
    found = certify(original, pruned, made)
    assert found.status == "statistics", found.first_difference
    assert found.checked_tensors == 7
    assert onnx.TensorProto.BFLOAT16 == 16
