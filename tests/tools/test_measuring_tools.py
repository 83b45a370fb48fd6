"""The programs that measure, each on something tiny: they run, and what they say is of that run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphprune import zoo
from graphprune.measure import latency
from graphprune.onnx.load import load
from graphprune.onnx.runtime import find_trials
from graphprune.onnx.shapes import default_bindings, infer_shapes
from models_zoo.builders import micrographs
from tools import (
    big_model,
    efficiency,
    ladder,
    real_models,
    scaling,
    sensitivity_cost,
    single_groups,
    staircase,
)
from tools.accuracy_case import Case


def run(tool, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", [tool.__name__, *map(str, arguments)])
    return tool.main()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(micrographs.build("glu"), tmp_path / "glu.onnx")
    onnx.save(micrographs.build("instance_norm_stats"), tmp_path / "norm.onnx")
    return tmp_path


def test_ladders_grow_as_asked_and_read_no_weight() -> None:
    small, large = ladder.ladder(40, 256), ladder.ladder(120, 512)
    assert 40 <= len(list(small.graph)) < 80
    assert 120 <= len(list(large.graph)) < 160
    found = infer_shapes(large, default_bindings(large)[0])
    assert not found.unknown
    assert {d[-1] for v, d in found.dims.items() if v.name.startswith("Relu")} >= {512}


def test_exponents_are_slopes() -> None:
    points = [(n, 3e-6 * n**1.5) for n in (10, 100, 1000)]
    assert scaling.exponent(points) == pytest.approx(1.5)


def test_scaling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = folder / "speed.md"
    sizes = ["--ops", 40, 80, "--widths", 256, 512, "--repeat", 1]
    options = ["--names", "glu", "--compile", "glu", *sizes, "--out", page]
    assert run(scaling, monkeypatch, "--models", folder, *options) == 0
    text = page.read_text()
    assert "(ops x width)^" in text
    assert "| certify |" in text


def test_single_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = folder / "single.md"
    options = ["--names", "glu", "norm", "--out", page]
    assert run(single_groups, monkeypatch, "--models", folder, *options) == 0
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    found = {row[0].strip("| "): [cell.strip() for cell in row[1:5]] for row in rows}
    assert found["glu"] == ["1", "1", "0", "0"]
    assert found["norm"][3] == "0"


def test_a_group_that_comes_out_wrong_is_no_success(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {"group": "g", "status": "failed", "why": "node differs", "max_rel_error": 1.0}
    monkeypatch.setattr(single_groups, "run_child", lambda *a, **k: {"groups": [wrong]})
    assert run(single_groups, monkeypatch, "--models", folder, "--names", "glu") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_big_model_made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.onnx"
    size = big_model.make(path, blocks=1, width=64, heads=4, hidden=128, vocabulary=100)
    assert size == sum(f.stat().st_size for f in tmp_path.iterdir())
    one, _ = find_trials(load(path).model)
    assert np.std(one.outputs["logits"]) > 0.1

    page = tmp_path / "memory.md"
    sizes = ["--gb", 0.001, "--width", 64, "--vocabulary", 100, "--out", page]
    assert run(big_model, monkeypatch, "--dir", tmp_path, *sizes) == 0
    assert "peak anonymous memory" in page.read_text()
    assert not list(tmp_path.glob("big-model-*"))


def test_real_models_are_found_in_packages_and_archives(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tarfile

    packages = tmp_path / "installed"
    (packages / "voice").mkdir(parents=True)
    (packages / "voice" / "glu.onnx").write_bytes((folder / "glu.onnx").read_bytes())
    with tarfile.open(packages / "voice" / "all_onnx.tar.gz", "w:gz") as archive:
        archive.add(folder / "norm.onnx", "inner/norm.onnx")
    page = tmp_path / "real.md"
    options = ["--no-bench", "--ratios", 0.5, "--out", page]
    assert run(real_models, monkeypatch, "--models", packages, *options) == 0
    text = page.read_text()
    assert "voice: glu.onnx @ 0.5 | exact" in text
    assert "norm.onnx @ 0.5 | " in text


def test_efficiency(folder: Path) -> None:
    page = folder / "efficiency.md"
    assert efficiency.main([str(folder / "glu.onnx"), "--out", str(page)]) == 0
    assert "glu" in page.read_text()
    assert "CPU seconds" not in page.read_text()


def test_efficiency_on_a_machine_that_others_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = []
    whole = latency.compare_latency

    def watched(*arguments: Any, **settings: Any) -> Any:
        clocks.append(settings["clock"])
        return whole(*arguments, **{**settings, "seconds_budget": 0.1})

    monkeypatch.setattr(latency, "compare_latency", watched)
    page = folder / "efficiency.md"
    assert efficiency.main(["zoo:text-angle", "--cpu-time", "--out", str(page)]) == 0
    assert set(clocks) == {time.thread_time}
    row = next(line for line in page.read_text().splitlines() if "zoo:text-angle" in line)
    assert " * |" in row
    assert "CPU seconds" in page.read_text()
    with pytest.raises(SystemExit):
        efficiency.main(["zoo:text-angle", "--cpu-time", "--threads", "2"])


def test_staircase(tmp_path: Path) -> None:
    page = tmp_path / "staircase.md"
    options = ["--widths", "16", "8", "--seconds", "0.05", "--out", str(page)]
    assert staircase.main(options) == 0
    rows = [line.split(" | ") for line in page.read_text().splitlines() if " | " in line][2:]
    assert [row[1] for row in rows] == ["16", "8"] * len(staircase.KINDS)
    assert all(float(row[2]) > 0 for row in rows)


def test_sensitivity_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """One and two processes find the same; the figures are of that run."""
    entry = zoo.get("resnet-fashion")
    case = Case(
        "resnet-fashion",
        "accuracy",
        None,
        entry.path,
        lambda seed, count: entry.calibration()[:count],
        lambda run: {"accuracy": 0.0},
    )
    monkeypatch.setattr(sensitivity_cost, "FRACTIONS", (0.5,))
    name, count, bare, one, ratio, two, gain = sensitivity_cost.row(case, 64, 1)
    assert name == "resnet-fashion"
    assert isinstance(count, int)
    assert count >= 4
    assert float(str(bare)) >= 0
    first, second = (float(str(text).split()[0]) for text in (one, two))
    assert first > 0
    assert float(str(gain)) == pytest.approx(first / second, rel=0.1)
    assert float(str(ratio)) > 0
