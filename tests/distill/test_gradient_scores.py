"""Gradient scores against what removing a unit really does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from distill_nets import inputs, residual_net
from scipy.stats import spearmanr
from workbench import Bench, drawn, from_text

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from graphprune.distill.scores import gradient_scores  # noqa: E402
from graphprune.errors import UnsupportedModelError, UsageError  # noqa: E402
from graphprune.onnx.runtime import Session  # noqa: E402


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(residual_net())


def weight_of(bench: Bench):
    return lambda name: bench.weights[name]


def logits(model: ir.Model, x: np.ndarray) -> np.ndarray:
    with Session(model, outputs=["z"]) as session:
        return session.run({"x": x})["z"].astype(np.float64)


def true_errors(bench: Bench, group, x: np.ndarray) -> np.ndarray:
    """Relative squared error of the logits without each unit."""
    base = logits(bench.model, x)
    found = []
    for unit in range(group.size):
        removed = np.zeros(bench.graph.resolver.classes.count, bool)
        removed[group.units[unit]] = True
        smaller = bench.pruned(bench.plan(bench.graph, removed))
        found.append(((logits(smaller, x) - base) ** 2).mean() / base.var())
    return np.array(found)


@pytest.mark.parametrize("kind", ["fisher", "taylor"])
def test_scores_rank_units_as_their_removal_does(bench: Bench, kind: str) -> None:
    x = inputs(256)
    names = [g.name for g in bench.graph.groups]
    found = gradient_scores(bench.model, bench.graph, names, weight_of(bench), [{"x": x}], kind)
    assert set(found) == set(names)
    for group in bench.graph.groups:
        score, true = found[group.name], true_errors(bench, group, x)
        assert score.shape == (group.size,)
        assert spearmanr(score, true).statistic > 0.8
        if kind == "fisher" and not any(m.site.op == "Add" for m in group.members):
            assert score.sum() == pytest.approx(true.sum(), rel=0.5)


def test_fisher_is_the_error_itself_where_the_model_is_linear() -> None:
    proto = from_text(
        "h = MatMul (x, w) z = MatMul (h, v)",
        {"w": drawn(8, 6), "v": drawn(6, 40)},
        outputs="float[N, 40] z",
    )
    bench = Bench(proto)
    (group,) = bench.graph.groups
    x = inputs(256)
    runs = [
        gradient_scores(
            bench.model, bench.graph, [group.name], weight_of(bench), [{"x": x}], "fisher", seed
        )[group.name]
        for seed in range(8)  # of random signs
    ]
    scores = np.mean(runs, axis=0)
    true = true_errors(bench, group, x)
    assert scores == pytest.approx(true, abs=0.15 * true.max())
    assert spearmanr(scores, true).statistic > 0.9


def test_the_seed_decides(bench: Bench) -> None:
    names = [bench.graph.groups[0].name]
    feeds = [{"x": inputs(32)}]

    def run(seed: int) -> np.ndarray:
        return gradient_scores(
            bench.model, bench.graph, names, weight_of(bench), feeds, "fisher", seed
        )[names[0]]

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


def test_a_loss_with_labels(bench: Bench) -> None:
    """The derivative by a factor on a unit's readers, from the outside: by differences."""
    x = inputs(16)
    labels = np.arange(16) % 5
    group = bench.graph.by_name["a1"]

    def loss(values, i):
        return -torch.log(values["y"][0, labels[i]])

    found = gradient_scores(
        bench.model, bench.graph, [group.name], weight_of(bench), [{"x": x}], "taylor", loss=loss
    )[group.name]
    (member,) = [m for m in group.members if m.site.name == "v1"]
    expected = np.zeros(group.size)
    for unit in (0, 5):
        sides = []
        for factor in (0.99, 1.01):
            copy = bench.model.clone()
            array = bench.weights["v1"].copy()
            row = int(np.flatnonzero(member.resolved.classes.reshape(-1) == group.units[unit])[0])
            array[row] *= factor
            copy.graph.initializers["v1"].const_value = ir.tensor(array, name="v1")
            with Session(copy) as session:
                y = session.run({"x": x})["y"].astype(np.float64)
            sides.append(-np.log(y[np.arange(16), labels]))
        expected[unit] = np.abs((sides[1] - sides[0]) / 0.02).mean()
        assert found[unit] == pytest.approx(expected[unit], rel=2e-2)


def test_bad_input(bench: Bench) -> None:
    names = [bench.graph.groups[0].name]
    feeds = [{"x": inputs(8)}]
    with pytest.raises(UsageError, match="unknown gradient score 'hessian': choose one of taylor"):
        gradient_scores(bench.model, bench.graph, names, weight_of(bench), feeds, "hessian")
    bad = [{"x": np.full((8, 8), np.nan, np.float32)}]
    with pytest.raises(UsageError, match="no output that varies"):
        gradient_scores(bench.model, bench.graph, names, weight_of(bench), bad, "fisher")


def test_an_op_without_a_gradient_is_named() -> None:
    proto = from_text(
        "h = MatMul (x, w) q, s, z = DynamicQuantizeLinear (h) f = DequantizeLinear (q, s, z)"
        " y = MatMul (f, v)",
        {"w": drawn(8, 16), "v": drawn(16, 4)},
        outputs="float[N, 4] y",
    )
    bench = Bench(proto)
    names = [g.name for g in bench.graph.groups]
    with pytest.raises(UnsupportedModelError, match=r"\(DynamicQuantizeLinear\)"):
        gradient_scores(bench.model, bench.graph, names, weight_of(bench), [{"x": inputs(8)}])
