"""Part by part a graph gives what it gives in one go, and no node runs twice for a batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

from graphprune.compensation import frontier
from graphprune.compensation.frontier import Frontier
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session

TEXT = (
    "a = MatMul (x, w1) b = Relu (a) c = MatMul (b, w2) d = Add (c, x) e = Relu (d) "
    "k = Greater (m, n) f = If (k) <then_branch = t () => (o) { o = Mul (e, b) }, "
    "else_branch = s () => (p) { p = Identity (e) }> g = MatMul (f, w1) h = Add (g, d) "
    "y = MatMul (h, w2)"
)
STOPS = [["x"], ["b", "x"], ["c"], ["e", "b"], ["f"], ["h", "d"]]


def model() -> ir.Model:
    scalars = {"m": np.float32(1).reshape(()), "n": np.float32(0).reshape(())}
    return load(from_text(TEXT, {"w1": drawn(8, 8), "w2": drawn(8, 8, seed=1), **scalars})).model


def batches() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, 8)).astype(np.float32)} for n in (4, 5, 6)]


@pytest.mark.parametrize(
    ("memory", "disk"), [(0, 0), (300, 0), (1 << 20, 0), (300, 1 << 20), (0, 1 << 20), (200, 200)]
)
def test_stop_by_stop(memory: int, disk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: Counter[str] = Counter()

    class Counting(Session):
        def __init__(self, part: ir.Model, **settings: Any) -> None:
            super().__init__(part, **settings)
            self.nodes = [n.outputs[0].name for n in part.graph]

        def run(self, feeds: Any) -> Any:
            ran.update(self.nodes)
            return super().run(feeds)

    monkeypatch.setattr(frontier, "Session", Counting)
    whole = model()
    feeds = batches()
    names = list(dict.fromkeys(n for names in STOPS for n in names if n != "x"))
    with Session(whole, outputs=names, optimize=False) as session:
        wanted = [{**feed, **session.run(feed)} for feed in feeds]
    with Frontier(whole, feeds, STOPS, memory=memory, disk=disk) as walk:
        for stop, asked in enumerate(STOPS):
            found = list(walk.advance(stop))
            assert len(found) == len(feeds)
            for got, right in zip(found, wanted, strict=True):
                assert set(got) == set(asked)
                for name in asked:
                    np.testing.assert_allclose(got[name], right[name], atol=1e-5)
            assert walk._shelf.used("memory") <= memory
            assert walk._shelf.used("disk") <= disk
    assert ran["y"] == 0
    if 1 << 20 in (memory, disk):
        assert set(ran.values()) == {len(feeds)}
    elif memory == 0:
        assert max(ran.values()) > 2 * len(feeds)


def test_weights_behind_a_stop_may_change() -> None:
    whole = model()
    feeds = batches()
    walk = Frontier(whole, feeds, [["b"], ["c"]])
    b = [v["b"] for v in walk.advance(0)]
    value = whole.graph.initializers["w2"]
    value.const_value = ir.Tensor(2 * value.const_value.numpy(), name="w2")
    for given, after in zip(b, walk.advance(1), strict=True):
        np.testing.assert_allclose(after["c"], given @ value.const_value.numpy(), atol=1e-5)


def test_a_stop_may_be_left_out() -> None:
    whole, feeds = model(), batches()
    walk = Frontier(whole, feeds, [["b"], ["c"], ["h"]])
    list(walk.advance(0))
    with Session(whole, outputs=["h"]) as session:
        for feed, got in zip(feeds, walk.advance(2), strict=True):
            np.testing.assert_allclose(got["h"], session.run(feed)["h"], atol=1e-5)


def test_batches_may_stay_behind() -> None:
    whole, feeds = model(), batches()
    with Frontier(whole, feeds, [["b"], ["c"], ["h"]]) as walk, Session(whole, outputs=["h"]) as s:
        list(walk.advance(0))
        assert len(list(walk.advance(1, 2))) == 1
        for feed, got in zip(feeds[1:], walk.advance(2, 1), strict=True):
            np.testing.assert_allclose(got["h"], s.run(feed)["h"], atol=1e-5)
