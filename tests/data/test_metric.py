"""The user's own metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune.data.metric import load_metric
from graphprune.errors import UsageError
from graphprune.onnx.load import load

WEIGHTS = {"w": drawn(8, 64), "v": drawn(64, 4)}
PROTO = from_text("h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)", WEIGHTS)
X = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)
Y = np.maximum(X @ WEIGHTS["w"], 0) @ WEIGHTS["v"]


def closeness(session: Any) -> float:
    """1 where the outputs are those of the original."""
    (x,) = session.get_inputs()
    (y,) = session.get_outputs()
    (found,) = session.run([y.name], {x.name: X})
    return 1 - float(np.linalg.norm(found - Y) / np.linalg.norm(Y))


def test_it_is_called_with_a_session_of_the_model() -> None:
    metric = load_metric(closeness)
    assert metric.name == "closeness"
    assert metric(load(PROTO).model) == pytest.approx(1, abs=1e-5)


def test_the_report_has_it_of_both_models() -> None:
    result = graphprune.compile(PROTO, channels=0.5, bench=False, eval=closeness)
    metric = result.report.metric
    assert metric is not None
    assert metric.name == "closeness"
    assert metric.original == pytest.approx(1, abs=1e-5)
    assert metric.pruned == load_metric(closeness)(result.model)
    assert metric.pruned < 0.9
    assert result.report.options["eval"] == "given in memory"


def test_a_callable_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metric_for_test.py").write_text("def shape(s): return len(s.get_inputs())\n")
    monkeypatch.chdir(tmp_path)
    assert load_metric("metric_for_test:shape")(load(PROTO).model) == 1.0
    with pytest.raises(UsageError, match="cannot import metric metric_for_test:absent"):
        load_metric("metric_for_test:absent")
    with pytest.raises(UsageError, match="is not module:callable"):
        load_metric("metric_for_test")
    with pytest.raises(UsageError, match="eval is int"):
        load_metric(3)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.25), np.array([0.75]), np.array(2)])
def test_what_counts_as_a_number(value: Any) -> None:
    assert load_metric(lambda s: value)(load(PROTO).model) == float(np.asarray(value).reshape(()))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "gave NoneType and not one number"),
        ("0.5", "gave str"),
        ([0.1, 0.2], "gave list"),
        (True, "gave bool"),
        (float("nan"), "gave nan"),
        (np.inf, "gave inf"),
    ],
)
def test_what_does_not(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_metric(lambda s: value)(load(PROTO).model)
    assert "\n" not in str(caught.value)


def test_one_that_raises_is_told_before_anything_is_pruned() -> None:
    stages: list[str] = []

    def broken(session: Any) -> float:
        raise KeyError("no\nlabels")

    with pytest.raises(UsageError, match=r"--eval broken raised KeyError: 'no\\nlabels'"):
        graphprune.compile(
            PROTO, channels=0.5, bench=False, eval=broken, progress=lambda s, *_: stages.append(s)
        )
    assert stages == ["load", "run"]
