"""Batches of a model with large activations are divided; what is in them, and for what, stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

from graphprune.data.feeds import Calibration, read_calibration
from graphprune.data.room import batch_sizes, with_room
from graphprune.onnx.load import load
from graphprune.onnx.shapes import infer_shapes

TEXT = "a = MatMul (x, w1) y = Relu (a)"
PARTS = ("fit", "choose", "judge")


Dims = dict[ir.Value, tuple[int, ...]]


def calibration(samples: int) -> tuple[Calibration, ir.Model, Dims]:
    model = load(from_text(TEXT, {"w1": drawn(8, 24)})).model
    data = np.random.default_rng(0).normal(size=(samples, 8)).astype(np.float32)
    shapes = infer_shapes(model, {"N": 2})
    return read_calibration(data, model, samples), model, dict(shapes.dims)


def test_how_many_elements_there_are_in_a_batch() -> None:
    data, model, dims = calibration(64)
    named = {v.name: d for v, d in dims.items()}
    sizes = batch_sizes(model, [b.feeds for b in data.fit], named)
    assert (sizes["x"], sizes["a"], sizes["y"]) == (8 * 8, 8 * 24, 8 * 24)


@pytest.mark.parametrize(
    ("room", "most"), [(4 * 8 * 56, 8), (4 * 8 * 56 - 1, 4), (4 * 100, 2), (1, 1)]
)
def test_no_batch_needs_more_than_there_is_room_for(room: int, most: int) -> None:
    data, model, dims = calibration(64)
    small = with_room(data, model, dims, room)
    for part in PARTS:
        before, after = getattr(data, part), getattr(small, part)
        assert max(b.samples for b in after) == most
        assert all(len(b.feeds["x"]) == b.samples for b in after)
        np.testing.assert_array_equal(
            np.concatenate([b.feeds["x"] for b in after]),
            np.concatenate([b.feeds["x"] for b in before]),
        )


def test_a_batch_that_cannot_be_divided_stays() -> None:
    """One of the inputs has no axis of samples."""
    text = "a = MatMul (x, w1) y = Add (a, c)"
    model = load(from_text(text, {"w1": drawn(8, 24)}, inputs="float[N,8] x, float[24] c")).model
    feeds = [{"x": drawn(5, 8, seed=i), "c": drawn(24)} for i in range(8)]
    data = read_calibration(feeds, model, 40)
    assert with_room(data, model, dict(infer_shapes(model, {"N": 2}).dims), 1) is data
