"""Lines and tables: time as a function of work, and what a table is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.errors import UsageError
from graphprune.latency.table import LatencyTable, Line

MADE: dict[str, Any] = {"model": "ab", "onnxruntime": "1", "threads": 1, "sizes": {"N": 1}}
TABLE = LatencyTable(
    MADE,
    {"conv": Line.through([(100, 2.0), (50, 1.2), (25, 0.8)]), "": Line.through([(300, 0.5)])},
)

positive = st.floats(1e-3, 1e6)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=8), positive, positive)
def test_more_work_never_takes_less_time(
    points: list[tuple[float, float]], one: float, two: float
) -> None:
    line = Line.through(points)
    low, high = sorted((one, two))
    assert 0 <= line.at(low) <= line.at(high) * (1 + 1e-9)
    assert line.at(high) <= max(ms for _, ms in points) * (1 + 1e-9)


def test_between_points_straight_and_below_to_the_fixed_cost() -> None:
    line = TABLE.lines["conv"]
    assert line.at(75) == pytest.approx(1.6)
    assert line.at(12.5) == pytest.approx(0.6)
    assert line.at(0) == pytest.approx(0.4)
    assert Line.through([(100, 2.0)]).at(50) == pytest.approx(1.0)


def test_noise_is_averaged_and_never_falls() -> None:
    line = Line.through([(10, 1.0), (10, 3.0), (20, 1.5)])
    assert line.work == (10, 20)
    assert line.ms == (2.0, 2.0)


def test_a_total_is_the_sum_of_lines() -> None:
    assert TABLE.total({"conv": 75, "": 300}) == pytest.approx(2.1)
    assert TABLE.total({"other": 3}) == pytest.approx(2.5), "what is not named works as before"


def test_everything_comes_back(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json", MADE) == TABLE
    assert list(tmp_path.iterdir()) == [tmp_path / "t.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "cd"}, "another model"),
        ({"onnxruntime": "2"}, "another onnxruntime"),
        ({"threads": 2}, "another threads"),
        ({"sizes": {"N": 2}}, "another sizes"),
    ],
)
def test_a_table_fits_nothing_else(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    TABLE.save(tmp_path / "t.json")
    with pytest.raises(UsageError, match=words) as caught:
        LatencyTable.load(tmp_path / "t.json", {**MADE, **changes})
    assert "\n" not in str(caught.value)


def damaged(**changes: Any) -> str:
    good = {"format": 1, "made_for": MADE, "nodes": {"a": {"work": [1, 2], "ms": [1, 2]}}}
    return json.dumps({**good, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        damaged(made_for=3),
        damaged(nodes=[]),
        damaged(nodes={"a": {"work": [], "ms": []}}),
        damaged(nodes={"a": {"work": [1], "ms": [1, 2]}}),
        damaged(nodes={"a": {"work": ["x"], "ms": [1]}}),
        damaged()[:-9],
    ],
)
def test_a_damaged_table_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(UsageError, match=r"t\.json is no latency table of graphprune"):
        LatencyTable.load(tmp_path / "t.json", MADE)


def test_other_formats_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(damaged(format=7))
    with pytest.raises(UsageError, match="has format 7, this version reads 1"):
        LatencyTable.load(tmp_path / "t.json", MADE)
    (tmp_path / "t.json").write_text(damaged())
    assert LatencyTable.load(tmp_path / "t.json", MADE).lines["a"].at(1.5) == 1.5
