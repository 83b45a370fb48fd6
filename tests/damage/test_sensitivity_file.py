"""What an analysis found, as a file and as curves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from graphprune.damage.result import Measurement, Sensitivity
from graphprune.errors import UsageError

FOUND = Sensitivity(
    source_sha256="ab" * 32,
    sizes={"one": 8, "two": 4},
    measurements=(
        Measurement("one", 0.25, (2,), 0.5, 0.25, 0.8, 0.85),
        Measurement("one", 0.75, (6,), 0.1 + 0.2, 1e-17, 0.9, 0.9),
        Measurement("two", 0.5, (1, 1), math.inf, math.inf),
        Measurement("two", 0.75, (2, 1)),
    ),
    quality=0.9,
    settings={"align": "auto", "only": [], "fractions": [0.25, 0.75], "seed": 0},
)


def test_everything_comes_back(tmp_path: Path) -> None:
    FOUND.save(tmp_path / "s.json")
    found = Sensitivity.load(tmp_path / "s.json")
    assert found == FOUND
    assert found.dumps() == FOUND.dumps() == (tmp_path / "s.json").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "s.json"]


def test_the_file_is_json_without_infinities() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads(FOUND.dumps(), parse_constant=refuse)
    assert data["measurements"][2]["damage"] == "inf"


def test_curves_are_those_with_compensation_and_the_metric_decides() -> None:
    curves = FOUND.curves()
    assert set(curves) == {"one", "two"}
    assert curves["one"].at(0.25) == pytest.approx(0.05 + 1e-3 * 0.25)
    assert curves["two"].kept == (0.5,)
    assert curves["two"].at(0.5) > 1e6
    plain = Sensitivity("", {"one": 8}, (Measurement("one", 0.5, (4,), 0.3),))
    assert plain.curves()["one"].at(0.5) == pytest.approx(0.3)


def damaged(**changes: object) -> str:
    return json.dumps({**json.loads(FOUND.dumps()), **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "no json",
        FOUND.dumps()[:-40],
        damaged(groups=[]),
        damaged(settings=None),
        damaged(measurements=[{"group": "one"}]),
        damaged(measurements=[{**json.loads(FOUND.dumps())["measurements"][0], "more": 1}]),
        damaged(measurements=[{**json.loads(FOUND.dumps())["measurements"][0], "kept": "x"}]),
        damaged(measurements=[{**json.loads(FOUND.dumps())["measurements"][0], "counts": None}]),
    ],
)
def test_a_damaged_file_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UsageError, match=r"s\.json is no file of graphprune sensitivity") as caught:
        Sensitivity.load(tmp_path / "s.json")
    assert "\n" not in str(caught.value)


def test_other_formats_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(damaged(format=2))
    with pytest.raises(UsageError, match="has format 2, this version reads 1"):
        Sensitivity.load(tmp_path / "s.json")
    with pytest.raises(UsageError, match="No such file"):
        Sensitivity.load(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is no file of graphprune sensitivity"):
        Sensitivity.load(tmp_path / "b.json")
