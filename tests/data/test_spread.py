"""Noise is known by two signs together."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune import zoo
from graphprune.data.feeds import Calibration, read_calibration
from graphprune.data.spread import (
    NOISE,
    PIXELS,
    TOKENS,
    even_tokens,
    looked_at,
    neighbours,
    variation,
)
from graphprune.errors import UsageError
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_neighbours() -> None:
    smooth = np.cumsum(noise(6, 3, 50), axis=2)
    assert neighbours([{"x": smooth[:3]}, {"x": smooth[3:]}]) > 0.8
    assert neighbours([{"x": noise(6, 3, 500)}]) < 0.05
    assert neighbours([{"x": noise(6, 3, 500), "s": smooth}]) > 0.8
    assert neighbours([{"x": smooth.transpose(0, 2, 1)}]) > 0.8
    frames = np.cumsum(noise(6, 10, 50), axis=1)
    assert neighbours([{"x": frames}]) > 0.8  # not along the longest axis
    assert neighbours([{"x": noise(2, 30, 50)}, {"x": noise(2, 30, 60)}]) < 0.05
    assert neighbours([{"x": np.arange(40).reshape(2, 20)}]) is None  # tokens
    assert neighbours([{"x": noise(6, 4)}]) is None
    assert neighbours([{"x": np.zeros((2, 20), np.float32)}]) is None


def test_variation() -> None:
    same = np.ones((4, 5), np.float32)
    varied = noise(4, 5)
    assert variation([{"y": same}, {"y": same}]) == pytest.approx(0)
    expected = ((varied - varied.mean(0)) ** 2).sum() / (varied**2).sum()
    assert variation([{"y": varied[:1]}, {"y": varied[1:]}]) == pytest.approx(expected, rel=1e-5)
    assert variation([{"y": noise(1, 5)}, {"y": noise(1, 6)}]) == 1.0
    assert variation([{"y": np.ones((4, 2), int)}]) == 1.0
    ragged = [{"t": noise(1, 5), "y": same}, {"t": noise(1, 6), "y": same}]
    assert variation(ragged) == pytest.approx(0)  # what each token has says nothing of samples


def zipf(*shape: int) -> np.ndarray:
    """Tokens as in texts: some come often."""
    share = 1 / np.arange(1, 5001)
    return RNG.choice(5000, shape, p=share / share.sum())


def test_tokens_of_texts_are_not_even_and_random_ones_are() -> None:
    even = RNG.integers(0, 5000, (64, 32))
    ends = even.copy()
    ends[:, 0], ends[:, -4:] = 101, 0  # a start and padding do not hide it
    assert even_tokens([{"ids": even[:32]}, {"ids": even[32:]}])
    assert even_tokens([{"ids": ends}])
    assert even_tokens([{"mask": np.ones((64, 32), int), "ids": even}])
    assert not even_tokens([{"ids": zipf(64, 32)}])
    assert not even_tokens([{"ids": zipf(16, 16)}])
    assert not even_tokens([{"kinds": RNG.integers(0, 10, (64, 32))}])
    assert not even_tokens([{"ids": RNG.integers(0, 5000, (512, 1))}])  # no sequences
    assert not even_tokens([{"ids": even[:2, :8]}])  # too few to tell
    assert not even_tokens([{"x": noise(64, 32)}])
    assert not even_tokens([])


def data(model: ir.Model, **arrays: np.ndarray) -> Calibration:
    return read_calibration(arrays, model, 64)


def test_unrelated_features_that_matter_are_no_noise() -> None:
    model = load(from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})).model
    found = looked_at(model, data(model, x=noise(64, 8)))
    assert (found.random, found.warnings) == (False, ())


def test_noise_that_the_model_tells_apart_is_warned_about_where_it_should_be_an_image() -> None:
    body = "c = Conv (x, w) r = Relu (c) p = ReduceMean <axes = [2, 3], keepdims = 0> (r) y = Sub (p, m)"
    weights = {"w": drawn(6, 1, 3, 3, fan_in=9), "m": np.zeros(6, np.float32)}
    pixels = noise(64, 1, 8, 8)
    shape = {"inputs": "float[N, 1, 8, 8] x", "outputs": "float[N, 6] y", "opset": 17}
    first = load(from_text(body, weights, **shape)).model
    with Session(first) as session:
        weights["m"] = session.run({"x": pixels})["y"].mean(0)  # so that outputs vary
    model = load(from_text(body, weights, **shape)).model
    found = looked_at(model, data(model, x=pixels))
    assert (found.random, found.warnings) == (False, (PIXELS,))
    smooth = np.cumsum(np.cumsum(pixels, 2), 3)
    assert looked_at(model, data(model, x=smooth)).warnings == ()


LOOKUP = "e = Gather (table, ids) m = ReduceMean <axes = [1], keepdims = 0> (e) y = MatMul (m, w)"


def lookup() -> onnx.ModelProto:
    weights = {"table": drawn(5000, 16), "w": drawn(16, 4)}
    return from_text(LOOKUP, weights, inputs="int64[N, 32] ids", outputs="float[N, 4] y", opset=17)


def test_random_tokens_are_warned_about_and_learnt_from() -> None:
    model = load(lookup()).model
    found = looked_at(model, data(model, ids=RNG.integers(0, 5000, (64, 32))))
    assert (found.random, found.warnings) == (False, (TOKENS,))
    found = looked_at(model, data(model, ids=zipf(64, 32)))
    assert (found.random, found.warnings) == (False, ())


def test_inputs_on_which_the_model_does_not_run() -> None:
    model = load(lookup()).model
    with pytest.raises(UsageError, match="does not run on the calibration inputs"):
        looked_at(model, data(model, ids=RNG.integers(5000, 90000, (64, 32))))


@pytest.mark.parametrize("drawn_from", ["normal", "uniform"])
def test_noise_does_no_more_harm_than_no_data(drawn_from: str) -> None:
    entry = zoo.get("resnet-fashion")
    noisy = getattr(RNG, drawn_from)(size=(64, 1, 28, 28)).astype(np.float32)
    settings = {"macs": 0.7, "bench": False, "verify": False}
    plain = graphprune.compile(entry.path, **settings)
    result = graphprune.compile(entry.path, calib=noisy, **settings)
    assert NOISE in result.report.warnings
    assert result.report.drift is None
    assert ir.to_proto(plain.model.graph) == ir.to_proto(result.model.graph)
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match="these look like noise to the model"):
        graphprune.compile(entry.path, calib=noisy, distill=0.1, **settings)
