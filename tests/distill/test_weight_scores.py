"""Gradient scores of single weights against what removing them does."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from workbench import drawn, from_text

import graphprune
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.load import load
from graphprune.sparse.scores import by_gradient
from graphprune.sparse.weights import prunable

pytest.importorskip("torch")

from graphprune.distill.weight_scores import weight_scores

MLP = "h = MatMul(x, w) r = Relu(h) z = MatMul(r, v) y = Softmax(z)"


def mlp():
    arrays = {"w": drawn(8, 6, seed=0), "v": drawn(6, 40, seed=1)}
    return load(from_text(MLP, arrays, outputs="float[N, 40] y")).model, arrays


def inputs(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


def true_errors(w: np.ndarray, v: np.ndarray, x: np.ndarray) -> dict[str, np.ndarray]:
    """Relative squared error in front of the softmax without each weight."""
    wanted = np.maximum(x @ w, 0) @ v
    found = {"w": np.zeros(w.shape), "v": np.zeros(v.shape)}
    for name, errors in found.items():
        for at in np.ndindex(errors.shape):
            changed = {"w": w.copy(), "v": v.copy()}
            changed[name][at] = 0
            got = np.maximum(x @ changed["w"], 0) @ changed["v"]
            errors[at] = ((got - wanted) ** 2).mean() / wanted.var()
    return found


@pytest.mark.parametrize("kind", ["fisher", "taylor"])
def test_scores_follow_the_error_that_removal_makes(kind):
    model, arrays = mlp()
    x = inputs(256)
    found = weight_scores(model, ["w", "v"], [{"x": x[:100]}, {"x": x[100:]}], kind)
    true = true_errors(arrays["w"], arrays["v"], x)
    scores = np.concatenate([found[n].reshape(-1) for n in ("w", "v")])
    errors = np.concatenate([true[n].reshape(-1) for n in ("w", "v")])
    assert spearmanr(scores, errors).statistic > 0.9
    for name, score in found.items():
        assert score.shape == arrays[name].shape
        assert score.dtype == np.float32
        if kind == "fisher" and name == "v":  # linear behind it: the error itself
            assert score.sum() == pytest.approx(true[name].sum(), rel=0.2)


def test_a_weight_used_twice_has_the_sum_of_both():
    arrays = {"w": drawn(8, 8)}
    once = load(from_text("h = MatMul(x, w) y = Mul(h, two)", {**arrays, "two": np.float32(2)}))
    twice = load(from_text("h = MatMul(x, w) g = MatMul(x, w) y = Add(h, g)", arrays))
    scores = [
        weight_scores(m.model, ["w"], [{"x": inputs(16)}], "fisher")["w"] for m in (once, twice)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-4)


def test_the_seed_decides():
    model, _ = mlp()
    runs = [weight_scores(model, ["w"], [{"x": inputs(16)}], "taylor", s)["w"] for s in (1, 1, 2)]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_what_has_no_gradient_counts_by_magnitude():
    model, arrays = mlp()
    weights = prunable(model)
    arrays["v"][0, 0] = 0
    model.graph.initializers["v"].const_value = graphprune.onnx.load.ir.tensor(arrays["v"])
    found = {"w": np.abs(drawn(8, 6, seed=3)) + 1}
    scores = by_gradient(weights, found, "fisher")
    np.testing.assert_allclose(scores(weights[0]), found["w"])
    own = scores(weights[1])
    assert own.mean() == pytest.approx(found["w"].mean(), rel=1e-4)
    np.testing.assert_allclose(own / own[1, 1], (arrays["v"] / arrays["v"][1, 1]) ** 2, rtol=1e-4)
    zero = by_gradient(weights, {"w": found["w"], "v": np.zeros((6, 40), np.float32)}, "fisher")
    assert zero(weights[1])[0, 0] == 0
    assert (zero(weights[1]).reshape(-1)[1:] > 0).all()  # only zeros leave for nothing


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_a_model_is_sparsified(criterion):
    model, arrays = mlp()
    x = inputs(64)
    result = graphprune.sparsify(
        model, sparsity=0.5, criterion=criterion, calib={"x": x}, bench=False
    )
    assert result.report.zeros == round(0.5 * result.report.elements)
    true = true_errors(arrays["w"], arrays["v"], x)
    gone = np.concatenate([true[n][result.masks[n].pruned] for n in true])
    left = np.concatenate([true[n][~result.masks[n].pruned] for n in true])
    assert gone.mean() < 0.2 * left.mean()


def test_what_cannot_be_scored_is_one_line():
    model = load(
        from_text(
            "y = MatMul(x, w)",
            {"w": drawn(8, 4).astype(np.float16)},
            inputs="float16[N, 8] x",
            outputs="float16[N, 4] y",
        )
    ).model
    with pytest.raises(UnsupportedModelError, match="'w' is FLOAT16: gradients need"):
        weight_scores(model, ["w"], [{"x": inputs(8).astype(np.float16)}], "fisher")
    model, _ = mlp()
    nan = np.full((8, 8), np.nan, np.float32)
    with pytest.raises(UsageError, match="no output that varies and is finite"):
        weight_scores(model, ["w"], [{"x": nan}], "fisher")
