"""The cost of an allocation against the same counted on the graph that was really pruned."""

from __future__ import annotations

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text, random_counts, really, removal

from models_zoo.builders import micrographs

MODELS = {**NETWORKS, **{n: lambda n=n: micrographs.build(n) for n in micrographs.NAMES}}


def agree(bench: Bench, rounds: int, *, blocks: bool = True) -> int:
    """Predict and count `rounds` random allocations; how many of them removed anything."""
    graph = bench.analyse(blocks=blocks)
    cost = bench.cost_of(graph)
    assert cost({}) == really(bench.model, bench.bindings[0])
    changed = 0
    for seed in range(rounds):
        counts = random_counts(graph.groups, np.random.default_rng(seed))
        pruned = bench.pruned(bench.plan(graph, removal(graph, counts, seed)))
        found = really(pruned, bench.bindings[0])
        assert cost(counts) == found
        changed += found != cost({})
    return changed


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_macs_are_exact(name: str, blocks: bool) -> None:
    assert agree(Bench(MODELS[name]()), 4, blocks=blocks) == 4


def test_groups_that_are_not_named_keep_all() -> None:
    bench = Bench(NETWORKS["resnet"]())
    groups = bench.graph.groups
    everything = {g.name: tuple(c.size for c in g.cells) for g in groups}
    assert bench.cost({}) == bench.cost(everything)
    one = {groups[0].name: (8,)}
    assert bench.cost(one) == bench.cost({**everything, **one})


def test_a_shared_weight_counts_once_while_its_uses_keep_the_same() -> None:
    """One matrix in two places: the same rows leave in both, or different ones."""
    square = drawn(8, 8)
    same = "h = MatMul (x, w) r = Add (x, h) g = MatMul (r, w) s = Add (r, g) y = MatMul (s, v)"
    body = f"x = MatMul (z, u) {same}"
    weights = {"u": drawn(5, 8), "w": square, "v": drawn(8, 4)}
    bench = Bench(from_text(body, weights, inputs="float[N, 5] z"))
    assert agree(bench, 5) == 5
    apart = "h = MatMul (x, w) r = Relu (h) g = MatMul (r, w) s = Relu (g) y = MatMul (s, v)"
    bench = Bench(from_text(apart, {"w": square, "v": drawn(8, 4)}))
    assert [g.size for g in bench.graph.groups] == [8, 8]
    assert agree(bench, 5) == 5


def test_a_weight_that_something_reads_whole_stays_beside_its_copies() -> None:
    body = "h = MatMul (x, w) r = Relu (h) y0 = MatMul (r, v) z = MatMul (x, w) y = Add (y0, z)"
    bench = Bench(from_text(body, {"w": drawn(8, 6), "v": drawn(6, 6, seed=1)}))
    graph = bench.graph
    (group,) = graph.groups
    assert bench.cost({group.name: (3,)})[0] == 8 * 6 + 8 * 3 + 3 * 6
    assert agree(bench, 5) == 5


def test_integer_tables_are_no_parameters() -> None:
    body = (
        "h = MatMul (x, w) c = Cast <to = 7> (h) d = Equal (c, t) e = Cast <to = 1> (d) "
        "r = Add (h, e) y = MatMul (r, v)"
    )
    weights = {"w": drawn(8, 6), "v": drawn(6, 4), "t": np.arange(6)}
    bench = Bench(from_text(body, weights))
    assert "t" in {s.name for s in bench.graph.sites}
    assert agree(bench, 4) == 4


def test_bodies_count_as_often_as_they_run() -> None:
    body = (
        "h = MatMul (x, w) go = Constant <value = bool {1}> () "
        "r = Loop (trips, go, h) <body = b (int64 i, bool c, float[N, 6] s) => "
        "(bool d, float[N, 6] t) { d = Identity (c) m = MatMul (s, u) t = Tanh (m) }> "
        "y = MatMul (r, v)"
    )
    weights = {"w": drawn(8, 6), "u": drawn(6, 6), "v": drawn(6, 4), "trips": np.array(5)}
    bench = Bench(from_text(body, weights))
    batch = bench.bindings[0]["N"]
    assert bench.cost({}) == really(bench.model, bench.bindings[0])
    assert bench.cost({})[1] == batch * (8 * 6 + 5 * 6 * 6 + 6 * 4)
