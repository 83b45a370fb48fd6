"""The sweep on micro-graphs: a good model, a refusal, a file that is none, and going on afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from models_zoo.builders import micrographs
from tools import _common, sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    onnx.save(micrographs.build("glu"), models / "glu.onnx")
    (models / "broken.onnx").write_bytes(b"\x00\x01 no model")
    return models


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    arguments = ["--models", str(folder), "--align", "1", "--timeout", "120", *more]
    monkeypatch.setattr("sys.argv", ["sweep", *arguments])
    assert sweep.main() == 0


def test_every_outcome_has_a_record_and_a_place_on_the_page(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page, records = tmp_path / "coverage.md", tmp_path / "coverage.json"
    run(folder, monkeypatch, "--json", str(records), "--out", str(page))
    found = {k.split(" :: ")[1]: r for k, r in json.loads(records.read_text()).items()}
    assert found["glu"]["outcome"] == "pruned"
    assert found["glu"]["status"] == "exact"
    assert found["glu"]["params"][1] < found["glu"]["params"][0]
    assert len(found["glu"]["ran"]) == 2
    assert found["broken"]["outcome"] == "refused"
    text = page.read_text()
    assert "2 models: 1 refused, 1 pruned" in text
    assert "broken.onnx is truncated" in text
    assert str(tmp_path) not in text

    capsys.readouterr()
    run(folder, monkeypatch, "--json", str(records))
    assert capsys.readouterr().out == ""  # nothing is done twice
    run(folder, monkeypatch, "--json", str(records), "--again", "refused")
    assert "broken: REFUSED" in capsys.readouterr().out


def test_an_internal_error_is_a_record_that_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import graphprune

    def fail(*args: object, **options: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(graphprune, "compile", fail)
    record = sweep.examine(tmp_path / "any.onnx", {"channels": 0.5})
    assert record["outcome"] == "error"
    assert "KeyError at test_sweep_tool.py" in record["reason"]


def test_children_that_end_badly_leave_a_record() -> None:
    slow = _common.run_child("timeit", ["import time; time.sleep(60)"], timeout=0.5, memory_gb=1)
    assert slow["outcome"] == "timeout"
    lost = _common.run_child("no_such_module", [], timeout=60, memory_gb=1)
    assert lost["outcome"] == "crash"
    assert "no_such_module" in lost["reason"]
    greedy = ["-n", "1", "-r", "1", "bytearray(2 << 30)"]
    full = _common.run_child("timeit", greedy, timeout=60, memory_gb=0.5)
    assert full["outcome"] == "memory"


def test_tables_survive_what_stands_in_cells() -> None:
    text = _common.table(("a", "b"), [("x|y", "two\nlines"), (None, 1)], right=(1,))
    assert text == "| a | b |\n| --- | ---: |\n| x\\|y | two lines |\n|  | 1 |\n"
    assert _common.share(25, 100) == "-75.0 %"


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    text = "\n".join(_common.environment())
    assert "onnxruntime" in text
    assert platform.node() not in text
