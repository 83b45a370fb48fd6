"""What a user can say, and how slips are answered."""

from __future__ import annotations

import json
import math

import pytest

import graphprune
from graphprune.errors import UsageError
from graphprune.options import Options


@pytest.mark.parametrize("name", ["channels", "params", "macs", "heads", "head_dims"])
@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, 2, math.nan, math.inf])
def test_ratios_are_the_fraction_that_remains(name: str, ratio: float) -> None:
    with pytest.raises(UsageError, match=f"{name} is the fraction that remains"):
        Options(**{name: ratio})
    assert getattr(Options(**{name: 1.0}), name) == 1.0
    assert getattr(Options(**{name: 1e-6}), name) == 1e-6


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_ratios_of_groups(ratio: float) -> None:
    with pytest.raises(UsageError, match="'conv\\*'"):
        Options(group_ratio=(("conv*", ratio),))


def test_one_budget() -> None:
    with pytest.raises(UsageError, match="channels and macs"):
        Options(channels=0.5, macs=0.5)
    with pytest.raises(UsageError, match="channels and params and macs"):
        Options(channels=0.5, params=0.5, macs=0.5)
    Options(channels=0.5, heads=0.5, head_dims=0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scope": "galaxy"}, "scope 'galaxy'"),
        ({"align": 0}, "align '0'"),
        ({"align": "some"}, "align 'some'"),
        ({"align": 2.5}, "align '2.5'"),
        (
            {"criterion": "best"},
            "unknown criterion 'best': choose one of auto, l1, l2, lP .*, fpgm",
        ),
        ({"criterion": "l0"}, "unknown criterion 'l0'"),
        ({"criterion": "L2"}, "unknown criterion 'L2'"),
        ({"criterion": "lP (e.g. l0.5, l3)"}, "unknown criterion"),
        ({"criterion": None}, "unknown criterion 'None'"),
        ({"threads": 0}, "threads 0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_other_slips(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Options(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["auto", "l1", "l2", "l0.5", "l3", "fpgm", "bn-scale", "random"])
def test_criteria_that_there_are(name: str) -> None:
    assert Options(criterion=name).criterion == name


def test_a_slip_is_told_before_the_model_is_read() -> None:
    with pytest.raises(UsageError, match="unknown criterion 'best'"):
        graphprune.compile("no such file.onnx", channels=0.5, criterion="best")


def test_one_glob_may_stand_alone_and_ratios_may_be_a_mapping() -> None:
    options = Options(only="conv*", exclude=["a", "b"], group_ratio={"x": 0.5, "y": 0.25})  # type: ignore[arg-type]
    assert options.only == ("conv*",)
    assert options.exclude == ("a", "b")
    assert options.group_ratio == (("x", 0.5), ("y", 0.25))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, False),
        ({"align": 8, "residual": True}, False),
        ({"channels": 0.5}, True),
        ({"head_dims": 0.5}, True),
        ({"group_ratio": (("a", 0.5),)}, True),
        ({"group_ratio": (("a", 0.0),)}, True),
    ],
)
def test_whether_anything_is_to_be_pruned(settings: dict[str, object], says: bool) -> None:
    assert Options(**settings).says_what_stays is says  # type: ignore[arg-type]


def test_json() -> None:
    options = Options(channels=0.5, group_ratio=(("a", 0.25),), dims={"N": 3}, only=("x",))
    data = json.loads(json.dumps(options.to_json()))
    assert data["channels"] == 0.5
    assert data["group_ratio"] == [["a", 0.25]]
    assert data["dims"] == {"N": 3}
    assert data["only"] == ["x"]
