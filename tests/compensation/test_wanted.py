"""What the original gives its layers, in pieces of any size: the rows that a whole run has."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.compensation import wanted as module
from graphprune.compensation.targets import Target, find_targets
from graphprune.compensation.wanted import Reference
from graphprune.cut import take
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.runtime import Session

SIZES = (3, 5, 4)
WEIGHTS = {"w0": drawn(8, 16), "w1": drawn(16, 12), "w2": drawn(12, 10), "w3": drawn(10, 6)}
TEXT = (
    "a = MatMul (x, w0) b = Relu (a) c = MatMul (b, w1) d = Relu (c) "
    "e = MatMul (d, w2) f = Relu (e) y = MatMul (f, w3)"
)


def half(bench: Bench) -> tuple[list[Target], dict[str, tuple[int, ...]]]:
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    for group in bench.graph.groups:
        removed[group.units[group.size // 2 :]] = True
    plan = bench.plan(bench.graph, removed)
    dims = {v.name or "": d for v, d in bench.shapes[0].dims.items()}
    return find_targets(bench.pruned(plan), plan, dims, bench.model)[0], dims


def feeds(width: int = 8) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, width)).astype(np.float32)} for n in SIZES]


@pytest.mark.parametrize("memory", [0, 1 << 10, 1 << 30])
def test_the_rows_are_those_of_the_whole_model(
    memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMORY", memory)
    bench = Bench(from_text(TEXT, WEIGHTS))
    targets, dims = half(bench)
    assert len(targets) == 3
    names = [t.value for t in targets if t.value != "y"]
    with Session(bench.model, outputs=names) as session:
        whole = [session.run(feed) for feed in feeds()]
    with Reference(bench.model, targets, feeds(), SIZES, dims) as reference:
        for target, layer in zip(targets, reference.layers, strict=True):
            assert len(layer) == len(SIZES)
            for given, expected in zip(layer, whole, strict=True):
                cut = take(expected[target.value], target.cuts)
                assert given.shape == cut.shape
                assert np.abs(given.rows).mean() > 0.1
                np.testing.assert_allclose(given.rows, cut[given.chosen], rtol=1e-5, atol=1e-6)
        outputs = reference.outputs(1)
    assert len(outputs) == len(SIZES) - 1
    for given, expected in zip(outputs, whole[1:], strict=True):
        np.testing.assert_allclose(given["y"], expected["y"], rtol=1e-5, atol=1e-6)


def test_a_piece_has_as_many_layers_as_there_is_room_for() -> None:
    targets, dims = half(Bench(from_text(TEXT, WEIGHTS)))
    elements = dict.fromkeys(dims, 1 << 22)  # 16 MB each
    assert list(module._pieces(targets, 12, elements)) == [[0], [1, 2]]
    elements = dict.fromkeys(dims, 1 << 24)
    assert list(module._pieces(targets, 12, elements)) == [[0], [1], [2]]


def test_inputs_that_do_not_fit_are_said_when_a_layer_is_asked_for() -> None:
    bench = Bench(from_text(TEXT, WEIGHTS))
    targets, dims = half(bench)
    with (
        Reference(bench.model, targets, feeds(9), SIZES, dims) as reference,
        pytest.raises(UnsupportedModelError, match="MatMul"),
    ):
        next(reference.layers)


def test_in_front_of_a_global_maximum_the_largest_are_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 200 places those where most channels are largest, and as many others."""
    monkeypatch.setattr(module, "rows_per_sample", lambda target, samples: 5)
    text = "l = Conv (x, w) r = Relu (l) h = Conv (r, v) m = GlobalMaxPool (h) y = Sigmoid (m)"
    weights = {"w": drawn(12, 8, 1, fan_in=8), "v": drawn(10, 12, 1, fan_in=12)}
    bench = Bench(
        from_text(text, weights, inputs="float[N, 8, 200] x", outputs="float[N, 10, 1] y")
    )
    targets, dims = half(bench)
    assert [(t.value, t.peaks) for t in targets] == [("h", True)]
    feed = {"x": np.random.default_rng(0).normal(size=(3, 8, 200)).astype(np.float32)}
    with Session(bench.model, outputs=["h"]) as session:
        h = session.run(feed)["h"]
    with Reference(bench.model, targets, [feed], [3], dims) as reference:
        ((given,),) = reference.layers
    for sample in range(3):
        places = given.chosen[given.chosen // 200 == sample] % 200
        counts = np.bincount(h[sample].argmax(1), minlength=200)
        most = np.sort(counts)[-5:].sum()
        assert counts[places].sum() >= most
        assert 5 <= len(places) <= 15
    assert 20 <= len(given.chosen) <= 30
    rows = h.transpose(0, 2, 1).reshape(600, 10)
    np.testing.assert_allclose(given.rows, rows[given.chosen], rtol=1e-5, atol=1e-6)
