"""Comparing two models without a plan."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from certify_case import rewire, weight
from certify_convolutions import conv_chain

from graphprune.certify import compare_io
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.runtime import Session


def test_a_model_and_itself() -> None:
    case = conv_chain()
    found = compare_io(case.original, case.original.clone())
    assert found.same_interface
    assert len(found.bindings) == 2
    assert [(o.name, o.max_abs, o.relative, o.flaw) for o in found.outputs] == [("y", 0, 0, "")]
    assert found.outputs[0].cosine == pytest.approx(1.0)


def test_drift_is_that_of_numpy() -> None:
    case = conv_chain()
    bindings = [{"N": 2}, {"N": 5}]
    found = compare_io(case.original, case.pruned, bindings, seed=7)
    pairs = []
    for i, binding in enumerate(bindings):
        feeds = random_feeds(case.original, binding, 7 + i)
        pairs.append([Session(m).run(feeds)["y"] for m in (case.original, case.pruned)])
    a, b = (np.concatenate([p[k].reshape(-1) for p in pairs]).astype(float) for k in (0, 1))
    output = found.outputs[0]
    assert found.same_interface
    assert output.max_abs == pytest.approx(np.abs(a - b).max())
    assert output.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a))
    assert output.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert output.relative > 0.01
    assert found.to_json()["outputs"][0]["cosine"] == output.cosine


def test_a_result_of_another_shape_is_said() -> None:
    case = conv_chain()
    model = case.original.clone()
    weight("w3", lambda a: a[:, :3])(model)
    model.graph.outputs[0].shape = ir.Shape(("N", 3))
    found = compare_io(case.original, model, [{"N": 2}])
    assert not found.same_interface
    assert found.differences[0].startswith("output 'y' is")
    assert found.outputs[0].flaw == "float32[2, 3] instead of float32[2, 4]"
    assert found.outputs[0].max_abs == np.inf


def test_not_a_number_is_infinitely_far() -> None:
    case = conv_chain()
    model = case.original.clone()
    weight("w3", lambda a: a * np.float32(np.nan))(model)
    assert compare_io(case.original, model).outputs[0].max_abs == np.inf


def test_a_change_of_sign_shows_in_the_cosine() -> None:
    case = conv_chain()
    model = case.original.clone()
    weight("w3", lambda a: -a)(model)
    found = compare_io(case.original, model).outputs[0]
    assert found.cosine == pytest.approx(-1.0)
    assert found.relative == pytest.approx(2.0)
    rewire("s1", 0, "c1")(model)
    assert compare_io(case.original, model).outputs[0].cosine > -0.9999
