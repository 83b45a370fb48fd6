"""`graphprune sensitivity`: what it prints and writes, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from workbench import drawn, from_text

from graphprune.cli import run
from graphprune.damage.result import Sensitivity


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and data."""
    body = "a = MatMul (x, w) h = Relu (a) b = MatMul (h, v) k = Relu (b) y = MatMul (k, u)"
    weights = {"w": drawn(8, 16), "v": drawn(16, 12, seed=1), "u": drawn(12, 4, seed=2)}
    onnx.save(from_text(body, weights, outputs="float[N, 4] y"), tmp_path / "net.onnx")
    stuck = from_text("y = MatMul (x, w)", {"w": drawn(8, 4)}, outputs="float[N, 4] y")
    onnx.save(stuck, tmp_path / "stuck.onnx")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "c.npy", rng.normal(size=(64, 8)).astype(np.float32))
    np.save(tmp_path / "few.npy", np.zeros((3, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


GIVEN = ["sensitivity", "net.onnx", "--calib", "c.npy", "--align", "4"]


def test_a_table_with_the_most_sensitive_first(folder: Path, capsys: Any) -> None:
    assert run([*GIVEN, "-o", "s.json"]) == 0
    shown = capsys.readouterr().out
    found = Sensitivity.load(folder / "s.json")
    worst = {g: max(m.folded for m in found.measurements if m.group == g) for g in found.sizes}
    ordered = sorted(worst, key=lambda g: -worst[g])
    lines = shown.splitlines()
    (header,) = (i for i, line in enumerate(lines) if line.split()[:2] == ["group", "units"])
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ordered
    assert "with compensation" in " ".join(shown.split())
    assert "--ratios-from s.json" in lines[-1]
    assert not list(folder.glob(".*"))


def test_json_alone_on_stdout(folder: Path, capsys: Any) -> None:
    assert run([*GIVEN, "--json", "--fractions", "0.5", "--no-compensation"]) == 0
    out = capsys.readouterr().out
    assert all(m["folded"] is None for m in json.loads(out)["measurements"])
    assert Sensitivity.loads(out).dumps() == out


def test_the_plot_is_xml_and_the_same_every_time(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        assert run([*GIVEN, "-q", "--plot", name, "--fractions", "0.25,0.5"]) == 0
    one, two = ((folder / n).read_bytes() for n in ("one.svg", "two.svg"))
    assert one == two
    root = ElementTree.fromstring(one)
    assert root.tag.endswith("svg")
    texts = "".join(root.itertext())
    assert "net.onnx" in texts
    assert "damage" in texts


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["net.onnx", "--calib", "none.npy"], 2, "none.npy"),
        (["net.onnx", "--calib", "few.npy"], 2, "at least 8 samples"),
        (["none.onnx", "--calib", "c.npy"], 2, "no such file"),
        (["net.onnx", "--fractions", "0.5,1.5"], 2, "list of fractions"),
        (["net.onnx", "--fractions", "half"], 2, "list of fractions"),
        (["net.onnx", "--jobs", "0"], 2, "--jobs"),
        (["net.onnx", "--criterion", "best"], 2, "criterion 'best'"),
        (["net.onnx", "--calib", "c.npy", "-o", "c.npy"], 2, "exists"),
        (["net.onnx", "-o", "none/s.json"], 2, "does not exist"),
        (["net.onnx", "--eval", "nomodule:f"], 2, "nomodule"),
        (["net.onnx", "--scheduler", "nowhere://x"], 2, "nowhere"),
        (["net.onnx", "--calib", "c.npy", "--only", "nothing"], 2, "'nothing'"),
        (["stuck.onnx", "--calib", "c.npy"], 6, "nothing to measure"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, words: str, folder: Path, capsys: Any
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert run(["sensitivity", "-q", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert words in captured.err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_damaged_partial_file_is_named(folder: Path, capsys: Any) -> None:
    (folder / ".s.json.partial").write_text("{")
    assert run([*GIVEN, "-q", "-o", "s.json"]) == 2
    assert ".s.json.partial" in capsys.readouterr().err
    assert not (folder / "s.json").exists()
