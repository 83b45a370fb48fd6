"""Calibration through the whole line: certificate before, drift after, never worse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console
from workbench import drawn, from_text

import graphprune
from graphprune import threads, zoo
from graphprune.cli import run
from graphprune.errors import UsageError
from graphprune.onnx.runtime import Session
from graphprune.report.terminal import print_report

QUICK = {"bench": False, "align": 1}


def mlp() -> object:
    weights = {"w": drawn(8, 64), "b": drawn(64), "v": drawn(64, 16), "c": drawn(16)}
    text = "h = Gemm (x, w, b) r = Relu (h) s = Gemm (r, v, c) t = Relu (s) y = MatMul (t, u)"
    return from_text(text, {**weights, "u": drawn(16, 4)})


def data(count: int = 512) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, 8)).astype(np.float32)


@pytest.mark.parametrize("criterion", ["l2", "energy"])
def test_the_drift_is_measured_on_what_nothing_was_fitted_to(criterion: str) -> None:
    settings = {**QUICK, "channels": 0.5, "criterion": criterion, "calib_samples": 512}
    result = graphprune.compile(mlp(), calib=data(), **settings)
    drift = result.report.drift
    assert drift is not None
    assert (drift.samples, drift.held_out) == (512, 64)
    assert drift.refitted >= 1
    assert result.report.certificate["status"] == "exact"
    (before,), (after,) = drift.uncompensated, drift.outputs
    assert after["relative"] < 0.8 * before["relative"]
    new = {"x": np.random.default_rng(6).normal(size=(400, 8)).astype(np.float32)}
    with Session(graphprune.compile(mlp(), channels=1.0, allow_slower=True, **QUICK).model) as s:
        wanted = s.run(new)["y"]
    with Session(result.model) as session:
        error = np.linalg.norm(session.run(new)["y"] - wanted) / np.linalg.norm(wanted)
    assert error == pytest.approx(after["relative"], rel=0.35)
    console = Console(width=100, record=True)
    print_report(console, result.report)
    text = console.export_text()
    assert "Compensated: " in text
    assert "64 held-out samples" in text
    json.loads(result.report.dumps())


def test_the_same_bits_on_one_core_and_on_many(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cores in (1, 16):
        monkeypatch.setattr(threads, "cores", lambda cores=cores: cores)
        settings = {**QUICK, "macs": 0.5, "criterion": "energy", "calib_samples": 64}
        entry = zoo.get("resnet-fashion")
        result = graphprune.compile(entry.path, calib=entry.calibration(), **settings)
        assert result.report.drift is not None
        assert result.report.drift.refitted > 5
        found.append(ir.to_proto(result.model).SerializeToString(deterministic=True))
    assert found[0] == found[1]


def test_a_refitted_model_is_not_called_wrong() -> None:
    """Verify compares with slices of the original's weights, which these are no more."""
    result = graphprune.compile(mlp(), channels=0.5, calib=data(), **QUICK)
    assert int(result.model.metadata_props["graphprune.refitted_layers"]) >= 1
    with pytest.raises(UsageError, match="refitted to calibration inputs"):
        graphprune.verify(mlp(), result.model, plan=result.plan)


def test_without_calibration_there_is_no_drift() -> None:
    assert graphprune.compile(mlp(), channels=0.5, **QUICK).report.to_json()["drift"] is None


def test_a_model_that_does_not_run_on_the_data_is_the_datas_fault() -> None:
    weights = {"w": drawn(8, 16), "v": drawn(16, 4)}
    text = "h = MatMul (x, w) r = Relu (h) s = MatMul (r, v) y = Add (s, z)"
    proto = from_text(text, weights, inputs="float[N, 8] x, float[N, 4] z", outputs="float[N, 4] y")

    def feeds() -> object:
        for _ in range(10):
            yield {"x": data(6), "z": np.ones((5, 4), np.float32)}

    with pytest.raises(UsageError, match="does not run on the calibration inputs"):
        graphprune.compile(proto, channels=0.5, calib=feeds, **QUICK)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = zoo.get("resnet-fashion")
    images = np.concatenate([b["pixels"] for b in entry.calibration()])[:128]
    np.savez(tmp_path / "c.npz", pixels=images)
    out = tmp_path / "o.onnx"
    arguments = ["compile", "zoo:resnet-fashion", "--macs", "0.5", "-o", str(out), "--no-bench"]
    calibrated = [*arguments, "--calib", str(tmp_path / "c.npz"), "--criterion", "energy"]
    assert run([*calibrated, "--calib-samples", "96", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["drift"]["samples"] == 96
    assert shown["drift"]["refitted"] >= 10
    assert shown["drift"]["left"] == []
    assert shown["metric"]["pruned"] > 0.88  # without: about 0.1
    assert shown["options"]["calib"] == str(tmp_path / "c.npz")
    assert entry.evaluate_file(out) == pytest.approx(shown["metric"]["pruned"], abs=0.002)
    assert run([*arguments, "--calib", str(tmp_path / "none"), "--overwrite"]) == 2
    assert "no calibration data at" in capsys.readouterr().err
    assert run([*arguments, "--calib-samples", "2", "--overwrite"]) == 2
