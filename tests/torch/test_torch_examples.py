"""The examples run as they are, and what they show is true."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, float]:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return runpy.run_path(str(EXAMPLES / name))["main"]()


def test_every_example_is_run_here() -> None:
    tested = Path(__file__).read_text()
    names = [p.name for p in EXAMPLES.glob("*.py")]
    assert len(names) >= 2
    assert all(name in tested for name in names)


def test_torch_loop(monkeypatch, tmp_path: Path, capsys) -> None:
    found = run("torch_loop.py", monkeypatch, "--folder", str(tmp_path))
    assert found["before"] > 0.8
    assert found["after"] > 0.9 * found["before"]
    assert found["share"] < 0.6
    assert {p.name for p in tmp_path.iterdir()} == {"run.safetensors", "net.safetensors"}
    assert "step 3" in capsys.readouterr().out


def test_imp(monkeypatch, tmp_path: Path, capsys) -> None:
    arguments = ("--rounds", "2", "--steps", "60", "--rewind-to", "10", "--sparsity", "0.8")
    found = run("imp.py", monkeypatch, "--folder", str(tmp_path), *arguments)
    assert found["dense"] > 0.8
    assert found["sparse"] > 0.9 * found["dense"]
    assert abs(found["zeros"] - 0.8) < 1e-4
    assert {p.name for p in tmp_path.iterdir()} == {"run.safetensors", "net.pt"}
    assert "round 2" in capsys.readouterr().out


def test_hf_trainer(monkeypatch, tmp_path: Path, capsys) -> None:
    transformers_or_skip()
    found = run("hf_trainer.py", monkeypatch, "--folder", str(tmp_path))
    assert found["after"] > 0.9
    assert found["share"] < 0.7
    assert "pruning 2" in capsys.readouterr().out


def transformers_or_skip() -> None:
    reason = "the Hugging Face Trainer needs transformers and accelerate"
    pytest.importorskip("accelerate", reason=reason)
    try:  # a torchvision without its extension breaks transformers: declare its operators first
        from models_zoo.builders.torchvision_shim import torchvision

        torchvision()
    except ImportError:
        pass
    pytest.importorskip("transformers", reason=reason)
