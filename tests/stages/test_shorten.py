"""`compile --layers`: which layers leave, what is proven, budgets beside it, plans and refits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from workbench import Bench, drawn, from_text, really

import graphprune
from graphprune.cli import run
from graphprune.damage.judge import Judge
from graphprune.data.feeds import read_calibration
from graphprune.errors import NothingGainedError, UsageError
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.plan import Plan

BLOCKS = 4
WIDTH, INSIDE = 16, 32
STRENGTH = (1.0, 0.02, 0.6, 0.1)
"""What each block adds, beside what comes in: the second hardly anything, then the fourth."""


def deep() -> onnx.ModelProto:
    body, weights, here = "", {}, "x"
    for i in range(BLOCKS):
        body += (
            f"a{i} = MatMul ({here}, blocks.{i}.w) b{i} = Relu (a{i}) "
            f"c{i} = MatMul (b{i}, blocks.{i}.v) h{i} = Add ({here}, c{i}) "
        ).replace(".", "_")
        weights[f"blocks_{i}_w"] = drawn(WIDTH, INSIDE, seed=i)
        weights[f"blocks_{i}_v"] = STRENGTH[i] * 1.4 * drawn(INSIDE, WIDTH, seed=10 + i)
        here = f"h{i}"
    weights["head"] = drawn(WIDTH, 4, seed=99)
    inputs = f"float[N, {WIDTH}] x"
    return from_text(
        f"{body} y = MatMul ({here}, head)", weights, inputs=inputs, outputs="float[N, 4] y"
    )


DATA = np.random.default_rng(0).normal(0.3, 1, (96, WIDTH)).astype(np.float32)
QUICK: dict[str, Any] = {"bench": False, "align": 1}


def left(result: Any) -> list[str]:
    return [cut.output for cut in result.plan.layers]


@pytest.mark.parametrize("criterion", ["damage", "cosine"])
def test_what_adds_least_leaves_first(criterion: str) -> None:
    for share, wanted in ((0.75, ["h1"]), (0.5, ["h1", "h3"])):
        result = graphprune.compile(
            deep(), layers=share, layer_criterion=criterion, calib=DATA, **QUICK
        )
        assert left(result) == wanted
        scores = [cut.score for cut in result.plan.layers]
        assert scores == sorted(scores), "the first that leaves costs least"
        assert result.report.certificate is not None
        assert result.report.certificate["status"] == "exact"
        assert result.report.certificate["layers_max_rel_error"] < 1e-5
        assert result.report.layers == result.plan.layers
    params, _ = really(result.model, {"N": 2})
    assert params == 2 * 2 * WIDTH * INSIDE + 4 * WIDTH


def test_scores_are_the_damage_without_all_that_left() -> None:
    result = graphprune.compile(deep(), layers=0.5, calib=DATA, **QUICK)
    original = canonicalise(load(deep()).model)
    feeds = [b.feeds for b in read_calibration(DATA, original).choose]
    judge = Judge(original, feeds)
    again = graphprune.compile(deep(), plan=result.plan, **QUICK)  # not refitted
    assert judge.damage(again.model) == pytest.approx(result.plan.layers[-1].score, rel=1e-4)


def test_layers_behind_are_refitted_and_a_linear_map_is_fitted_too() -> None:
    plain = graphprune.compile(deep(), layers=0.5, calib=DATA, **QUICK).report.drift
    linear = graphprune.compile(
        deep(), layers=0.5, calib=DATA, linear_layers=True, **QUICK
    ).report.drift
    errors = []
    for drift in (plain, linear):
        assert drift is not None
        assert drift.refitted
        before, after = drift.uncompensated[0]["relative"], drift.outputs[0]["relative"]
        assert after < 0.9 * before
        errors.append(after)
    assert errors[1] < errors[0], "a map in the place of a layer makes good more"


def test_budgets_stay_shares_of_the_original() -> None:
    result = graphprune.compile(deep(), layers=0.75, macs=0.5, calib=DATA, **QUICK)
    assert left(result) == ["h1"]
    assert result.plan.groups
    share = result.report.pruned.macs / result.report.original.macs
    assert 0.45 < share <= 0.5
    assert result.report.options["macs"] == 0.5
    loose = graphprune.compile(deep(), layers=0.5, macs=0.9, calib=DATA, **QUICK)
    assert not loose.plan.tensors, "the budget is met by layers alone"


def test_auto_takes_as_few_layers_as_the_budget_needs() -> None:
    whole, _ = really(canonicalise(load(deep()).model), {"N": 2})
    one = 2 * WIDTH * INSIDE / whole
    for budget, count in ((1 - 0.5 * one, 1), (1 - 1.5 * one, 2)):
        result = graphprune.compile(deep(), layers="auto", params=budget, calib=DATA, **QUICK)
        assert len(result.plan.layers) == count
        assert not result.plan.tensors


def test_a_plan_is_applied_and_verified_again(tmp_path: Path) -> None:
    source = tmp_path / "deep.onnx"
    onnx.save(deep(), source)
    result = graphprune.compile(str(source), layers=0.75, channels=0.5, **QUICK)
    result.plan.save(tmp_path / "p.json")
    plan = Plan.load(tmp_path / "p.json")
    assert plan.layers == result.plan.layers
    assert plan.sha256 == result.plan.sha256
    again = graphprune.compile(str(source), plan=plan, **QUICK)
    assert [n.op_type for n in again.model.graph] == [n.op_type for n in result.model.graph]
    found = graphprune.verify(str(source), result.model, plan=plan)
    assert found.status == "exact"
    assert found.layers_max_rel_error is not None
    wrong = graphprune.compile(str(source), channels=0.5, **QUICK)
    assert graphprune.verify(str(source), wrong.model, plan=plan).status == "failed"


def test_pruning_heads_and_layers_of_a_transformer() -> None:
    from architectures import NETWORKS

    result = graphprune.compile(NETWORKS["encoder"](), layers=0.5, channels=0.5, **QUICK)
    assert len(result.plan.layers) == 1
    assert {g.kind for g in result.plan.groups} >= {"head", "neuron"}
    assert result.report.certificate is not None
    assert result.report.certificate["status"] == "exact"


def test_what_has_no_layers_says_so() -> None:
    chain = from_text("a = MatMul (x, w) y = Relu (a)", {"w": drawn(8, 4)}, outputs="float[N, 4] y")
    with pytest.raises(NothingGainedError, match="no layer or residual block"):
        graphprune.compile(chain, layers=0.5, **QUICK)
    with pytest.raises(NothingGainedError, match="rounded"):
        graphprune.compile(deep(), layers=0.95, **QUICK)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": "auto"}, "give macs or params"),
        ({"layers": "most"}, "'auto'"),
        ({"layers": 1.5}, "fraction that remains"),
        ({"layers": 0.5, "layer_criterion": "size"}, "choose one of damage, cosine"),
        ({"channels": 0.5, "linear_layers": True}, "give layers"),
    ],
)
def test_options_that_do_not_fit(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        graphprune.compile(deep(), **settings)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "deep.onnx"
    onnx.save(deep(), source)
    np.save(tmp_path / "data.npy", DATA)
    line = ["compile", str(source), "--layers", "0.5", "--calib", str(tmp_path / "data.npy")]
    assert run([*line, "--no-bench", "--report", str(tmp_path / "r.json")]) == 0
    out = capsys.readouterr().out
    assert "left out  2 layers" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert [cut["output"] for cut in report["layers"]] == ["h1", "h3"]
    assert run(["compile", str(source), "--layers", "half"]) == 2
    assert "neither a fraction nor 'auto'" in capsys.readouterr().err


def test_bench_of_base_and_original() -> None:
    """The analysis sees the model without layers, and costs count from the whole."""
    bench = Bench(deep())
    result = graphprune.compile(deep(), layers=0.5, **QUICK)
    assert result.report.original.params == really(bench.model, {"N": 2})[0]
    assert result.report.pruned.params < result.report.original.params
    assert any("made-up inputs" in line for line in result.report.warnings)
