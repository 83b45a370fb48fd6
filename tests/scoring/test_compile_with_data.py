"""Data and criteria from the user's side: Python, command line, and what is the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from architectures import NETWORKS
from workbench import Bench

import graphprune
from graphprune.cli import run
from graphprune.data.feeds import read_calibration
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.states import states_of
from graphprune.scoring.readers import readers_of, uses_of
from graphprune.scoring.run import CRITERIA


def feeds(model: onnx.ModelProto, count: int = 16) -> list[dict[str, np.ndarray]]:
    bench = Bench(model)
    return [random_feeds(bench.model, bench.bindings[0], i) for i in range(count)]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_most_groups_of_real_shapes_are_read(name: str) -> None:
    """Channels, neurons and heads reach a linear layer somewhere."""
    bench = Bench(NETWORKS[name]())
    uses, states = uses_of(bench.model), states_of(bench.model)
    groups = [g for g in bench.graph.groups if g.kind in ("channel", "neuron", "head")]
    read = [g.name for g in groups if readers_of(g, uses, states)]
    assert len(read) == len(groups), {g.name for g in groups} - set(read)


@pytest.mark.parametrize("criterion", ["auto", *CRITERIA])
def test_the_same_seed_gives_the_same_bytes(criterion: str) -> None:
    model = NETWORKS["mobilenet"]()
    data = feeds(model)
    settings: dict[str, Any] = {"channels": 0.5, "align": 1, "bench": False, "verify": False}
    one, two = (
        graphprune.compile(model, criterion=criterion, calib=data, seed=1, **settings)
        for _ in range(2)
    )
    assert one.plan.dumps() == two.plan.dumps()
    for name, value in one.model.graph.initializers.items():
        other = two.model.graph.initializers[name].const_value
        assert value.const_value.numpy().tobytes() == other.numpy().tobytes()


def test_heads_and_then_dims_inside_them() -> None:
    """The second analysis is of a smaller model, whose activations are other ones."""
    model = NETWORKS["encoder"]()
    result = graphprune.compile(
        model,
        channels=0.5,
        heads=0.5,
        head_dims=0.5,
        align=1,
        bench=False,
        calib=feeds(model),
        criterion="activation",
    )
    assert result.report.certificate is not None
    assert result.report.certificate["status"] != "failed"
    assert any(g.name.endswith("/dims") for g in result.plan.groups)


def test_progress_is_told() -> None:
    model = NETWORKS["resnet"]()
    told: list[tuple[str, float | None]] = []
    smooth = [{"x": np.cumsum(np.cumsum(f["x"], 2), 3) / 16} for f in feeds(model)]
    graphprune.compile(
        model,
        channels=0.5,
        bench=False,
        verify=False,
        calib=smooth,  # by noise nothing would be scored
        progress=lambda stage, share=None: told.append((stage, share)),
    )
    shares = [share for stage, share in told if stage == "score" and share is not None]
    assert len(shares) >= 8
    assert shares[-1] == 1


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from PIL import Image

    onnx.save(NETWORKS["resnet"](), tmp_path / "net.onnx")
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for i in range(12):
        pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "my_eval.py").write_text("def size(s): return -len(s.get_outputs()[0].shape)\n")
    monkeypatch.chdir(tmp_path)
    given = ["compile", "net.onnx", "--channels", "0.5", "--no-bench", "-q", "-o", "out.onnx"]
    data = ["--calib", "photos", "--calib-images", "size=32,mean=0.5,std=0.25"]
    assert run([*given, *data, "--eval", "my_eval:size", "--report", "r.json"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["metric"]["name"] == "my_eval:size"
    assert report["metric"]["original"] == report["metric"]["pruned"] == -2
    assert report["drift"]["samples"] == 12
    assert report["options"]["criterion"] == "auto"

    (tmp_path / "out.onnx").unlink()
    for arguments, words in (
        ([*data[:2], "--calib-images", "size=big"], "size=big"),
        ([*data, "--eval", "my_eval:none"], "cannot import metric my_eval:none"),
        (["--calib-images", "size=8"], "give calib, too"),
        (["--criterion", "wanda"], "'wanda' needs calibration inputs"),
        (["--calib", "photos", "--tokenizer", "t.json"], "are for a text file"),
        (["--calib", "random:2:1"], "is not random:LOW:HIGH"),
    ):
        assert run([*given, *arguments]) == 2
        errors = capsys.readouterr().err.strip()
        assert words in errors
        assert "\n" not in errors
        assert not (tmp_path / "out.onnx").exists()


def test_random_inputs_run_for_every_family() -> None:
    for name, make in NETWORKS.items():
        found = read_calibration("random", Bench(make()).loaded.model, 8)
        assert found.samples == 8, name
