"""Gathers that count through a flattened tensor and give it back as it was."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from workbench import Bench, drawn, from_text

from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.passes.drop_identity_gathers import DropIdentityGathersPass

#: torch's `as_strided` after a pool: indices 0, 1, 2, ... computed from the batch.
STRIDED = (
    "s = Shape (h) n = Gather (s, zero) six = Constant <value = int64 {6}> () m = Mul (n, six) "
    "r = Range (zero, m, one) e = Unsqueeze (six, axis) n1 = Unsqueeze (n, axis) "
    "t = Concat <axis = 0> (n1, e) i = Reshape (r, t) f = Reshape (h, flat) g = Gather (f, i) "
)
CONSTANTS = {
    "zero": np.array(0),
    "one": np.array(1),
    "axis": np.array([0]),
    "flat": np.array([-1]),
}
WEIGHTS = {"w": drawn(8, 6), "v": drawn(6, 4)}


def dropped(body: str, weights: dict[str, np.ndarray], **settings) -> tuple[ir.Model, bool]:
    """The model after the pass, and whether it changed; what it computes has not."""
    model = load(from_text(body, weights, **settings)).model
    copy = model.clone()
    modified = DropIdentityGathersPass()(copy).modified
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    with Session(model) as before, Session(copy) as after:
        old, new = before.run({"x": x}), after.run({"x": x})
    for name, array in old.items():
        assert np.abs(array).max() > 0.1
        assert (array == new[name]).all()
    return copy, modified


def test_a_gather_that_counts_through_is_dropped_with_all_that_fed_it() -> None:
    body = f"h = MatMul (x, w) {STRIDED} y = MatMul (g, v)"
    model, modified = dropped(body, WEIGHTS | CONSTANTS)
    assert modified
    assert [n.op_type for n in model.graph] == ["MatMul", "MatMul"]
    assert list(model.graph)[-1].inputs[0].name == "h"


def test_nothing_could_be_pruned_in_front_of_it() -> None:
    body = f"h = MatMul (x, w) {STRIDED} y = MatMul (g, v)"
    bench = Bench(from_text(body, WEIGHTS | CONSTANTS))
    assert [g.size for g in bench.graph.groups] == [6]


@pytest.mark.parametrize(
    "indices",
    [
        np.arange(18)[::-1].reshape(3, 6),  # another order
        np.arange(18).reshape(6, 3).T,
        np.arange(12).reshape(2, 6),  # only a part
    ],
)
def test_gathers_that_do_something_stay(indices: np.ndarray) -> None:
    body = "h = MatMul (x, w) f = Reshape (h, flat) g = Gather (f, i) y = MatMul (g, v)"
    weights = WEIGHTS | {"i": np.ascontiguousarray(indices), "flat": np.array([-1])}
    model, modified = dropped(body, weights, inputs="float[3, 8] x")
    assert not modified
    assert "Gather" in {n.op_type for n in model.graph}


def test_constant_indices_at_a_static_size() -> None:
    body = "h = MatMul (x, w) f = Reshape (h, flat) g = Gather (f, i) y = MatMul (g, v)"
    weights = WEIGHTS | {"i": np.arange(18).reshape(3, 6), "flat": np.array([-1])}
    model, modified = dropped(body, weights, inputs="float[3, 8] x")
    assert modified
    assert [n.op_type for n in model.graph] == ["MatMul", "MatMul"]


def test_right_at_one_size_only_is_not_right() -> None:
    """12 elements are read back: all of them at batch 2, not at batch 3."""
    body = "h = MatMul (x, w) f = Reshape (h, flat) g = Gather (f, i) y = MatMul (g, v)"
    weights = WEIGHTS | {"i": np.arange(12).reshape(2, 6), "flat": np.array([-1])}
    _, modified = dropped(body, weights)
    assert not modified


def test_other_readers_of_the_flattened_tensor_keep_it() -> None:
    body = (
        f"h = MatMul (x, w) {STRIDED} a = MatMul (g, v) q = ReduceSum <keepdims = 1> (f, axis) "
        "y = Add (a, q)"
    )
    model, modified = dropped(body, WEIGHTS | CONSTANTS)
    assert modified
    kept = [n.op_type for n in model.graph]
    assert "Gather" not in kept
    assert "Reshape" in kept


def test_a_gather_that_is_an_output_stays() -> None:
    body = f"h = MatMul (x, w) {STRIDED} y = MatMul (g, v)"
    _, modified = dropped(body, WEIGHTS | CONSTANTS, outputs="float[N, 4] y, float[A, B] g")
    assert not modified


def test_other_axes_and_plain_gathers_are_no_candidates() -> None:
    body = "h = MatMul (x, w) g = Gather <axis = 1> (h, i) y = MatMul (g, v)"
    _, modified = dropped(body, WEIGHTS | {"i": np.arange(6)})
    assert not modified
