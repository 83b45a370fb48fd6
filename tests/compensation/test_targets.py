"""What a layer is fitted to: behind its batch norm, and with what the skip holds."""

from __future__ import annotations

import numpy as np
from workbench import Bench, drawn, from_text

from graphprune.compensation.targets import find_targets, rows_per_sample
from graphprune.scoring.statistics import LEAST_ROWS, ROWS

NORM = {"g": 1 + drawn(6), "b": drawn(6), "m": drawn(6), "v": 1 + drawn(6) ** 2}
HIDDEN = {"w0": drawn(8, 16), "w1": drawn(16, 6), "w2": drawn(16, 6, seed=1), "z": drawn(6)}


def found(text: str) -> dict[str, tuple[str, str | None]]:
    bench = Bench(from_text(text, {**NORM, **HIDDEN}))
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    for group in bench.graph.groups:
        removed[group.units[group.size // 2 :]] = True
    plan = bench.plan(bench.graph, removed)
    dims = {v.name: d for v, d in bench.shapes[0].dims.items()}
    targets, left = find_targets(bench.pruned(plan), plan, dims, bench.model)
    assert not left
    for target in targets:
        groups = len(target.layer.weights)
        rows = 10 * rows_per_sample(target, 10)
        assert groups == 1
        assert LEAST_ROWS <= rows <= ROWS + 10
        assert target.scale.shape == target.shift.shape == (target.layer.bias.size,)
    return {t.layer.node.inputs[1].name: (t.value, t.skip) for t in targets}


BRANCHES = "a = MatMul (x, w0) r = Relu (a) s = MatMul (r, w1) q = MatMul (r, w2) "


def test_the_skip_is_taken_off_behind_the_batch_norm() -> None:
    text = BRANCHES + "d = Add (q, z) e = BatchNormalization (d, g, b, m, v) y = Add (e, s)"
    assert found(text) == {"w1": ("s", None), "w2": ("y", "s")}


def test_what_is_computed_later_is_no_skip() -> None:
    text = "a = MatMul (x, w0) r = Relu (a) s = MatMul (r, w1) q = MatMul (r, w2) y = Add (s, q)"
    assert found(text) == {"w1": ("s", None), "w2": ("y", "s")}


def test_without_a_skip_the_scale_is_that_behind_the_batch_norm() -> None:
    text = "a = MatMul (x, w0) r = Relu (a) d = MatMul (r, w1) "
    text += "e = BatchNormalization (d, g, b, m, v) y = Relu (e)"
    assert found(text) == {"w1": ("e", None)}


def test_more_samples_give_more_rows_where_layers_are_narrow() -> None:
    """Places of one sample are alike: of many samples more is looked at, as long as that is cheap."""
    for width, rows in ((6, ROWS), (512, ROWS), (1024, 10240), (2048, 20480), (4096, ROWS)):
        bench = Bench(from_text("a = MatMul (x, w) y = MatMul (a, v)", wide(width)))
        removed = np.zeros(bench.graph.resolver.classes.count, bool)
        removed[bench.graph.groups[0].units[:1]] = True
        plan = bench.plan(bench.graph, removed)
        dims = {v.name: d for v, d in bench.shapes[0].dims.items()}
        (target,) = find_targets(bench.model, plan, dims, bench.model)[0]
        assert 512 * rows_per_sample(target, 512) == rows
        few = max(LEAST_ROWS, min(10 * width, ROWS))
        assert few <= 64 * rows_per_sample(target, 64) < few + 64


def wide(width: int) -> dict[str, np.ndarray]:
    return {"w": drawn(8, width), "v": drawn(width, 4)}
