"""The lottery-ticket curve on a small setting: all four ways, interrupted and resumed, its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from fashion_files import write_fashion

from tools import lottery

SMALL = ["--sparsities", "0.5", "0.9", "--steps", "6", "--batch", "16", "--rewind-to", "2"]
SMALL += ["--stride", "8", "--images", "128", "--seeds", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--data", str(write_fashion(tmp_path_factory.mktemp("fashion"), 160, 64))]


@pytest.fixture(scope="module")
def found(
    data: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("lottery")
    out = folder / "page.md"
    return lottery.main([*SMALL, *data, "--folder", str(folder), "--out", str(out)]), out


def test_every_way_has_every_sparsity(found: tuple[list[dict[str, Any]], Path]) -> None:
    curves = lottery.curves(found[0])
    assert set(curves) == set(lottery.WAYS)
    for way, points in curves.items():
        assert [round(share, 2) for share, _ in points] == [0.0, 0.5, 0.9], way
        assert all(0 <= v <= 100 for _, values in points for v in values)
    assert len({points[0][1][0] for points in curves.values()}) == 1, "one dense net for all"


def test_the_page_and_its_picture(found: tuple[list[dict[str, Any]], Path]) -> None:
    text = found[1].read_text()
    assert "| 90.0% |" in text
    assert "stride 8" in text
    assert (found[1].parent / "page.svg").read_text().count("<path") > 4


def test_interrupted_and_resumed_it_finds_the_same(
    found: tuple[list[dict[str, Any]], Path],
    data: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = lottery.Runs.train

    def dies(self: Any, model: Any, number: int, first: int) -> float:
        if number == 2:
            raise KeyboardInterrupt
        return whole(self, model, number, first)

    monkeypatch.setattr(lottery.Runs, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        lottery.main([*SMALL, *data, "--folder", str(tmp_path)])
    monkeypatch.setattr(lottery.Runs, "train", whole)
    assert lottery.main([*SMALL, *data, "--folder", str(tmp_path)]) == found[0]
    assert json.loads((tmp_path / "lottery.json").read_text()) == found[0]


def test_one_folder_is_for_one_setting(
    found: tuple[list[dict[str, Any]], Path], data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        lottery.main([*SMALL, "--steps", "7", *data, "--folder", str(found[1].parent)])
    assert "another setting" in capsys.readouterr().err
