"""Exactly as many as asked for, and the lowest."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import drawn, from_text

from graphprune.errors import UsageError
from graphprune.onnx.load import load
from graphprune.sparse import select
from graphprune.sparse.scores import input_means, score
from graphprune.sparse.weights import prunable


def weights(seed: int = 0, coarse: bool = False):
    arrays = {"a": drawn(8, 12, seed=seed), "b": 3 * drawn(12, 16, seed=seed + 1)}
    if coarse:  # many ties
        arrays = {n: np.round(a * 2) for n, a in arrays.items()}
    model = load(from_text("h = MatMul(x, a) r = Relu(h) y = MatMul(r, b)", arrays)).model
    return prunable(model), model


def magnitude(weight):
    return score(weight, "magnitude", 0, {})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.booleans(), st.floats(0, 1))
def test_over_all_takes_the_lowest_of_all(seed, coarse, sparsity):
    found, _ = weights(seed, coarse)
    masks = select.over_all(found, magnitude, sparsity)
    scores = np.concatenate([magnitude(w).reshape(-1) for w in found])
    pruned = np.concatenate([masks[w.name].pruned.reshape(-1) for w in found])
    assert pruned.sum() == round(sparsity * scores.size)
    if 0 < pruned.sum() < pruned.size:
        assert scores[pruned].max() <= scores[~pruned].min()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.booleans(), st.floats(0, 1))
def test_local_scopes(seed, coarse, sparsity):
    found, _ = weights(seed, coarse)
    for masks, rows in (
        (select.by_layer(found, magnitude, sparsity), lambda a, w: a.reshape(1, -1)),
        (select.by_output(found, magnitude, sparsity), lambda a, w: np.moveaxis(a, 1, 0)),
    ):
        for w in found:
            scores, pruned = (rows(a, w) for a in (magnitude(w), masks[w.name].pruned))
            assert (pruned.sum(axis=1) == round(sparsity * scores.shape[1])).all()
            for s, p in zip(scores, pruned, strict=True):
                assert not p.any() or p.all() or s[p].max() <= s[~p].min()


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, None), (1, 4, 0), (3, 4, 1), (1, 2, 0)])
def test_patterns(n, m, axis):
    found, _ = weights()
    masks = select.n_of_m(found, magnitude, n, m, axis)
    for w in found:
        at = 0 if axis is None else axis  # MatMul sums over axis 0
        scores, pruned = (
            np.moveaxis(a, at, -1).reshape(-1, m) for a in (magnitude(w), masks[w.name].pruned)
        )
        assert (pruned.sum(axis=1) == m - n).all()
        for s, p in zip(scores, pruned, strict=True):
            assert s[p].max() <= s[~p].min()


def test_a_pattern_that_does_not_divide():
    found, _ = weights()
    with pytest.raises(UsageError, match=r"2:16 does not divide axis 0 of 'a' .*--exclude 'a'"):
        select.n_of_m(found, magnitude, 2, 16)
    with pytest.raises(UsageError, match="'a' has no axis 2"):
        select.n_of_m(found, magnitude, 2, 4, 2)


def test_scores_of_layers_of_different_scale():
    found, _ = weights()
    low = select.over_all(found, magnitude, 0.5)
    even = select.over_all(found, lambda w: score(w, "l2", 0, {}), 0.5)
    shares = [[m[n].pruned.mean() for n in ("a", "b")] for m in (low, even)]
    assert shares[0][0] > shares[0][1] + 0.3
    assert abs(shares[1][0] - shares[1][1]) < 0.15


def test_wanda_is_the_weight_times_its_input():
    found, model = weights()
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    x *= np.arange(1, 9, dtype=np.float32)
    means = input_means(model, found, [{"x": x[:20]}, {"x": x[20:]}])
    hidden = np.maximum(x @ found[0].array(), 0)
    for w, values in zip(found, (x, hidden), strict=True):
        rms = np.sqrt((values.astype(np.float64) ** 2).mean(axis=0))
        expected = np.abs(w.array()) * rms[:, None]
        np.testing.assert_allclose(score(w, "wanda", 0, means), expected, rtol=1e-5)


def test_wanda_of_a_grouped_convolution():
    model = load(
        from_text(
            "y = Conv<group=2>(x, w)",
            {"w": drawn(6, 2, 3, 3)},
            inputs="float[N, 4, 8, 8] x",
            outputs="float[N, C, H, W] y",
        )
    ).model
    (w,) = prunable(model)
    x = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float32)
    x *= np.array([1, 2, 3, 4], np.float32).reshape(1, 4, 1, 1)
    rms = np.sqrt((x.astype(np.float64) ** 2).mean(axis=(0, 2, 3)))
    got = score(w, "wanda", 0, input_means(model, [w], [{"x": x}]))
    for out in range(6):
        for i in range(2):
            expected = np.abs(w.array()[out, i]) * rms[2 * (out // 3) + i]
            np.testing.assert_allclose(got[out, i], expected, rtol=1e-5)


def test_random_keeps_zeros_first_and_has_a_seed():
    found, _ = weights()
    array = found[0].array().copy()
    array[:2] = 0
    found[0].value.const_value = ir.tensor(array)
    one, two = (score(found[0], "random", s, {}) for s in (0, 1))
    assert (one[:2] == 0).all()
    assert (one[2:] > 0).all()
    assert (one[2:] != two[2:]).any()
