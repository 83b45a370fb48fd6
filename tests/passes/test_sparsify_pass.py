"""Zeros where the mask says, every other bit as it was."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

from graphprune.errors import UsageError
from graphprune.onnx.load import load
from graphprune.onnx.save import save
from graphprune.passes import SparsifyPass
from graphprune.passes.sparsify import Mask


def model(array: np.ndarray) -> ir.Model:
    return load(from_text("y = MatMul(x, w)", {"w": array})).model


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(0).random((8, 5)) < 0.6


def test_a_mask_is_frozen_and_small(mask):
    fact = Mask.of(mask)
    assert (fact.pruned == mask).all()
    assert len(fact.bits) == 5
    with pytest.raises(AttributeError):
        fact.shape = (1,)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_only_what_is_pruned_changes(mask, dtype):
    array = drawn(8, 5).astype(dtype)
    array[0, 0], array[1, 1], array[2, 2] = -0.0, np.nan, np.inf
    subject = ir.from_proto(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])))
    value = ir.Value(name="w", const_value=ir.tensor(array, name="w"))
    subject.graph.register_initializer(value)
    assert SparsifyPass({"w": Mask.of(mask)})(subject).modified
    width = f"u{array.itemsize}"
    before, after = (a.view(width) for a in (array, value.const_value.numpy()))
    assert (after[mask] == 0).all()
    assert (after[~mask] == before[~mask]).all()
    assert value.const_value.dtype == ir.tensor(array).dtype


def test_weights_in_files_are_read_late(tmp_path, mask):
    array = drawn(8, 5)
    save(model(np.tile(array, (40, 1))), tmp_path / "net.onnx", external=True)
    found = load(tmp_path / "net.onnx").model
    tall = np.tile(mask, (40, 1))
    SparsifyPass({"w": Mask.of(tall)})(found)
    assert isinstance(found.graph.initializers["w"].const_value, ir.LazyTensor)
    save(found, tmp_path / "out.onnx", external=True)
    after = load(tmp_path / "out.onnx").model.graph.initializers["w"].const_value.numpy()
    assert (after == np.where(tall, 0, np.tile(array, (40, 1)))).all()


def test_masks_that_fit_nothing(mask):
    with pytest.raises(UsageError, match="another shape"):
        SparsifyPass({"w": Mask.of(mask.T)})(model(drawn(8, 5)))
    with pytest.raises(UsageError, match="'v', which the model does not have"):
        SparsifyPass({"v": Mask.of(mask)})(model(drawn(8, 5)))
