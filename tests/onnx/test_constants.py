"""Weights of a node are read as numbers, and replaced for that node alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

from graphprune.onnx.constants import constant, set_constant
from graphprune.onnx.names import FreshNames
from graphprune.onnx.runtime import Session

X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


def loaded(body: str, **weights: np.ndarray) -> ir.Model:
    return ir.from_proto(from_text(body, weights, outputs="float[N, 4] y"))


def test_reads_floats_only() -> None:
    model = loaded("h = Gemm (x, w) y = Gather <axis = 1> (h, i)", w=drawn(8, 4), i=np.arange(4))
    gemm, gather = model.graph
    np.testing.assert_array_equal(constant(gemm, 1), drawn(8, 4).astype(np.float64))
    assert constant(gemm, 0) is None
    assert constant(gemm, 2) is None
    assert constant(gather, 1) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_keeps_the_type(dtype: type) -> None:
    model = loaded("c = Cast <to = 1> (w) y = Gemm (x, c)", w=drawn(8, 4).astype(dtype))
    (node,) = [n for n in model.graph if n.op_type == "Cast"]
    set_constant(node, 0, 2 * drawn(8, 4).astype(np.float64), FreshNames(model))
    array = node.inputs[0].const_value.numpy()
    assert array.dtype == dtype
    np.testing.assert_allclose(array, 2 * drawn(8, 4), rtol=1e-2)
    with Session(model) as session:
        np.testing.assert_allclose(session.run({"x": X})["y"], 2 * X @ drawn(8, 4), atol=2e-2)


def test_what_another_node_reads_stays() -> None:
    model = loaded("a = Gemm (x, w) b = Gemm (x, w) y = Sub (a, b)", w=drawn(8, 4))
    first, *_ = model.graph
    set_constant(first, 1, np.zeros((8, 4)), FreshNames(model))
    with Session(model) as session:
        np.testing.assert_allclose(session.run({"x": X})["y"], -X @ drawn(8, 4), rtol=1e-5)


def test_a_missing_input_is_added() -> None:
    model = loaded("y = Gemm (x, w)", w=drawn(8, 4))
    (node,) = model.graph
    set_constant(node, 2, np.ones(4), FreshNames(model), like=node.inputs[1])
    with Session(model) as session:
        np.testing.assert_allclose(session.run({"x": X})["y"], X @ drawn(8, 4) + 1, rtol=1e-5)
