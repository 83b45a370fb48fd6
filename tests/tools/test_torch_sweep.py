"""The sweep of torch models: one small model, its record, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from models_zoo.builders.sample import Sample
from tools import torch_models, torch_sweep


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every architecture is a small network."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = torch.nn.Sequential(
                torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    def build(model: str) -> Sample:
        return Sample(Small().eval(), {"x": torch.randn(2, 4)}, {})

    monkeypatch.setattr(torch_sweep, "build", build)


def test_a_model_is_pruned_and_trained_a_step(small: None) -> None:
    record = torch_sweep.examine("any:small", torch_sweep.SETTINGS["heads"])
    assert record["outcome"] == "pruned", record
    assert record["params"][1] < 0.6 * record["params"][0]
    assert (record["kind"], record["trains"], record["status"]) == ("module", "yes", "exact")


def test_what_goes_wrong_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(model: str) -> Sample:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(torch_sweep, "build", build)
    record = torch_sweep.examine("any:small", {"channels": 0.5})
    assert record["outcome"] == "error"
    assert "no such thing" in record["reason"]
    assert torch_models.beside("any:small", "/nowhere")["outcome"] == "error"


def test_the_page_names_models_and_ratios(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = torch_sweep.examine("any:small", torch_sweep.SETTINGS["heads"])
    other = {"outcome": "broken", "reason": "a shape", "analysis_s": 5 * record["analysis_s"]}
    records = {
        "heads :: any:small": record,
        "heads :: any:other": {"outcome": "timeout", "reason": "more than 120 s"},
        f"{torch_sweep.BESIDE} :: any:small": other,
    }
    (tmp_path / "r.json").write_text(json.dumps(records))
    page = tmp_path / "page.md"
    arguments = ["--names", "nothing", "--json", str(tmp_path / "r.json"), "--out", str(page)]
    monkeypatch.setattr("sys.argv", ["torch_sweep", *arguments])
    monkeypatch.setattr(torch_sweep, "names_of", lambda family: ["small"])
    assert torch_sweep.main() == 0
    text = page.read_text()
    assert "2 models: 1 timeout, 1 pruned" in text
    assert "| any:small | own class | exact |" in text
    assert "more than 120 s" in text
    assert " a shape |" in text
