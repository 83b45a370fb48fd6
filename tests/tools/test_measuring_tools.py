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
    latency_damage,
    off_distribution,
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


def fashion() -> Case:
    entry = zoo.get("resnet-fashion")
    return Case(
        "resnet-fashion",
        "accuracy",
        None,
        entry.path,
        lambda seed, count: entry.calibration()[:count],
        lambda run: {"accuracy": entry.evaluate(run)},
    )


def test_noise_keeps_shapes_ranges_and_masks() -> None:
    rng = np.random.default_rng(0)
    feeds = [
        {
            "x": rng.normal(3, 2, (n, 50)).astype(np.float32),
            "ids": np.sort(rng.integers(10, 900, (n, 50))),
            "mask": np.ones((n, 50), np.int64),
        }
        for n in (4, 6)
    ]
    for kind in off_distribution.KINDS:
        made = off_distribution.noise(feeds, kind, 0)
        for one, other in zip(made, feeds, strict=True):
            assert {k: (v.shape, v.dtype) for k, v in one.items()} == {
                k: (v.shape, v.dtype) for k, v in other.items()
            }
            np.testing.assert_array_equal(one["mask"], other["mask"])
            assert 10 <= one["ids"].min() < one["ids"].max() < 900
            assert (np.diff(one["ids"]) < 0).any()
            assert one["x"].mean() == pytest.approx(3, abs=0.5) or kind == "uniform"
            assert not np.isin(one["x"], other["x"]).any()


def test_off_distribution(tmp_path: Path) -> None:
    results = off_distribution.Results(None)
    for kind in ("none", "own", "normal", "uniform"):
        results.add(kind, off_distribution.measure(fashion(), kind, 0, 0.7))
    scores = {k: r["scores"]["accuracy"] for k, r in results.records.items()}
    assert scores["none"] == scores["uniform"] < scores["normal"] < scores["own"] - 0.2
    assert [bool(r["said"]) for r in results.records.values()] == [False, False, True, True]
    text = "".join(off_distribution.page(results, 0.7))
    assert text.count("1 of 1") == 2
    assert f"{scores['own']:.4f}" in text


def test_latency_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves are measured once; the damage of a model is the sum of them at its widths."""
    onnx.save(micrographs.build("grouped_conv"), tmp_path / "small.onnx")
    monkeypatch.setattr(latency_damage, "SAMPLES", 16)
    file = latency_damage.curves_of(tmp_path / "small.onnx", tmp_path, 1)
    before = file.read_bytes()
    assert latency_damage.curves_of(tmp_path / "small.onnx", tmp_path, 1) == file
    assert file.read_bytes() == before
    curves = latency_damage.Sensitivity.load(file).curves()
    settings = {"verify": False}
    even = latency_damage.half(tmp_path / "small.onnx", file, settings)
    damages = [c.at(0.5) for c in curves.values()]
    assert min(damages) > 0
    assert even["damage"] == pytest.approx(sum(damages), rel=0.2)  # widths are whole numbers
    assert even["without_curve"] == 0
    assert even["interval"][0] <= even["time"] <= even["interval"][1]
    results = latency_damage.Results(None)
    results.add("small half", {"even": even, "aware": {**even, "damage": 0.125}})
    results.add("small damage", {"even": even, "aware": None})
    text = "\n".join(latency_damage.page(results))
    assert "0.125" in text
    assert "none found" in text
