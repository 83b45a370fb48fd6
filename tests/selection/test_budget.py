"""Budgets are met from below, and no further step of any group would fit."""

from __future__ import annotations

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, really, removal

from graphprune.errors import UnreachableTargetError
from graphprune.selection.budget import meet_budget
from graphprune.selection.criteria import scores
from graphprune.selection.ratios import global_ratios
from graphprune.selection.widths import counts_for, grid_of, next_counts

WHICH = {"params": 0, "macs": 1}


@pytest.fixture(scope="module", params=["resnet", "mobilenet", "shufflenet", "densenet", "encoder"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(NETWORKS[request.param]())


@pytest.mark.parametrize("what", ["params", "macs"])
@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("fraction", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_met_from_below_and_tight(
    bench: Bench, what: str, align: int, fraction: float, scope: str
) -> None:
    groups = bench.graph.groups
    grid = grid_of(align)
    scored = scores(groups, bench.weights.__getitem__)
    which = WHICH[what]
    target = fraction * bench.cost({})[which]

    def ratios(ratio: float) -> dict[str, float]:
        if scope == "global":
            return global_ratios(groups, scored, ratio)
        return {g.name: ratio for g in groups}

    counts = meet_budget(
        groups, ratios, {}, scored, grid, lambda c: bench.cost(c)[which], target, what
    )
    reached = bench.cost(counts)[which]
    assert 0.5 * target < reached <= target
    for group in groups:
        larger = next_counts(group, counts[group.name], grid)
        if larger is not None:
            assert bench.cost({**counts, group.name: larger})[which] > target, group.name


def test_the_budget_holds_on_the_pruned_graph() -> None:
    bench = Bench(NETWORKS["mobilenet"]())
    groups = bench.graph.groups
    scored = scores(groups, bench.weights.__getitem__)
    for what, which in WHICH.items():
        target = 0.5 * bench.cost({})[which]
        counts = meet_budget(
            groups,
            lambda r: {g.name: r for g in groups},
            {},
            scored,
            grid_of(1),
            lambda c, which=which: bench.cost(c)[which],
            target,
            what,
        )
        pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, counts)))
        found = really(pruned, bench.bindings[0])[which]
        assert found == bench.cost(counts)[which]
        assert 0.95 * target < found <= target


def test_what_cannot_be_met_names_the_least() -> None:
    bench = Bench(NETWORKS["resnet"]())
    groups = bench.graph.groups
    scored = scores(groups, bench.weights.__getitem__)
    grid = grid_of(8)
    least = {g.name: counts_for(g, 0.0, grid) for g in groups}
    cost = bench.cost(least)[0]
    arguments = (groups, lambda r: {g.name: r for g in groups}, {}, scored, grid)
    with pytest.raises(UnreachableTargetError) as error:
        meet_budget(*arguments, lambda c: bench.cost(c)[0], cost - 1, "parameter")
    assert f"{cost:,}" in str(error.value)
    assert "parameter" in str(error.value)
    assert meet_budget(*arguments, lambda c: bench.cost(c)[0], cost, "parameter") == least


def test_a_generous_budget_removes_nothing() -> None:
    bench = Bench(NETWORKS["resnet"]())
    groups = bench.graph.groups
    scored = scores(groups, bench.weights.__getitem__)
    whole = bench.cost({})[1]
    counts = meet_budget(
        groups,
        lambda r: {g.name: r for g in groups},
        {},
        scored,
        grid_of(16),
        lambda c: bench.cost(c)[1],
        whole,
        "MAC",
    )
    assert counts == {g.name: tuple(c.size for c in g.cells) for g in groups}


def test_fixed_groups_count_and_are_not_touched() -> None:
    bench = Bench(NETWORKS["resnet"]())
    first, *others = bench.graph.groups
    scored = scores(bench.graph.groups, bench.weights.__getitem__)
    fixed = {first.name: (5,)}
    target = 0.7 * bench.cost({})[0]
    counts = meet_budget(
        others,
        lambda r: {g.name: r for g in others},
        fixed,
        scored,
        grid_of(1),
        lambda c: bench.cost(c)[0],
        target,
        "parameter",
    )
    assert counts[first.name] == (5,)
    assert bench.cost(counts)[0] <= target


def test_what_is_given_back_first_scores_highest() -> None:
    """Two alike groups, room for one more unit: the group whose next unit is worth more gets it."""
    bench = Bench(NETWORKS["densenet"]())
    pair = [g for g in bench.graph.groups if g.name in ("one.conv1", "two.conv1")]
    scored = {g.name: np.full(g.size, 1.0 + (g.name == "two.conv1")) for g in pair}
    counts = meet_budget(
        pair,
        lambda r: {g.name: r for g in pair},
        {},
        scored,
        lambda w: 1,
        lambda c: sum(sum(n) for n in c.values()),
        21,
        "unit",
    )
    assert counts == {"one.conv1": (10,), "two.conv1": (11,)}
