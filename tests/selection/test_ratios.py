"""What the user's globs, ratios and switches mean for each group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench

from graphprune.analysis.groups import Group
from graphprune.selection.ratios import (
    Policy,
    called,
    global_ratios,
    local_ratios,
    named,
    split,
)


@pytest.fixture(scope="module")
def groups() -> dict[str, Group]:
    return Bench(NETWORKS["encoder"]()).graph.by_name


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("one.q", ["one.q"]),
        ("one.*", ["one.q", "one.fc1"]),
        ("*.fc1", ["one.fc1", "two.fc1"]),
        ("?wo.[fg]*", ["two.fc1"]),
        # No group has such a name: what runs through the layer, the trunk that it reads included.
        ("one.v", ["TRUNK", "one.q"]),
        ("one.fc2.weight", ["TRUNK", "one.fc1"]),
        ("two.norm2*", ["TRUNK"]),
        ("ONE.q", []),
        ("one", []),
    ],
)
def test_a_glob_means_names_of_groups_before_names_of_layers(
    groups: dict[str, Group], glob: str, expected: list[str]
) -> None:
    trunk = next(g.name for g in groups.values() if g.trunk)
    wanted = {trunk if name == "TRUNK" else name for name in expected}
    assert called(list(groups.values()), glob) == wanted


@pytest.mark.parametrize(
    ("name", "glob", "expected"),
    [
        ("layer.0/conv", "layer.0/conv", True),
        ("layer.0/conv", "layer.?/*", True),
        ("layer[0].conv", "layer[0].conv", True),  # what it is, before what it would match
        ("layer0.conv", "layer[0].conv", True),
        ("layer[1].conv", "layer[0].conv", False),
        ("Conv", "conv", False),
        ("a*b", "a*b", True),
        ("", "*", True),
    ],
)
def test_globs(name: str, glob: str, expected: bool) -> None:
    assert named(name, glob) is expected


def test_without_a_word_all_but_the_trunk_is_free(groups: dict[str, Group]) -> None:
    free, own, left = split(list(groups.values()), Policy())
    trunk = [g for g in groups.values() if g.trunk]
    assert len(trunk) == 1
    assert {g.name for g in free} == set(groups) - {trunk[0].name}
    assert own == {}
    (item,) = left
    assert item.group == trunk[0].name
    assert "--residual" in item.reason
    assert item.node in trunk[0].statistics
    free, _, left = split(list(groups.values()), Policy(residual=True))
    assert {g.name for g in free} == set(groups)
    assert left == []


def test_only_and_exclude(groups: dict[str, Group]) -> None:
    everything = list(groups.values())
    free, _, left = split(everything, Policy(only=("one.q", "two.fc1")))
    assert [g.name for g in free] == ["one.q", "two.fc1"]
    assert {u.group for u in left} == set(groups) - {"one.q", "two.fc1"}
    assert {u.reason for u in left if not groups[u.group].trunk} == {"not named by --only"}
    free, _, left = split(everything, Policy(exclude=("*.fc1",)))
    assert [g.name for g in free] == ["one.q", "two.q"]
    assert [u.group for u in left if u.reason == "excluded by --exclude"] == ["one.fc1", "two.fc1"]
    free, own, _ = split(everything, Policy(only=("one.*",), exclude=("one.*",)))
    assert (free, own) == ([], {})


def test_ratios_of_single_groups_win_over_only_and_the_last_glob_decides(
    groups: dict[str, Group],
) -> None:
    pairs = (("*.fc1", 0.3), ("two.*", 0.7))
    _, own, _ = split(list(groups.values()), Policy(group_ratio=pairs, only=("one.q",)))
    assert own == {"one.fc1": 0.3, "two.fc1": 0.7, "two.q": 0.7}
    _, own, _ = split(list(groups.values()), Policy(group_ratio=tuple(reversed(pairs))))
    assert own["two.fc1"] == 0.3


def test_exclude_wins_over_a_ratio(groups: dict[str, Group]) -> None:
    policy = Policy(group_ratio=(("one.fc1", 0.3),), exclude=("one.fc1",))
    _, own, left = split(list(groups.values()), policy)
    assert own == {}
    assert any(u.group == "one.fc1" and "--exclude" in u.reason for u in left)


def test_heads_and_dims_have_ratios_of_their_own(groups: dict[str, Group]) -> None:
    free, own, _ = split(list(groups.values()), Policy(heads=0.25))
    assert own == {"one.q": 0.25, "two.q": 0.25}
    assert [g.name for g in free] == ["one.fc1", "two.fc1"]
    dims = replace(groups["one.q"], kind="head-dim")
    assert split([dims], Policy(head_dims=0.5))[1] == {"one.q": 0.5}


def test_what_the_caller_leaves_is_not_reported_twice(groups: dict[str, Group]) -> None:
    free, own, left = split(list(groups.values()), Policy(leave=frozenset(["one.q"])))
    assert "one.q" not in {g.name for g in free} | set(own) | {u.group for u in left}
    assert len(free) == 3, "only the group of that very name is left"


def test_local_ratios(groups: dict[str, Group]) -> None:
    assert local_ratios(list(groups.values()), 0.3) == dict.fromkeys(groups, 0.3)


def test_global_ratios_are_the_shares_above_one_threshold(groups: dict[str, Group]) -> None:
    some = [groups["one.fc1"], groups["two.fc1"], groups["one.q"]]
    rng = np.random.default_rng(0)
    scores = {g.name: rng.gamma(2, 1 + i, g.size) for i, g in enumerate(some)}
    everything = np.sort(np.concatenate(list(scores.values())))[::-1]
    for ratio in (0.3, 0.5, 0.8):
        count = round(ratio * everything.size)
        threshold = everything[count - 1]
        found = global_ratios(some, scores, ratio)
        for name, values in scores.items():
            share = sum(v >= threshold for v in values) / len(values)
            assert found[name] == pytest.approx(max(share, 0.1))
    assert global_ratios([], {}, 0.5) == {}


def test_global_ratios_empty_no_group(groups: dict[str, Group]) -> None:
    some = [groups["one.fc1"], groups["two.fc1"]]
    scores = {"one.fc1": np.full(48, 100.0), "two.fc1": np.full(48, 0.01)}
    found = global_ratios(some, scores, 0.5)
    assert found["one.fc1"] == 1.0
    assert 0 < found["two.fc1"] <= 0.1
