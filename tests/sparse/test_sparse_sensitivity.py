"""Zeros where the model loses least: the curves, the allocation, and through to the command."""

from __future__ import annotations

import itertools
import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import drawn, from_text

import graphprune
from graphprune.cli import run
from graphprune.onnx.load import load
from graphprune.selection.curves import Curve
from graphprune.sparse.scores import score
from graphprune.sparse.sensitivity import POWERS, damage_curves, least_damage
from graphprune.sparse.weights import prunable

BRANCHES = "p = MatMul(x, a) q = MatMul(x, b) s = Mul(q, small) y = Add(p, s)"
"""Two weights alike, of which one hardly matters."""


def branches() -> onnx.ModelProto:
    arrays = {"a": drawn(8, 40, seed=0), "b": drawn(8, 20, seed=1), "small": np.float32(1e-3)}
    arrays["b"] = np.concatenate([arrays["b"], arrays["b"][:, ::-1]], axis=1)
    return from_text(BRANCHES, arrays, outputs="float[N, 40] y")


def inputs(count: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def magnitude(weight):
    return score(weight, "magnitude", 0, {})


def test_a_curve_is_what_the_outputs_lose():
    model = load(from_text("y = MatMul(x, a)", {"a": drawn(8, 40)}, outputs="float[N, 40] y")).model
    (weight,) = prunable(model)
    x = inputs()
    before = weight.array().copy()
    curve = damage_curves(model, [weight], magnitude, 0.5, [{"x": x[:32]}, {"x": x[32:]}])["a"]
    assert (weight.array() == before).all()
    wanted = x @ before
    for power in POWERS:
        kept = 0.5**power
        pruned = before.copy().reshape(-1)
        pruned[np.argsort(abs(pruned), kind="stable")[: round((1 - kept) * pruned.size)]] = 0
        error = ((x @ pruned.reshape(before.shape) - wanted) ** 2).mean()
        assert curve.at(kept) == pytest.approx(error / wanted.var(axis=0).mean(), rel=0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(0.02, 0.98))
def test_zeros_are_as_many_as_asked_for(seed, sparsity):
    model = load(
        from_text("h = MatMul(x, a) y = MatMul(h, b)", {"a": drawn(8, 3), "b": drawn(3, 7)})
    )
    weights = prunable(model.model)
    rng = np.random.default_rng(seed)
    kept = tuple((1 - sparsity) ** p for p in POWERS)
    curves = {w.name: Curve(kept, tuple(rng.random(len(kept)))) for w in weights}
    counts = least_damage(weights, curves, sparsity)
    assert sum(counts) == round(sparsity * sum(w.size for w in weights))
    assert all(0 <= n <= w.size for n, w in zip(counts, weights, strict=True))


def test_the_sum_of_damages_is_least():
    model = load(
        from_text("h = MatMul(x, a) y = MatMul(h, b)", {"a": drawn(8, 50), "b": drawn(50, 20)})
    )
    weights = prunable(model.model)
    kept = np.linspace(0.05, 0.95, 19)
    steep = {"a": 3.0, "b": 40.0}
    curves = {n: Curve(tuple(kept), tuple(c * (1 - kept) ** 3)) for n, c in steep.items()}

    def total(counts):
        return sum(curves[w.name].at(1 - n / w.size) for n, w in zip(counts, weights, strict=True))

    goal = round(0.6 * 1400)
    found = least_damage(weights, curves, 0.6)
    ways = [(n, goal - n) for n in range(0, 381, 5) if goal - n <= 950]
    assert total(found) <= min(map(total, ways)) * 1.01
    assert total(found) < total([240, 600]) * 0.9  # the same share of both


def test_what_hardly_matters_leaves_first(tmp_path, capsys):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(branches(), path)
    np.save(tmp_path / "calib.npy", inputs())
    base = ["sparsify", str(path), "--sparsity", "0.45", "-o", str(out), "--no-bench", "--json"]
    calib = ["--calib", str(tmp_path / "calib.npy"), "--scope", "sensitivity"]
    shares = []
    for more, _ in itertools.product(([], calib), range(2)):  # each twice: the same again
        assert run([*base, *more, "--overwrite"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["zeros"] == round(0.45 * 640)
        shares.append({w["name"]: w["sparsity"] for w in shown["weights"]})
    assert shares[0]["b"] < 0.6
    assert shares[2] == shares[3]
    assert shares[2]["b"] > 0.8
    assert run([*base, "--scope", "sensitivity", "--overwrite"]) == 2
    assert "scope 'sensitivity' needs calibration inputs" in capsys.readouterr().err


def test_scores_see_other_inputs_than_ratios(monkeypatch):
    seen = []
    from graphprune.sparse import sparsify as module

    def means(model, weights, feeds, threads):
        seen.append(sum(len(f["x"]) for f in feeds))
        return real(model, weights, feeds, threads)

    real = module.input_means
    monkeypatch.setattr(module, "input_means", means)
    wanda = {"sparsity": 0.5, "criterion": "wanda", "bench": False, "calib": {"x": inputs()}}
    graphprune.sparsify(branches(), scope="global", **wanda)
    graphprune.sparsify(branches(), scope="sensitivity", **wanda)
    assert seen == [64, 40]
