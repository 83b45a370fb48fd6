"""Dims inside heads are mixed before those that leave do, where two layers meet in them directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from workbench import Bench

import graphprune
from graphprune.compensation import run
from graphprune.compensation.heads import HeadPair, find_head_pairs
from graphprune.compensation.rotation import read_factors, score_factors
from models_zoo.builders.sketch import Sketch

HEADS, DIM, WIDTH, TIME = 2, 8, 24, 6
HALF = DIM // 2
QUICK: dict[str, Any] = {"bench": False, "align": 1, "head_dims": 0.5}
DATA = np.random.default_rng(1).normal(0.2, 1, (160, TIME, WIDTH)).astype(np.float32)


def projections(s: Sketch, kind: str) -> list[np.ndarray]:
    """Q, K, V and output: full rank, or of a rank per head that half of the dims can hold."""
    draw = s.random.normal
    size = HEADS * DIM
    q, k, v = (draw(0, WIDTH**-0.5, (WIDTH, HEADS, DIM)) for _ in range(3))
    out = draw(0, size**-0.5, (HEADS, DIM, WIDTH))
    if kind == "low":
        thin = draw(0, DIM**-0.5, (3, HEADS, DIM, DIM))
        thin[..., HALF:] = 0  # a projection on half of the dims, in some basis
        low = [t @ np.linalg.pinv(t) for t in thin]
        q, k = (np.einsum("ihd,hde->ihe", w, p) for w, p in zip((q, k), low, strict=False))
        out = low[2] @ out
    return [w.reshape(WIDTH, size) for w in (3 * q, 3 * k, v)] + [out.reshape(size, WIDTH)]


def attention(kind: str, *, fused: bool = False) -> onnx.ModelProto:
    s = Sketch("attention", seed=3)
    time = TIME if kind == "rotary" else "time"
    x = s.input("x", ["batch", time, WIDTH])
    weights = [s.constant(f"w{i}", w, np.float32) for i, w in enumerate(projections(s, kind))]
    y = block(s, x, weights, kind, fused)
    s.nodes[-1].name = "out"  # whatever stands in front
    y = s.op("MatMul", s.op("Add", x, y), s.weight("head", (WIDTH, 5), WIDTH))
    return onnx.shape_inference.infer_shapes(s.model(y, ["batch", time, 5]))


def block(s: Sketch, x: str, weights: list[str], kind: str, fused: bool) -> str:
    if fused:
        whole = np.concatenate([s.initializers.pop(w) for w in weights[:3]], axis=1)
        y = s.op("MatMul", x, s.constant("qkv", whole, np.float32))
        y = s.op("Transpose", s.reshape(y, 0, 0, 3, HEADS, DIM), perm=[2, 0, 3, 1, 4])
        parts = s.ops("Split", y, count=3, axis=0, num_outputs=3)
        first = s.constant("first", [0])
        q, k, v = (s.op("Squeeze", p, first) for p in parts)
    else:
        q, k, v = (
            s.op("Transpose", s.reshape(s.op("MatMul", x, w), 0, 0, HEADS, DIM), perm=[0, 2, 1, 3])
            for w in weights[:3]
        )
    if kind == "norm":
        scale = s.constant("scale", s.random.uniform(0.5, 1.5, DIM), np.float32)
        q = s.op("LayerNormalization", q, scale, axis=-1)
    elif kind == "biased":
        q = s.op("Add", q, s.constant("shift", s.random.normal(size=(HEADS, 1, DIM)), np.float32))
    elif kind == "shared":
        k = s.op("Slice", k, *(s.constant(n, [i]) for n, i in (("k0", 0), ("k1", 1), ("k2", 1))))
    elif kind == "rotary":
        q, k = turned(s, q), turned(s, k)
    scores = s.op("MatMul", q, s.op("Transpose", k, perm=[0, 1, 3, 2]))
    shares = s.op("Softmax", s.op("Div", scores, s.constant("root", DIM**0.5, np.float32)))
    y = s.op("Transpose", s.op("MatMul", shares, v), perm=[0, 2, 1, 3])
    shape = s.op("Shape", y)  # of a view, as torch asks for it
    start, end = s.constant("start", [0]), s.constant("end", [2])
    merged = s.op(
        "Concat", s.op("Slice", shape, start, end), s.constant("all", [HEADS * DIM]), axis=0
    )
    return s.op("MatMul", s.op("Reshape", y, merged), weights[3])


def turned(s: Sketch, x: str) -> str:
    name = f"turn{len(s.nodes)}"
    angles = np.tile(np.arange(TIME)[:, None] / 10 ** np.arange(HALF), 2)
    low, high = s.ops("Split", x, count=2, axis=-1, num_outputs=2)
    y = s.op("Concat", s.op("Neg", high), low, axis=-1)
    cos, sin = (s.constant(f"{name}.{f.__name__}", f(angles), np.float32) for f in (np.cos, np.sin))
    return s.op("Add", s.op("Mul", x, cos), s.op("Mul", y, sin))


def compiled(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch, rotated: bool) -> Any:
    with monkeypatch.context() as patch:
        if not rotated:
            patch.setattr(run, "rotate", lambda *given, **settings: {})
        return graphprune.compile(model, calib=DATA, calib_samples=160, **QUICK)


def error(result: Any) -> float:
    return float(result.report.drift.outputs[0]["relative"])


def pairs_of(model: onnx.ModelProto, plan: Any) -> list[HeadPair]:
    bench = Bench(model)
    dims = {v.name: d for v, d in bench.shapes[0].dims.items() if v.name}
    return find_head_pairs(bench.model, plan, dims)


@pytest.mark.parametrize("fused", [False, True])
def test_what_half_of_the_dims_can_hold_is_held(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attention("low", fused=fused)
    rotated, plain = (compiled(model, monkeypatch, r) for r in (True, False))
    assert rotated.plan.sha256 == plain.plan.sha256
    assert rotated.report.certificate["status"] == "exact"
    assert error(plain) > 0.05
    assert error(rotated) < 2e-3
    pairs = pairs_of(model, rotated.plan)
    assert [p.reads for p in pairs] == [False, True]
    assert all(p.ours.shape == (HEADS, DIM) for p in pairs)


@pytest.mark.parametrize("kind", ["low", "full"])
def test_never_worse_than_a_plain_refit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rotated, plain = (compiled(attention(kind), monkeypatch, r) for r in (True, False))
    assert error(rotated) <= error(plain)


@pytest.mark.parametrize("kind", ["biased", "norm", "rotary", "shared"])
def test_what_stands_between_is_left_alone(kind: str) -> None:
    """By the plan that cuts dims of scores, with nothing between them."""
    plain = graphprune.compile(attention("full"), **QUICK).plan
    assert [p.reads for p in pairs_of(attention("full"), plain)] == [False, True]
    assert [p.reads for p in pairs_of(attention(kind), plain)] == [True]
    result = graphprune.compile(attention(kind), calib=DATA, calib_samples=160, **QUICK)
    assert result.report.certificate is not None
    assert result.report.certificate["status"] in ("exact", "statistics")
    assert error(result) <= result.report.drift.uncompensated[0]["relative"]


def two_blocks() -> onnx.ModelProto:
    s = Sketch("two_blocks", seed=5)
    x = s.input("x", ["batch", "time", WIDTH])
    for name in ("one", "two"):
        inner = Sketch(name)
        weights = [
            s.constant(f"{name}.w{i}", w, np.float32)
            for i, w in enumerate(projections(inner, "low"))
        ]
        x = s.op("Add", x, block(s, x, weights, "low", False))
    return s.model(s.op("MatMul", x, s.weight("head", (WIDTH, 5), WIDTH)), ["batch", "time", 5])


def test_heads_of_a_layer_that_left_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed: list[set[str]] = []
    rotate = run.rotate

    def noted(*given: Any, **settings: Any) -> dict[str, Any]:
        found = rotate(*given, **settings)
        mixed.append(set(found))
        return found

    monkeypatch.setattr(run, "rotate", noted)
    settings = {**QUICK, "calib": DATA, "calib_samples": 160}
    whole = graphprune.compile(two_blocks(), **settings)
    short = graphprune.compile(two_blocks(), layers=0.5, **settings)
    assert len(short.plan.layers) == 1
    assert [len(names) for names in mixed] == [6, 3]
    assert mixed[1] < mixed[0]
    assert mixed[1] <= {n.name for n in short.model.graph}
    assert error(whole) < 2e-3
    assert error(short) < short.report.drift.uncompensated[0]["relative"]


def test_factors_of_full_rank_change_nothing_and_lower_ones_are_best() -> None:
    rng = np.random.default_rng(0)
    q, k, w = (rng.normal(size=s) for s in ((50, 6), (50, 6), (6, 9)))
    r, t = score_factors(q.T @ q, k.T @ k, 6)
    np.testing.assert_allclose(q @ r @ (k @ t).T, q @ k.T, atol=1e-3)
    r, t = score_factors(q.T @ q, k.T @ k, 3)
    best = np.linalg.svd(q @ k.T, compute_uv=False)[3:]
    assert np.linalg.norm(q @ r @ (k @ t).T - q @ k.T) == pytest.approx(np.linalg.norm(best), 1e-3)
    r, t = read_factors(q.T @ q, w, 3)
    best = np.linalg.svd(q @ w, compute_uv=False)[3:]
    assert np.linalg.norm(q @ r @ t.T @ w - q @ w) == pytest.approx(np.linalg.norm(best), 1e-3)
