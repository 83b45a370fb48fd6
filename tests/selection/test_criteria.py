"""Scores against the plain definition of each criterion, element by element."""

from __future__ import annotations

import numpy as np
import pytest
from workbench import Bench, drawn, from_text

from graphprune.errors import UsageError
from graphprune.selection.criteria import scores, unit_rows

CHAIN = "h = Conv (x, w1) b = BatchNormalization (h, g, o, m, v) r = Relu (b) y = Conv (r, w2)"


def chain() -> tuple[Bench, dict[str, np.ndarray]]:
    """Conv, BatchNormalization, Conv: six channels between them."""
    rng = np.random.default_rng(3)
    weights = {
        "w1": drawn(6, 3, 3, 3, fan_in=27),
        "g": rng.uniform(-2, 2, 6).astype(np.float32),
        "o": rng.normal(0, 1, 6).astype(np.float32),
        "m": rng.normal(0, 1, 6).astype(np.float32),
        "v": rng.uniform(0.5, 1.5, 6).astype(np.float32),
        "w2": drawn(4, 6, 3, 3, fan_in=54),
    }
    inputs, outputs = "float[N, 3, 8, 8] x", "float[N, 4, 4, 4] y"
    return Bench(from_text(CHAIN, weights, inputs=inputs, outputs=outputs)), weights


def lp(rows: np.ndarray, p: float) -> np.ndarray:
    return np.array([sum(abs(float(v)) ** p for v in row) ** (1 / p) for row in rows])


def median(rows: np.ndarray) -> np.ndarray:
    """Of each row the sum of its distances to all rows (He et al.)."""
    return np.array([sum(np.linalg.norm(a - b) for b in rows) for a in rows.astype(np.float64)])


