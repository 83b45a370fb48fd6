"""Deciding: options to plan; heads, then dims inside them; globs that name nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, really

from graphprune.errors import UnreachableTargetError, UsageError
from graphprune.onnx.subject import decide_model as decide
from graphprune.onnx.subject import initializers_of
from graphprune.options import Options
from graphprune.plan import Plan, Unpruned


def decided(bench: Bench, refused: Sequence[Unpruned] = (), **settings: Any) -> Plan:
    settings.setdefault("align", 1)
    options = Options(**settings)
    plan, _ = decide(
        bench.model, bench.shapes, options, bench.loaded.sha256, lambda *_: None, refused
    )
    return plan


def kept(plan: Plan) -> dict[str, tuple[int, int]]:
    return {g.name: (g.size, len(g.kept)) for g in plan.groups}


@pytest.fixture(scope="module")
def encoder() -> Bench:
    return Bench(NETWORKS["encoder"](), {"time": 6})


def test_channels(encoder: Bench) -> None:
    assert kept(decided(encoder, channels=0.5)) == {
        "one.q": (4, 2),
        "one.fc1": (48, 24),
        "two.q": (4, 2),
        "two.fc1": (48, 24),
    }


def test_heads_apart(encoder: Bench) -> None:
    plan = decided(encoder, channels=0.5, heads=0.75)
    assert kept(plan)["one.q"] == (4, 3)
    assert kept(plan)["one.fc1"] == (48, 24)
    assert kept(decided(encoder, heads=0.25)) == {"one.q": (4, 1), "two.q": (4, 1)}


def test_dims_inside_the_heads_that_stay(encoder: Bench) -> None:
    plan = decided(encoder, heads=0.5, head_dims=0.5)
    sizes = kept(plan)
    assert sizes["one.q"] == (4, 2)
    assert sizes["one.q/dims"] == (16, 8)
    assert sizes["one.v/dims"] == (16, 8)
    pruned = encoder.pruned(plan)
    weights = {n: list(v.shape) for n, v in pruned.graph.initializers.items()}
    assert weights["one.q.weight"] == [32, 8]
    assert weights["one.v.weight"] == [32, 8]
    assert weights["one.out.weight"] == [8, 32]
    assert weights["one.fc1.weight"] == [32, 48], "nobody asked for the neurons"
    assert len({g.name for g in plan.groups}) == len(plan.groups)


def test_dims_alone_keep_every_head(encoder: Bench) -> None:
    plan = decided(encoder, head_dims=0.25)
    assert set(kept(plan)) == {f"{b}.{n}/dims" for b in ("one", "two") for n in "qv"}
    heads = {use.node: use.cuts for use in plan.initializers}
    assert all(cut.count == 8 for cuts in heads.values() for cut in cuts)


def test_dims_are_named_apart_and_can_be_excluded(encoder: Bench) -> None:
    plan = decided(encoder, heads=0.5, head_dims=0.5, exclude=("one.v/dims", "two.*/dims"))
    assert set(kept(plan)) == {"one.q", "two.q", "one.q/dims"}
    plan = decided(encoder, head_dims=0.5, only=("one.q",))
    assert set(kept(plan)) <= {"one.q/dims", "one.v/dims"}
    assert kept(plan)


@pytest.mark.parametrize("budget", ["params", "macs"])
def test_budgets_hold_on_the_pruned_graph(encoder: Bench, budget: str) -> None:
    which = ["params", "macs"].index(budget)
    plan = decided(encoder, **{budget: 0.75})
    found = really(encoder.pruned(plan), encoder.bindings[0])[which]
    whole = really(encoder.model, encoder.bindings[0])[which]
    assert 0.72 * whole < found <= 0.75 * whole


def test_residual_widths_on_request(encoder: Bench) -> None:
    without = decided(encoder, channels=0.5)
    assert any("--residual" in u.reason for u in without.unpruned)
    plan = decided(encoder, channels=0.5, residual=True)
    trunk = next(g for g in encoder.graph.groups if g.trunk)
    assert kept(plan)[trunk.name] == (32, 16)
    assert set(plan.statistics_nodes) == set(trunk.statistics)


def test_refused_groups_are_left_with_the_given_reason(encoder: Bench) -> None:
    plan = decided(encoder, [Unpruned("node", "cannot be followed", "one.fc1")], channels=0.5)
    assert "one.fc1" not in kept(plan)
    assert kept(plan)["two.fc1"] == (48, 24)
    mine = [u for u in plan.unpruned if u.group == "one.fc1"]
    assert mine == [Unpruned("node", "cannot be followed", "one.fc1")]


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"only": ("tow.q",)}, "--only 'tow.q'"),
        ({"exclude": ("one.Q*",)}, "--exclude 'one.Q\\*'"),
        ({"group_ratio": (("nothing", 0.5),)}, "--group-ratio 'nothing'"),
    ],
)
def test_a_glob_that_names_nothing_is_a_slip(
    encoder: Bench, settings: dict[str, Any], option: str
) -> None:
    with pytest.raises(UsageError, match=option):
        decided(encoder, channels=0.5, **settings)


@pytest.mark.parametrize("glob", ["head", "head.weight", "softmax*", "y", "ids", "two.norm1.bias"])
def test_a_glob_may_name_what_is_not_pruned_anyway(encoder: Bench, glob: str) -> None:
    assert decided(encoder, channels=0.5, exclude=(glob,)).groups


def test_what_the_user_can_change_comes_first_among_the_reasons(encoder: Bench) -> None:
    plan = decided(encoder, channels=0.5, exclude=("one.*",))
    reasons = [u.reason for u in plan.unpruned]
    pinned = [i for i, r in enumerate(reasons) if "output" in r]
    own = [i for i, r in enumerate(reasons) if "--" in r]
    assert max(own) < min(pinned)


def test_targets_out_of_reach_and_unknown_criteria(encoder: Bench) -> None:
    with pytest.raises(UnreachableTargetError):
        decided(encoder, params=0.01)
    with pytest.raises(UsageError, match="criterion"):
        decided(encoder, channels=0.5, criterion="best")


def test_random_choices_follow_the_seed(encoder: Bench) -> None:
    plans = [decided(encoder, channels=0.5, criterion="random", seed=s) for s in (0, 0, 1)]
    assert plans[0].sha256 == plans[1].sha256 != plans[2].sha256


def test_the_grid_of_auto_is_coarser_than_one(encoder: Bench) -> None:
    for _, (_, count) in kept(decided(encoder, channels=0.55, align="auto")).items():
        assert count in (16, 32, 2, 4)


def test_the_plan_says_for_which_model_and_sizes(encoder: Bench) -> None:
    plan = decided(encoder, channels=0.5)
    assert plan.source_sha256 == encoder.loaded.sha256
    assert dict(plan.binding) == encoder.bindings[0]
    for group in plan.groups:
        assert len(group.scores) == group.size
        assert np.isfinite(group.scores).all()


def test_initializers_of_bodies_are_found() -> None:
    from workbench import drawn, from_text

    body = (
        "h = MatMul (x, w) go = Constant <value = bool {1}> () "
        "y = If (go) <then_branch = t () => (float[N, 6] a) <float[6] inner = {1, 2, 3, 4, 5, 6}> "
        "{ a = Add (h, inner) }, else_branch = e () => (float[N, 6] b) { b = Relu (h) }>"
    )
    bench = Bench(from_text(body, {"w": drawn(8, 6)}, outputs="float[N, 6] y"))
    assert set(initializers_of(bench.model)) == {"w", "go", "inner"}
