"""The documented exit codes from the real command line on real files, and what is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import drawn, from_text

from graphprune.cli import run
from models_zoo.builders import micrographs

QUICK = ["--channels", "0.5", "--align", "1", "--no-bench", "--quiet"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One good model and several others."""
    onnx.save(micrographs.build("grouped_conv"), tmp_path / "good.onnx")
    onnx.save(
        from_text("h = MatMul (x, w) y = Softmax (h)", {"w": drawn(8, 4)}), tmp_path / "stuck.onnx"
    )
    whole = (tmp_path / "good.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("not a model")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "arguments", "code", "words"),
    [
        ("good.onnx", QUICK, 0, ""),
        ("good.onnx", ["--channels", "2"], 2, "0 < R <= 1"),
        ("good.onnx", [*QUICK, "--only", "nothing"], 2, "--only 'nothing'"),
        ("good.onnx", [*QUICK, "--criterion", "best"], 2, "criterion 'best'"),
        ("none.onnx", QUICK, 2, "none.onnx"),
        ("half.onnx", QUICK, 3, "half.onnx"),
        ("text.onnx", QUICK, 3, "text.onnx"),
        ("good.onnx", ["--params", "0.01", "--no-bench"], 5, "least that can stay"),
        ("stuck.onnx", QUICK, 6, "no group could be pruned"),
        ("good.onnx", ["--channels", "1.0", "--no-bench"], 6, "was to stay"),
    ],
)
def test_codes(
    name: str,
    arguments: list[str],
    code: int,
    words: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    out = folder / "out.onnx"
    assert run(["compile", str(folder / name), "-o", str(out), *arguments]) == code
    errors = capsys.readouterr().err.strip()
    assert words in errors
    assert len(errors.splitlines()) == (0 if code == 0 else 1), errors
    assert out.exists() == (code == 0)
    left = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "out.onnx"}
    assert left == before, "inputs are untouched, nothing else is written"


def test_a_wrong_graph_is_code_4(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plan = folder / "out.onnx", folder / "p.json"
    good = str(folder / "good.onnx")
    assert run(["compile", good, "-o", str(out), *QUICK, "--save-plan", str(plan)]) == 0
    assert run(["verify", good, str(out), "--plan", str(plan)]) == 0
    model = ir.load(out)
    value = model.graph.initializers["conv2.bias"]
    value.const_value = ir.tensor(value.const_value.numpy() + 1, name="conv2.bias")
    ir.save(model, out)
    capsys.readouterr()
    assert run(["verify", good, str(out), "--plan", str(plan)]) == 4
    assert "'conv2.bias'" in capsys.readouterr().err


def test_a_plan_that_does_not_fit_is_code_2(folder: Path) -> None:
    plan = folder / "p.json"
    good, out = str(folder / "good.onnx"), str(folder / "out.onnx")
    assert run(["compile", good, "-o", out, *QUICK, "--save-plan", str(plan)]) == 0
    onnx.save(NETWORKS["resnet"](), folder / "other.onnx")
    applied = folder / "applied.onnx"
    assert run(["apply", str(folder / "other.onnx"), str(plan), "-o", str(applied)]) == 2
    data = json.loads(plan.read_text())
    for damage in ({"format": 9}, {"tensors": 3}):
        plan.write_text(json.dumps(data | damage))
        assert run(["apply", good, str(plan), "-o", str(applied)]) == 2
    assert not applied.exists()


def test_the_report_file_holds_what_the_contract_lists(folder: Path) -> None:
    report = folder / "r.json"
    good, out = str(folder / "good.onnx"), str(folder / "out.onnx")
    arguments = ["--channels", "0.5", "--align", "1", "--allow-slower", "--quiet"]
    assert run(["compile", good, "-o", out, *arguments, "--report", str(report)]) == 0
    data = json.loads(report.read_text())
    for side in ("original", "pruned"):
        assert {"params", "macs", "bytes", "latency_ms"} <= set(data[side])
        assert data[side]["latency_ms"] > 0
    assert {"speedup", "groups", "unpruned", "timings_s", "warnings"} <= set(data)
    certificate = data["certificate"]
    assert certificate["status"] == "exact"
    for key in ("max_abs_error", "max_rel_error"):
        assert np.isfinite(certificate[key])
    assert len(certificate["bindings"]) >= 2
    for group in data["groups"]:
        assert {"name", "kind", "size_before", "size_after", "members", "kept"} <= set(group)
    assert all({"node", "reason"} <= set(u) for u in data["unpruned"])
    assert data["pruned"]["bytes"] == Path(out).stat().st_size
