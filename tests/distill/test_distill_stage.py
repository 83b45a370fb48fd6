"""`--distill`, `--criterion taylor|fisher` in the pipeline and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from distill_nets import inputs, residual_net
from typer.testing import CliRunner
from workbench import drawn, from_text

torch = pytest.importorskip("torch")

import graphprune  # noqa: E402
from graphprune.cli import run  # noqa: E402
from graphprune.cli.app import app  # noqa: E402
from graphprune.errors import UnsupportedModelError, UsageError  # noqa: E402

QUICK = {"channels": 0.5, "align": 4, "bench": False}


def test_the_drift_is_that_of_the_trained_model(tmp_path: Path) -> None:
    model, data = tmp_path / "m.onnx", tmp_path / "calib.npy"
    onnx.save(residual_net(), model)
    np.save(data, inputs(400))
    arguments = ["compile", str(model), "--channels", "0.5", "--align", "4", "--no-bench", "--json"]
    arguments += ["--calib", str(data), "--calib-samples", "400", "-o", str(tmp_path / "p.onnx")]
    plain = CliRunner().invoke(app, [*arguments, "--overwrite"])
    before = json.loads(plain.stdout)
    assert before["distillation"] is None
    folder = tmp_path / "state"
    more = ["--distill", "0.05", "--distill-checkpoint", str(folder), "--overwrite"]
    found = CliRunner().invoke(app, [*arguments, *more])
    assert found.exit_code == 0, found.stdout
    after = json.loads(found.stdout)
    done = after["distillation"]
    assert done["best"] < done["start"]
    assert done["steps"] > 5
    assert after["drift"]["outputs"][0]["relative"] < before["drift"]["outputs"][0]["relative"]
    assert after["drift"]["uncompensated"] == before["drift"]["uncompensated"]
    assert after["timings_s"]["distill"] > 1.0
    assert any("it overfits" in w for w in after["warnings"])
    assert sorted(p.name for p in folder.iterdir()) == ["best.onnx", "distill.pt"]
    written = onnx.load(tmp_path / "p.onnx")
    assert "graphprune.distilled_steps" in {p.key for p in written.metadata_props}
    shown = CliRunner().invoke(app, [*(a for a in arguments if a != "--json"), *more])
    assert "Distilled:" in shown.stdout  # the finished run is not repeated: it goes on from its end


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_gradient_criteria_choose(criterion: str) -> None:
    made = graphprune.compile(
        residual_net(), criterion=criterion, calib=inputs(64), calib_samples=64, **QUICK
    )
    other = graphprune.compile(residual_net(), criterion="l2", calib=inputs(64), **QUICK)
    kept = {g.name: g.kept for g in made.plan.groups}
    assert all(
        len(k) == len({g.name: g.kept for g in other.plan.groups}[n]) for n, k in kept.items()
    )
    assert any(k != {g.name: g.kept for g in other.plan.groups}[n] for n, k in kept.items())
    assert made.report.certificate["status"] == "exact"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill": 1.0}, r"learns from calibration inputs: give calib \(--calib\)"),
        ({"distill": 0.0, "calib": "random"}, "distill 0.0 is out of range: above 0"),
        ({"distill": -1.0, "calib": "random"}, "distill -1.0 is out of range: above 0"),
        ({"distill_checkpoint": "d", "calib": "random"}, "give distill, too"),
        ({"criterion": "fisher"}, "needs calibration inputs"),
        ({"distill": 1.0, "calib": "random"}, "give real ones to --calib, not random"),
    ],
)
def test_misuse_is_told_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        graphprune.compile(residual_net(), **QUICK, **settings)
    assert "\n" not in str(error.value)


def test_an_op_without_a_gradient_is_told_at_once() -> None:
    proto = from_text(
        "h = MatMul (x, w) q, s, z = DynamicQuantizeLinear (h) f = DequantizeLinear (q, s, z)"
        " y = MatMul (f, v)",
        {"w": drawn(8, 16), "v": drawn(16, 4)},
        outputs="float[N, 4] y",
    )
    stages: list[str] = []
    with pytest.raises(UnsupportedModelError, match="DynamicQuantizeLinear"):
        graphprune.compile(
            proto,
            distill=5.0,
            calib=inputs(64),
            progress=lambda name, *_: stages.append(name),
            **QUICK,
        )
    assert set(stages) == {"load"}


def test_the_exit_code_without_calibration_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(residual_net(), model)
    code = run(["compile", str(model), "--channels", "0.5", "--distill", "1"])
    assert code == 2
    assert "give calib (--calib)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
