"""Widths of least damage: against brute force on small problems, and on real graphs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, really, removal

from graphprune.analysis.groups import Group
from graphprune.errors import UnreachableTargetError
from graphprune.selection.allocate import Counts, allocate
from graphprune.selection.curves import Curve
from graphprune.selection.ratios import Policy
from graphprune.selection.select import Budget, select
from graphprune.selection.widths import choices, counts_for, grid_of

FREE = grid_of(1)


def plain(name: str, size: int) -> Group:
    """A group of one cell without constraints."""
    units = np.arange(size)
    return Group(name, "channel", units, (units,), (), (), (), (), False)


class Problem:
    """A chain of layers: each costs the product of its width and the next one's."""

    def __init__(self, seed: int, groups: int = 3, most: int = 8) -> None:
        rng = np.random.default_rng(seed)
        self.groups = [plain(f"g{i}", int(rng.integers(3, most + 1))) for i in range(groups)]
        self.factors = rng.uniform(0.5, 3, groups + 1)
        self.curves = {}
        for group in self.groups:
            kept = np.arange(1, group.size) / group.size
            steep, level = rng.uniform(1, 9), 10 ** rng.uniform(-4, 0)
            damage = level * np.exp(-steep * kept) * (1 - kept) * rng.uniform(0.5, 2, kept.size)
            self.curves[group.name] = Curve(tuple(kept), tuple(damage))

    def cost(self, counts: Counts) -> float:
        widths = [1, *(sum(counts.get(g.name, (g.size,))) for g in self.groups), 1]
        pairs = itertools.pairwise(widths)
        return float(sum(f * a * b for f, (a, b) in zip(self.factors, pairs, strict=True)))

    def damage(self, counts: Counts) -> float:
        return sum(self.curves[g.name].at(sum(counts[g.name]) / g.size) for g in self.groups)

    def optimum(self, target: float) -> float:
        widths = [range(1, g.size + 1) for g in self.groups]
        names = [g.name for g in self.groups]
        every = (
            dict(zip(names, ((n,) for n in c), strict=True)) for c in itertools.product(*widths)
        )
        return min(self.damage(c) for c in every if self.cost(c) <= target)

    def solved(self, target: float, curves: dict[str, Curve] | None = None) -> Counts:
        found = self.curves if curves is None else curves
        return allocate(self.groups, found, {}, FREE, self.cost, target, "MAC")


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7, 0.9])
def test_near_the_optimum_of_brute_force_and_never_above_the_target(fraction: float) -> None:
    ratios = []
    for seed in range(30):
        problem = Problem(seed)
        target = fraction * problem.cost({})
        found = problem.solved(target)
        assert problem.cost(found) <= target, seed
        best = problem.optimum(target)
        assert problem.damage(found) >= best * (1 - 1e-9)
        ratios.append(problem.damage(found) / best)
    assert np.median(ratios) < 1.02
    assert np.mean(ratios) < 1.05
    assert max(ratios) < 2  # three groups of eight units at most: one step is much


def test_the_same_every_time_and_whatever_the_order_of_the_groups() -> None:
    for seed in range(5):
        problem = Problem(seed, groups=5)
        target = 0.5 * problem.cost({})
        found = problem.solved(target)
        assert found == problem.solved(target)
        turned = dict(reversed(list(problem.curves.items())))
        assert found == problem.solved(target, turned)


def test_a_budget_that_holds_everything_takes_nothing() -> None:
    problem = Problem(1)
    assert problem.solved(problem.cost({})) == {g.name: (g.size,) for g in problem.groups}


def test_no_step_back_is_left_over() -> None:
    for seed in range(10):
        problem = Problem(seed, groups=4)
        target = 0.6 * problem.cost({})
        found = problem.solved(target)
        for group in problem.groups:
            (count,) = found[group.name]
            if count < group.size:
                assert problem.cost({**found, group.name: (count + 1,)}) > target


def test_what_cannot_be_met_names_the_least() -> None:
    problem = Problem(2)
    least = problem.cost({g.name: (1,) for g in problem.groups})
    with pytest.raises(UnreachableTargetError, match=f"{least:.3g} is the least") as caught:
        problem.solved(0.9 * least)
    assert caught.value.exit_code == 5
    assert problem.cost(problem.solved(least)) == least


def test_a_group_without_a_curve_stays_whole_and_own_ratios_hold() -> None:
    problem = Problem(3, groups=4)
    first, second, *_ = problem.groups
    curves = {n: c for n, c in problem.curves.items() if n != first.name}
    fixed = {second.name: (2,)}
    free = [g for g in problem.groups if g is not second]
    target = 0.6 * problem.cost({})
    found = allocate(free, curves, fixed, FREE, problem.cost, target, "MAC")
    assert found[first.name] == (first.size,)
    assert found[second.name] == (2,)
    assert problem.cost(found) <= target


