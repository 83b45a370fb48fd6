"""Sparse initializers: loaded by onnxruntime, equal outputs, and read back by graphprune."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphprune.cli import run
from graphprune.onnx.load import load
from graphprune.sparse.initializers import sparsify_initializers

DTYPES = [np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64]


def cast_sum(dtype: type, array: np.ndarray) -> onnx.ModelProto:
    """y = x + float(w), which shows every element of w."""
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"], name="add"),
    ]
    shape = list(array.shape)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    weight = numpy_helper.from_array(array.astype(dtype), "w")
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def weights(density: float, shape: tuple[int, ...] = (40, 30)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random(shape) < density, rng.integers(1, 100, shape), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.05, 0.0])
def test_every_dtype_in_onnxruntime(tmp_path, dtype, density):
    path = tmp_path / "net.onnx"
    model = cast_sum(dtype, weights(density))
    onnx.save(model, path)
    out = tmp_path / "sparse.onnx"
    assert run(["pack", str(path), "--as", "onnx-sparse", "-o", str(out), "-q", "--no-bench"]) == 0
    written = onnx.load(out)
    onnx.checker.check_model(written)
    assert [s.values.name for s in written.graph.sparse_initializer] == ["w"]
    assert not written.graph.initializer
    x = np.ones((40, 30), np.float32)
    a, b = (ort.InferenceSession(str(p)).run(None, {"x": x})[0] for p in (path, out))
    assert a.tobytes() == b.tobytes()
    dense = load(out).model.graph.initializers["w"].const_value.numpy()
    assert dense.tobytes() == weights(density).astype(dtype).tobytes()


@pytest.mark.parametrize(
    ("dtype", "share"), [(np.float32, 1 / 3), (np.float16, 1 / 5), (np.int8, 1 / 9)]
)
def test_break_even(dtype, share):
    for more, sparse in ((-1, True), (0, False)):
        array = np.zeros(900, dtype)
        array[: round(900 * share) + more] = 1
        model = cast_sum(dtype, array)
        before = model.ByteSize()
        assert bool(sparsify_initializers(model)) == sparse
        assert (model.ByteSize() < before + 100) or sparse


def test_smaller_on_disk_and_not_faster(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    onnx.save(cast_sum(np.float32, weights(0.1, (300, 200))), path)
    assert run(["pack", str(path), "--as", "onnx-sparse", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    out = path.with_name("net.sparse.onnx")
    assert shown["written_bytes"] == out.stat().st_size
    assert shown["ratio"] == pytest.approx(0.3, abs=0.02)
    assert shown["sparse_initializers"] == ["w"]
    assert shown["latency"]["blocks"] >= 6


def test_nothing_is_sparse_enough(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    onnx.save(cast_sum(np.float32, weights(0.5)), path)
    assert run(["pack", str(path), "--as", "onnx-sparse"]) == 6
    assert "less than a third" in capsys.readouterr().err
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]


def test_an_input_with_a_default_stays_dense():
    model = cast_sum(np.float32, weights(0.05))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [40, 30]))
    assert sparsify_initializers(model) == []
