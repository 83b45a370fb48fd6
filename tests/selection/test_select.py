"""From groups, scores and options to the units that stay."""

from __future__ import annotations

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench

from graphprune.errors import UnreachableTargetError, UsageError
from graphprune.selection.criteria import scores
from graphprune.selection.ratios import Policy
from graphprune.selection.select import Budget, Selection, select
from models_zoo.builders import micrographs


def chosen(bench: Bench, budget: Budget, policy: Policy | None = None, **settings) -> Selection:
    settings.setdefault("align", 1)
    weight = bench.weights.__getitem__
    return select(bench.graph, weight, budget, policy or Policy(), lambda: bench.cost, **settings)


def test_the_units_with_the_highest_scores_stay() -> None:
    bench = Bench(NETWORKS["resnet"]())
    found = chosen(bench, Budget(channels=0.5))
    scored = scores(bench.graph.groups, bench.weights.__getitem__)
    for choice in found.choices:
        best = np.argsort(-scored[choice.name], kind="stable")[: len(choice.kept)]
        assert list(choice.kept) == sorted(best.tolist())
        np.testing.assert_allclose(choice.scores, scored[choice.name])
        group = bench.graph.by_name[choice.name]
        assert choice.size == group.size == len(choice.scores)
        assert set(choice.members) == {(m.site.name, m.axis) for m in group.members}


def test_removed_classes_are_those_of_the_choices() -> None:
    bench = Bench(NETWORKS["mobilenet"]())
    found = chosen(bench, Budget(channels=0.4))
    expected = np.zeros_like(found.removed)
    for choice in found.choices:
        units = bench.graph.by_name[choice.name].units
        gone = sorted(set(range(choice.size)) - set(choice.kept))
        expected[units[gone]] = True
    assert (found.removed == expected).all()
    assert found.removed.any()
    assert not (found.removed & ~bench.graph.resolver.movable).any()


@pytest.mark.parametrize("name", ["grouped_conv", "channel_shuffle", "c2f", "lstm_linear"])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
def test_whatever_is_chosen_can_be_planned(name: str, ratio: float) -> None:
    """Balances of blocks and families hold for every choice; `plan_from_removed` checks them."""
    bench = Bench(micrographs.build(name))
    for blocks in (True, False):
        bench.graph = bench.analyse(blocks=blocks)
        for criterion in ("l2", "random"):
            found = chosen(bench, Budget(channels=ratio), criterion=criterion)
            plan = bench.plan(bench.graph, found.removed)
            assert plan.tensors


def test_global_scope_takes_more_where_scores_are_low() -> None:
    bench = Bench(NETWORKS["densenet"]())
    group = bench.graph.by_name["one.conv1"]
    for member in group.members:  # a few channels of one layer carry nearly all of it
        if member.site.is_weight and len(member.site.shape) == 4:
            faint = [slice(None)] * 4
            faint[member.axis] = slice(4, None)
            array = bench.weights[member.site.name].copy()
            array[tuple(faint)] *= 0.01
            bench.weights[member.site.name] = array
    local = {c.name: len(c.kept) for c in chosen(bench, Budget(channels=0.5)).choices}
    found = {c.name: c for c in chosen(bench, Budget(channels=0.5), scope="global").choices}
    assert len(found["one.conv1"].kept) <= 4 < local["one.conv1"]
    total = sum(g.size for g in bench.graph.groups)
    kept = sum(len(found[g.name].kept) if g.name in found else g.size for g in bench.graph.groups)
    assert abs(kept - total / 2) <= len(bench.graph.groups)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_budgets_count_own_ratios_too(scope: str) -> None:
    bench = Bench(NETWORKS["encoder"](), {"time": 6})
    policy = Policy(heads=0.5, group_ratio=(("one.fc1", 0.25),))
    found = chosen(bench, Budget(macs=0.5), policy, scope=scope)
    sizes = {c.name: len(c.kept) for c in found.choices}
    assert sizes["one.q"] == sizes["two.q"] == 2
    assert sizes["one.fc1"] == 12
    whole = bench.cost({})[1]
    assert sizes["two.fc1"] < 48
    assert 0.48 * whole < bench.cost(found.counts)[1] <= 0.5 * whole


def test_heads_without_a_budget_leave_the_rest() -> None:
    bench = Bench(NETWORKS["encoder"]())
    found = chosen(bench, Budget(), Policy(heads=0.5))
    assert [(c.name, len(c.kept)) for c in found.choices] == [("one.q", 2), ("two.q", 2)]


def test_reasons_for_what_stays_whole() -> None:
    bench = Bench(NETWORKS["encoder"]())

    def reasons(budget: Budget, policy: Policy, **settings) -> dict[str, str]:
        left = chosen(bench, budget, policy, **settings).left
        return {u.group: u.reason for u in left if not bench.graph.by_name[u.group].trunk}

    assert reasons(Budget(channels=0.5), Policy()) == {}
    all_kept = reasons(Budget(channels=1.0), Policy())
    assert set(all_kept.values()) == {"all of it was to stay"}
    coarse = reasons(Budget(channels=0.5), Policy(), align=64)
    assert set(coarse) == {"one.fc1", "two.fc1", "one.q", "two.q"}
    assert all("--align" in r and "0.5" in r for r in coarse.values())
    met = reasons(Budget(macs=1.0), Policy())
    assert set(met.values()) == {"the budget is met without it"}


def test_errors() -> None:
    bench = Bench(NETWORKS["resnet"]())
    with pytest.raises(UsageError, match="criterion 'mean'"):
        chosen(bench, Budget(channels=0.5), criterion="mean")
    with pytest.raises(UnreachableTargetError, match="parameter"):
        chosen(bench, Budget(params=1e-4))


def test_the_cost_model_is_made_for_budgets_only() -> None:
    bench = Bench(NETWORKS["resnet"]())

    def unwanted() -> None:
        raise AssertionError("nobody asked for a budget")

    weight = bench.weights.__getitem__
    select(bench.graph, weight, Budget(channels=0.5), Policy(), unwanted)
