from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.measure.size import count_parameters, file_bytes, model_bytes


def model_of(weights: dict[str, np.ndarray], nodes: str = "y = Relu(x)") -> ir.Model:
    text = (
        f'<ir_version: 10, opset_import: ["" : 20]>\nnet (float[4] x) => (float[4] y) {{ {nodes} }}'
    )
    model = ir.from_onnx_text(text)
    model.metadata_props["made_by"] = "a test"
    for name, array in weights.items():
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=tensor.shape)
        value.dtype = tensor.dtype
        model.graph.register_initializer(value)
    return model


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_weights_count_once_whoever_reads_them_and_indices_do_not():
    weights = {
        "w": floats(3, 4),
        "half": floats(5).astype(np.float16),
        "q": np.ones((2, 3), np.int8),
        "shape": np.ones(7, np.int64),
        "mask": np.ones(9, np.bool_),
    }
    assert count_parameters(model_of(weights, "a = Add(x, w)  y = Add(a, w)")) == 12 + 5 + 6


def test_constants_and_branches_count():
    model = model_of(
        {"w": floats(2, 2)},
        "c = Constant<value = float[3] {1, 2, 3}>()  s = Constant<value_int = 4>() "
        "f = Constant<value_floats = [1.0, 2.0]>()  p = Constant<value = bool {1}>() "
        "y = If(p) <then_branch = t () => (float[4] u) <float[4] k = {1, 2, 3, 4}>"
        " { u = Add(x, k) }, else_branch = e () => (float[4] v) { v = Neg(x) }>",
    )
    assert count_parameters(model) == 4 + 3 + 2 + 4


@pytest.mark.parametrize("elements", [1, 40, 16_000, 16_384, 600_000])
def test_bytes_are_those_of_the_saved_file(tmp_path: Path, elements: int):
    model = model_of({"w": floats(elements), "b": floats(3), "i": np.arange(20_000)})
    path = tmp_path / "m.onnx"
    ir.save(model, path)
    assert model_bytes(model) == path.stat().st_size
    assert file_bytes(path) == path.stat().st_size


def test_external_data_counts_on_disk_and_is_not_read(tmp_path: Path):
    model = model_of({"w": floats(70_000), "b": floats(3)})
    alone = tmp_path / "alone.onnx"
    ir.save(model, alone)
    path = tmp_path / "m.onnx"
    ir.save(model, path, external_data="m.data", size_threshold_bytes=0)
    assert file_bytes(path) == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    loaded = ir.load(path)
    assert model_bytes(loaded) == alone.stat().st_size
    assert not any(v.const_value.raw is not None for v in loaded.graph.initializers.values())


def test_a_model_beyond_two_gigabytes_is_measured_without_its_weights():
    def never() -> ir.TensorProtocol:
        raise AssertionError("a weight was read")

    model = model_of({})
    for i in range(3):
        tensor = ir.LazyTensor(
            never, dtype=ir.DataType.FLOAT, shape=ir.Shape((2**14, 2**14)), name=f"w{i}"
        )
        model.graph.register_initializer(
            ir.Value(name=f"w{i}", const_value=tensor, shape=ir.Shape((2**14, 2**14)))
        )
    assert count_parameters(model) == 3 * 2**28
    assert 3 * 2**30 <= model_bytes(model) < 3 * 2**30 + 1000


def test_measuring_leaves_the_model_as_it_was():
    model = model_of({"w": floats(70_000)})
    before = onnx.ModelProto.SerializeToString(ir.to_proto(model), deterministic=True)
    model_bytes(model)
    assert onnx.ModelProto.SerializeToString(ir.to_proto(model), deterministic=True) == before