def combined(measure, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Mean over both convolutions of the measure, each divided by its mean; then mean 1."""
    rows = [weights["w1"].reshape(6, -1), weights["w2"].transpose(1, 0, 2, 3).reshape(6, -1)]
    parts = [measure(r) for r in rows]
    total = sum(p / p.mean() for p in parts) / 2
    return total / total.mean()


@pytest.mark.parametrize(
    ("criterion", "measure"),
    [
        ("l1", lambda r: lp(r, 1)),
        ("l2", lambda r: lp(r, 2)),
        ("l3", lambda r: lp(r, 3)),
        ("l0.5", lambda r: lp(r, 0.5)),
        ("fpgm", median),
    ],
)
def test_criteria_of_all_weights_a_channel_runs_through(criterion: str, measure) -> None:
    bench, weights = chain()
    (group,) = bench.graph.groups
    found = scores([group], bench.weights.__getitem__, criterion)
    np.testing.assert_allclose(found[group.name], combined(measure, weights), rtol=1e-6)


def test_bn_scale_reads_the_scales_alone() -> None:
    bench, weights = chain()
    (group,) = bench.graph.groups
    found = scores([group], bench.weights.__getitem__, "bn-scale")[group.name]
    expected = np.abs(weights["g"]) / np.abs(weights["g"]).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bn_scale_without_a_norm_is_the_l2_norm() -> None:
    weights = {"w1": drawn(8, 6), "w2": drawn(6, 4)}
    bench = Bench(from_text("h = MatMul (x, w1) r = Relu (h) y = MatMul (r, w2)", weights))
    both = [scores(bench.graph.groups, bench.weights.__getitem__, c) for c in ("bn-scale", "l2")]
    for name, found in both[0].items():
        np.testing.assert_allclose(found, both[1][name])


def test_vectors_are_scored_where_there_is_no_matrix() -> None:
    """Shifts and scales do not outvote the weights, but alone they decide."""
    bench = Bench(
        from_text(
            "a = Mul (x, s) y = MatMul (a, w)",
            {"s": drawn(8), "w": drawn(8, 4)},
            inputs="float[N, 1] x",
        )
    )
    (group,) = bench.graph.groups
    found = scores([group], bench.weights.__getitem__, "l2")[group.name]
    norms = lp(bench.weights["w"], 2)
    np.testing.assert_allclose(found, norms / norms.mean(), rtol=1e-6)


def test_random_depends_on_the_seed_and_the_group_alone() -> None:
    bench, _ = chain()
    (group,) = bench.graph.groups

    def draw(seed: int) -> np.ndarray:
        return scores([group], bench.weights.__getitem__, "random", seed)[group.name]

    assert (draw(0) == draw(0)).all()
    assert (draw(0) != draw(1)).any()
    assert np.unique(draw(0)).size == group.size


def test_a_unit_that_stands_in_fewer_weights_is_not_worth_less_for_it() -> None:
    """`a` and `b` are concatenated before a grouped convolution: one family, and only the channels
    of `a` are also read by another layer. Scores are means over the weights, not sums."""
    body = (
        "a = Conv (x, wa) b = Conv (x, wb) c = Concat <axis = 1> (a, b) "
        "d = Conv <group = 2> (c, wc) z = Conv (a, wz) y0 = Conv (d, wd) y = Add (y0, z)"
    )
    weights = {
        "wa": np.ones((6, 3, 1, 1), np.float32),
        "wb": np.ones((2, 3, 1, 1), np.float32),
        "wc": np.ones((4, 4, 1, 1), np.float32),
        "wd": np.ones((5, 4, 1, 1), np.float32),
        "wz": np.ones((5, 6, 1, 1), np.float32),
    }
    inputs, outputs = "float[N, 3, 4, 4] x", "float[N, 5, 4, 4] y"
    bench = Bench(from_text(body, weights, inputs=inputs, outputs=outputs))
    graph = bench.analyse(blocks=False)
    family = max(graph.groups, key=lambda g: len(g.cells))
    assert len(family.cells) > 1
    found = scores([family], bench.weights.__getitem__, "l2")[family.name]
    np.testing.assert_allclose(found, np.ones(family.size), rtol=1e-6)


def test_slices_of_a_unit_are_its_rows_whatever_the_layout() -> None:
    """Heads: the slice of a head is all its columns of the projection, in their order."""
    rng = np.random.default_rng(0)
    body = (
        "q0 = MatMul (x, q) q1 = Reshape (q0, heads) q2 = Transpose <perm = [0, 2, 1, 3]> (q1) "
        "k0 = MatMul (x, k) k1 = Reshape (k0, heads) k2 = Transpose <perm = [0, 2, 3, 1]> (k1) "
        "v0 = MatMul (x, v) v1 = Reshape (v0, heads) v2 = Transpose <perm = [0, 2, 1, 3]> (v1) "
        "s = MatMul (q2, k2) p = Softmax (s) o = MatMul (p, v2) "
        "o1 = Transpose <perm = [0, 2, 1, 3]> (o) o2 = Reshape (o1, flat) y = MatMul (o2, w)"
    )
    weights = {n: rng.normal(0, 0.3, (8, 12)).astype(np.float32) for n in "qkv"}
    weights["w"] = drawn(12, 5)
    weights["heads"] = np.array([0, 0, 3, 4])
    weights["flat"] = np.array([0, 0, 12])
    inputs, outputs = "float[N, 6, 8] x", "float[N, 6, 5] y"
    bench = Bench(from_text(body, weights, inputs=inputs, outputs=outputs))
    (group,) = bench.graph.groups
    assert (group.kind, group.size) == ("head", 3)
    for member in group.members:
        if member.site.is_weight:
            array = weights[member.site.name]
            rows, present = unit_rows(group, member, array)
            assert present.tolist() == [0, 1, 2]
            columns = array if member.axis == 1 else array.T
            for head in range(3):
                mine = columns[:, 4 * head : 4 * head + 4]
                assert sorted(rows[head].tolist()) == sorted(mine.reshape(-1).astype(float))


@pytest.mark.parametrize("name", ["", "l", "l0", "lx", "L2", "l2 ", "magnitude", "l-1"])
def test_unknown_criteria_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match="unknown criterion") as error:
        scores([], lambda n: np.zeros(1), name)
    assert "fpgm" in str(error.value)


def test_weights_of_zeros_leave_the_order_to_the_numbers() -> None:
    weights = {"w1": np.zeros((8, 6), np.float32), "w2": np.zeros((6, 4), np.float32)}
    bench = Bench(from_text("h = MatMul (x, w1) r = Relu (h) y = MatMul (r, w2)", weights))
    (group,) = bench.graph.groups
    assert (scores([group], bench.weights.__getitem__, "l2")[group.name] == 1).all()
