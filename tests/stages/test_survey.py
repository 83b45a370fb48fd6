"""Damage is measured where widths are to be those of least damage, time where it is a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from stage_nets import classifier, data
from workbench import drawn, from_text, really

import graphprune
import graphprune.latency.build as build
import graphprune.measure.latency as latency
import graphprune.pipeline as pipeline
from graphprune.cli import run
from graphprune.damage.judge import Judge
from graphprune.data.feeds import read_calibration
from graphprune.errors import UsageError
from graphprune.latency.profile import UNNAMED
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load

QUICK: dict[str, Any] = {"bench": False, "align": 1, "verify": False}
CALIB = data(96)


def macs(result: Any) -> float:
    return result.report.pruned.macs / result.report.original.macs


def test_widths_of_least_damage_beat_the_same_ratio_everywhere() -> None:
    """Both compensated, on inputs that nothing was measured on."""
    body = "h = MatMul (x, w) k = MatMul (h, v) r = Relu (k) y = MatMul (r, u)"
    weights = {"w": drawn(8, 24), "v": drawn(24, 24, seed=1), "u": drawn(24, 4, seed=2)}
    model = from_text(body, weights, outputs="float[N, 4] y")  # 8 of the 24 of `h` say it all
    original = canonicalise(load(model).model)
    judge = Judge(original, [{"x": data(200, seed=9)}])
    settings = {**QUICK, "macs": 0.5, "criterion": "l2", "calib": CALIB}
    plain = graphprune.compile(model, **settings)
    measured = graphprune.compile(model, scope="sensitivity", **settings)
    assert macs(measured) <= 0.5
    assert judge.damage(measured.model) < 0.3 * judge.damage(plain.model)


def test_curves_that_mislead_give_way_to_an_even_ratio(tmp_path: Path) -> None:
    """The finished models are compared on inputs that regularisers are chosen by."""
    model = classifier()
    original = canonicalise(load(model).model)
    chosen = read_calibration(CALIB, original, 96).choose
    judge = Judge(original, [b.feeds for b in chosen])
    settings = {**QUICK, "calib": CALIB, "calib_samples": 96, "macs": 0.3}
    even = judge.damage(graphprune.compile(model, **settings).model)
    found, _ = pipeline.sensitivity(model, calib=CALIB, align=1, fractions=(0.1, 0.75))
    text = json.loads(found.dumps())
    told = []
    for dear in text["groups"]:
        for each in text["measurements"]:
            each["folded"] = each["damage"] = 9 - each["kept"] if each["group"] == dear else 1e-6
        (tmp_path / "s.json").write_text(json.dumps(text))
        made = graphprune.compile(model, ratios_from=tmp_path / "s.json", **settings)
        assert judge.damage(made.model) <= even * (1 + 1e-6)
        told += [w for w in made.report.warnings if "damage curves" in w]
    assert told


def test_curves_from_a_file_give_what_they_say(tmp_path: Path) -> None:
    """A group whose damage is said to be huge stays; another's takes all of the budget."""
    model = classifier()
    found, _ = pipeline.sensitivity(model, calib=CALIB, align=1, fractions=(0.25, 0.75))
    text = json.loads(found.dumps())
    first, second = text["groups"]
    for dear, cheap in ((first, second), (second, first)):
        for each in text["measurements"]:
            each["folded"] = each["damage"] = 9 - each["kept"] if each["group"] == dear else 1e-6
        (tmp_path / "s.json").write_text(json.dumps(text))
        made = graphprune.compile(model, macs=0.6, ratios_from=tmp_path / "s.json", **QUICK)
        assert [g.name for g in made.plan.groups] == [cheap]
        assert macs(made) <= 0.6


def test_a_file_of_another_model_is_refused(tmp_path: Path, capsys: Any) -> None:
    onnx.save(classifier(), tmp_path / "one.onnx")
    onnx.save(classifier(hidden=24), tmp_path / "two.onnx")
    np.save(tmp_path / "c.npy", CALIB)
    curves = str(tmp_path / "s.json")
    given = ["--calib", str(tmp_path / "c.npy"), "--align", "1", "-q", "--fractions", "0.5"]
    assert run(["sensitivity", str(tmp_path / "one.onnx"), *given, "-o", curves]) == 0
    arguments = ["--macs", "0.5", "--ratios-from", curves, "--no-bench", "-q", "--align", "1"]
    capsys.readouterr()
    assert run(["compile", str(tmp_path / "two.onnx"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "was measured on another model" in error
    assert error.count("\n") == 1
    assert run(["compile", str(tmp_path / "one.onnx"), *arguments]) == 0
    assert not (tmp_path / "two.pruned.onnx").exists()


def test_a_latency_table_is_written_once_and_read_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiled: list[int] = []

    def profile(model: ir.Model, *_: Any, **__: Any) -> dict[str, float]:
        profiled.append(really(model, {"N": 1})[1])
        return {UNNAMED: profiled[-1] / 1e3}

    class Found:
        ratio = 2.0

    monkeypatch.setattr(build, "profile", profile)
    monkeypatch.setattr(latency, "compare_latency", lambda *_, **__: Found())
    file = tmp_path / "t.json"
    settings: dict[str, Any] = {**QUICK, "latency": 0.5, "latency_table": file}
    graphprune.compile(classifier(), **settings)
    assert len(profiled) >= 5
    assert profiled == sorted(profiled, reverse=True)
    first = file.read_bytes()
    profiled.clear()
    graphprune.compile(classifier(), **settings)
    assert not profiled
    assert file.read_bytes() == first
    with pytest.raises(UsageError, match="was made for another model"):
        graphprune.compile(classifier(hidden=24), **settings)
    missing = tmp_path / "none" / "t.json"
    with pytest.raises(UsageError, match=r"the folder .* does not exist"):
        graphprune.compile(classifier(), **{**settings, "latency_table": missing})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"macs": 0.5, "scope": "sensitivity"}, "needs calibration inputs"),
        ({"latency": 0.5, "latency_ms": 1.0}, "one of latency and latency_ms"),
        ({"macs": 0.5, "latency_table": "t.json"}, "give latency, too"),
        ({"max_drop": 0.1}, "give eval"),
        ({"max_divergence": 0.1}, "give calib"),
        ({"max_drop": 0.1, "max_divergence": 0.1}, "one of max_drop and max_divergence"),
        ({"max_drop": -1.0, "eval": len}, "out of range"),
        ({"macs": 0.5, "ratios_from": "none.json"}, "cannot read none.json"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        graphprune.compile(classifier(), **settings, **QUICK)
    assert "\n" not in str(caught.value)