def test_groups_that_cost_nothing_in_damage_go_first() -> None:
    problem = Problem(4)
    free, *dear = problem.groups
    curves = {
        free.name: Curve((0.01, 0.99), (0.0, 0.0)),
        **{g.name: Curve((0.01, 0.99), (5.0, 1.0)) for g in dear},
    }
    target = 0.8 * problem.cost({})
    found = problem.solved(target, curves)
    taken = {**{g.name: (g.size,) for g in problem.groups}, free.name: (1,)}
    if problem.cost(taken) <= target:
        assert all(found[g.name] == (g.size,) for g in dear)
    assert found[free.name][0] < free.size


def test_infinite_damage_is_avoided_where_there_is_another_way() -> None:
    problem = Problem(5)
    first, *others = problem.groups
    curves = {**problem.curves, first.name: Curve((0.2, 0.9), (math.inf, math.inf))}
    need = problem.cost({g.name: (1,) for g in others})
    found = problem.solved(1.05 * need, curves)
    assert found[first.name] == (first.size,)


@pytest.mark.parametrize("name", ["resnet", "shufflenet", "encoder"])
@pytest.mark.parametrize("align", [1, 4])
def test_budgets_hold_on_pruned_graphs(name: str, align: int) -> None:
    bench = Bench(NETWORKS[name]())
    rng = np.random.default_rng(0)
    curves = {
        g.name: Curve((0.25, 0.75), (float(rng.uniform(0.1, 1)), float(rng.uniform(0, 0.1))))
        for g in bench.graph.groups
    }
    for budget in (Budget(macs=0.6), Budget(params=0.5), Budget(params=0.6, macs=0.7)):
        found = select(
            bench.graph,
            bench.weights.__getitem__,
            budget,
            Policy(residual=True),
            lambda: bench.cost,
            align=align,
            curves=curves,
        )
        pruned = bench.pruned(bench.plan(bench.graph, found.removed))
        params, macs = really(pruned, bench.bindings[0])
        whole = bench.cost({})
        shares = [(params, whole[0], budget.params), (macs, whole[1], budget.macs)]
        used = [now / (limit * all_) for now, all_, limit in shares if limit is not None]
        assert max(used) <= 1
        assert max(used) > 0.7, "the budget is used"
        for group in bench.graph.groups:
            if len(group.cells) == 1 and group.name in found.counts:
                assert found.counts[group.name][0] in choices(group, grid_of(align))


def test_channels_with_curves_are_a_budget_of_the_whole_model() -> None:
    bench = Bench(NETWORKS["resnet"]())
    groups = bench.graph.groups
    dear, *cheap = groups
    curves = {
        dear.name: Curve((0.1, 0.9), (9.0, 5.0)),
        **{g.name: Curve((0.1, 0.9), (1e-3, 1e-5)) for g in cheap},
    }
    found = select(
        bench.graph,
        bench.weights.__getitem__,
        Budget(channels=0.7),
        Policy(),
        lambda: bench.cost,
        align=1,
        curves=curves,
    )
    units = sum(g.size for g in groups)
    kept = sum(sum(c) for c in found.counts.values())
    assert kept <= 0.7 * units < kept + 2
    assert sum(found.counts[dear.name]) == dear.size


def test_several_budgets_without_curves_all_hold() -> None:
    bench = Bench(NETWORKS["mobilenet"]())
    whole = bench.cost({})

    def predicted(counts: Counts) -> float:
        return 3.0 + bench.cost(counts)[1] ** 0.5

    for budget in (
        Budget(params=0.5, macs=0.9),
        Budget(params=0.9, macs=0.5),
        Budget(params=0.8, macs=0.8, latency=0.7),
    ):
        found = select(
            bench.graph,
            bench.weights.__getitem__,
            budget,
            Policy(),
            lambda: bench.cost,
            align=1,
            latency=lambda: predicted,
        )
        params, macs = bench.cost(found.counts)
        used = [
            params / (budget.params * whole[0]),
            macs / (budget.macs * whole[1]),
            predicted(found.counts) / (predicted({}) * (budget.latency or 1)),
        ]
        assert max(used) <= 1
        assert max(used) > 0.9
        pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, found.counts)))
        assert really(pruned, bench.bindings[0]) == (params, macs)


def test_what_several_budgets_are_called_when_they_cannot_be_met() -> None:
    bench = Bench(NETWORKS["resnet"]())
    curves = {g.name: Curve((0.5,), (0.1,)) for g in bench.graph.groups}
    least = bench.cost({g.name: counts_for(g, 0.0, FREE) for g in bench.graph.groups})
    tiny = 0.5 * least[1] / bench.cost({})[1]
    for given in (None, curves):
        with pytest.raises(UnreachableTargetError, match="parameter and MAC target"):
            select(
                bench.graph,
                bench.weights.__getitem__,
                Budget(params=0.9, macs=tiny),
                Policy(),
                lambda: bench.cost,
                align=1,
                curves=given,
            )
