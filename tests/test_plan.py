"""The plan: the file format, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphprune.cut import Cut
from graphprune.errors import UsageError
from graphprune.plan import GroupChoice, InitializerCut, Plan, Unpruned


def plan() -> Plan:
    return Plan(
        source_sha256="ab" * 32,
        groups=(
            GroupChoice(
                "conv1", "channel", 4, (0, 2), (1.5, 0.25, 1.0, 1.25), (("w", 0), ("h", 1))
            ),
            GroupChoice("q", "head", 2, (1,)),
        ),
        tensors={
            "h": (Cut(1, 4, np.array([0, 2])),),
            "b": (
                Cut(0, 8, np.array([0, 1, 4, 5]), dynamic=True),
                Cut(2, 3, np.array([[0], [2]]), (0,)),
            ),
        },
        initializers=(InitializerCut("w", "conv1", 1, (Cut(0, 4, np.array([0, 2])),)),),
        statistics_nodes={"norm": (1, 2)},
        unpruned=(Unpruned("y", "it is the output", "head.weight[0]"),),
        binding={"N": 2, "T": 12},
    )


def test_the_file_holds_what_the_contract_asks_for() -> None:
    data = json.loads(plan().dumps())
    assert data["format"] == 1
    assert data["source_sha256"] == "ab" * 32
    assert data["groups"][0]["scores"] == [1.5, 0.25, 1.0, 1.25]
    assert data["groups"][0]["kept"] == [0, 2]
    assert {"value": "h", "axis": 1, "size": 4, "kept": [0, 2]} in data["tensors"]
    blocks = {"value": "b", "axis": 2, "size": 3, "kept": [[0], [2]], "blocks": [0]}
    assert blocks in data["tensors"]
    (use,) = data["initializers"]
    assert (use["initializer"], use["node"], use["input"]) == ("w", "conv1", 1)
    assert use["axes"] == {"0": [0, 2]}


def test_save_and_load_give_the_same_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.plan.json"
    plan().save(path)
    again = Plan.load(path)
    assert again.dumps() == plan().dumps()
    assert again.sha256 == plan().sha256
    assert again.groups == plan().groups
    assert again.tensors["b"][0].dynamic
    assert again.tensors["b"][1].blocks == (0,)
    assert again.tensors["b"][1].kept.dtype == np.int64
    assert [p.name for p in tmp_path.iterdir()] == ["a.plan.json"]


def test_equal_plans_have_equal_text_whatever_the_order_of_their_parts() -> None:
    one = plan()
    other = Plan(
        one.source_sha256,
        one.groups,
        dict(reversed(one.tensors.items())),
        one.initializers,
        one.statistics_nodes,
        one.unpruned,
        dict(reversed(one.binding.items())),
    )
    assert other.dumps() == one.dumps()


def test_another_decision_has_another_hash() -> None:
    one = plan()
    for other in (
        Plan(one.source_sha256, one.groups[:1], one.tensors, one.initializers),
        Plan(one.source_sha256, one.groups, {}, one.initializers),
        Plan("cd" * 32, one.groups, one.tensors, one.initializers, one.statistics_nodes),
    ):
        assert other.sha256 != one.sha256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "format 1"),
        ("{}", "format 1"),
        ('{"format": 2}', "format 1"),
        ('{"format": 1}', "damaged plan"),
        ("\u0000\u0001", "not JSON"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        Plan.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        {"tensors": [{"value": "h"}]},
        {"tensors": 3},
        {"tensors": None},
        {"groups": [{"name": "g"}]},
        {"initializers": [1]},
        {"initializers": [{"initializer": "w", "node": "n", "input": "first", "cuts": []}]},
        {"binding": 1},
        {"statistics_nodes": []},
        {"unpruned": [{}]},
    ],
)
def test_damaged_parts_are_refused(damage: dict[str, object]) -> None:
    data = plan().to_json()
    assert Plan.from_json(data).sha256 == plan().sha256
    with pytest.raises(UsageError, match="damaged plan"):
        Plan.from_json(data | damage)


@pytest.mark.parametrize(
    "change",
    [
        {"kept": [0, 4]},  # beyond the axis
        {"kept": [-1, 2]},
        {"kept": [2, 0]},  # order is not free: the rest of the graph keeps it
        {"kept": [1, 1]},
        {"kept": [[0], [1]]},  # rows without block axes
        {"blocks": [0]},
        {"axis": -1},
        {"kept": ["a"]},
        {"kept": None},
    ],
)
def test_indices_that_no_axis_has_are_refused(change: dict[str, object]) -> None:
    entry = {"value": "h", "axis": 1, "size": 4, "kept": [0, 2]}
    data = plan().to_json() | {"tensors": [entry]}
    Plan.from_json(data)
    with pytest.raises(UsageError, match="damaged plan"):
        Plan.from_json(data | {"tensors": [entry | change]})


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json"):
        Plan.load(tmp_path / "none.json")
    with pytest.raises(UsageError):
        Plan.load(tmp_path)
    with pytest.raises(UsageError, match="cannot write"):
        plan().save(tmp_path / "no folder" / "p.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError):
        Plan.load(tmp_path / "binary")
