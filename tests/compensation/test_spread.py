"""Noise is known by two signs together."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune import zoo
from graphprune.compensation.spread import looks_like_noise, neighbours, variation
from graphprune.onnx.load import load

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_neighbours() -> None:
    smooth = np.cumsum(noise(6, 3, 50), axis=2)
    assert neighbours([{"x": smooth[:3]}, {"x": smooth[3:]}]) > 0.8
    assert neighbours([{"x": noise(6, 3, 500)}]) < 0.05
    assert neighbours([{"x": noise(6, 3, 500), "s": smooth}]) > 0.8
    assert neighbours([{"x": smooth.transpose(0, 2, 1)}]) > 0.8  # the longest axis, wherever it is
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


def test_unrelated_features_that_matter_are_no_noise() -> None:
    model = load(from_text("y = MatMul (x, w)", {"w": drawn(8, 4)})).model
    assert not looks_like_noise(model, [{"x": noise(64, 8)}])


@pytest.mark.parametrize("drawn_from", ["normal", "uniform"])
def test_noise_does_no_more_harm_than_no_data(drawn_from: str) -> None:
    entry = zoo.get("resnet-fashion")
    data = getattr(RNG, drawn_from)(size=(64, 1, 28, 28)).astype(np.float32)
    settings = {"macs": 0.7, "bench": False, "verify": False}
    plain = graphprune.compile(entry.path, **settings)
    result = graphprune.compile(entry.path, calib=data, criterion="l2", **settings)
    assert any("look like noise" in w for w in result.report.warnings)
    assert result.report.drift.refitted == 0
    for name, value in plain.model.graph.initializers.items():
        other = result.model.graph.initializers[name]
        np.testing.assert_array_equal(value.const_value.numpy(), other.const_value.numpy())
