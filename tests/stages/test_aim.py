"""Goals: the search converges, tells its tries, and says what is closest where it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from rich.console import Console
from stage_nets import classifier, data
from workbench import really

import graphprune
import graphprune.compensation.run as compensation
import graphprune.latency.build as build
import graphprune.measure.latency as latency
from graphprune.damage.judge import Judge
from graphprune.data.feeds import read_calibration
from graphprune.errors import NothingGainedError, UnreachableTargetError
from graphprune.latency.profile import UNNAMED
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.report.terminal import print_report

QUICK: dict[str, Any] = {"bench": False, "align": 1, "verify": False}
CALIB = data(96)
_X = data(400, seed=5)
_wanted: list[Any] = []


def accuracy(session: Any) -> float:
    """How often a model chooses what the original does."""
    found = session.run(None, {"x": _X})[0].argmax(1)
    if not _wanted:
        with Session(canonicalise(load(classifier()).model)) as original:
            _wanted.append(original.run({"x": _X})["y"].argmax(1))
    return float((found == _wanted[0]).mean())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], list[float]]:
    """Time without a clock: a function of the share of multiply-adds, in place of measuring."""

    def install(time_of: Callable[[float], float]) -> list[float]:
        measured: list[float] = []

        def compare(original: ir.Model, pruned: ir.Model, *_: Any, **__: Any) -> Any:
            share = really(pruned, {"N": 1})[1] / really(original, {"N": 1})[1]
            measured.append(time_of(share))

            class Found:
                ratio = 1 / measured[-1]

            return Found()

        def profile(model: ir.Model, *_: Any, **__: Any) -> dict[str, float]:
            return {UNNAMED: really(model, {"N": 1})[1] / 1e3}

        monkeypatch.setattr(latency, "compare_latency", compare)
        monkeypatch.setattr(build, "profile", profile)
        return measured

    return install


@pytest.mark.parametrize(
    ("time_of", "asked"),
    [
        (lambda share: share, 0.5),
        (lambda share: 0.3 + 0.7 * share, 0.5),
        (lambda share: share**0.5, 0.6),
        (lambda share: share**2, 0.7),
    ],
    ids=["as predicted", "fixed cost", "slower than predicted", "faster than predicted"],
)
def test_measured_time_becomes_what_was_asked_for(time_of: Any, asked: float, clock: Any) -> None:
    measured = clock(time_of)
    result = graphprune.compile(classifier(), latency=asked, **QUICK)
    search = result.report.to_json()["search"]
    assert search["goal"] == "latency"
    assert search["target"] == asked
    made = [t["found"] for t in search["tries"] if t["budget"] < 1]
    assert made == pytest.approx(measured)
    assert len(measured) <= 6
    assert search["reached"] <= 1.05 * asked
    share = result.report.pruned.macs / result.report.original.macs
    assert time_of(share) == pytest.approx(search["reached"]), "the result is the try"
    assert search["reached"] == pytest.approx(asked, rel=0.07)
    assert result.report.options["latency"] == asked, "the report says what the user said"


def test_milliseconds_are_a_share_of_the_originals(clock: Any, monkeypatch: Any) -> None:
    clock(lambda share: share)

    class Whole:
        median_ms = 4.0

    monkeypatch.setattr(latency, "time_model", lambda *_, **__: Whole())
    result = graphprune.compile(classifier(), latency_ms=2.0, **QUICK)
    assert result.report.search["target"] == 0.5
    assert result.report.search["reached"] == pytest.approx(0.5, rel=0.07)
    with pytest.raises(NothingGainedError, match="already as fast"):
        graphprune.compile(classifier(), latency_ms=4.5, **QUICK)
    with pytest.raises(NothingGainedError, match="already as fast"):
        graphprune.compile(classifier(), latency=1.0, **QUICK)


def test_time_that_does_not_fall_is_code_5_with_the_closest(clock: Any) -> None:
    measured = clock(lambda share: 0.8 + 0.1 * share)
    with pytest.raises(UnreachableTargetError, match="closest that was found") as caught:
        graphprune.compile(classifier(), latency=0.4, **QUICK)
    assert caught.value.exit_code == 5
    assert f"{min(measured):.3f} of the original's time" in str(caught.value)
    assert "0.400 was asked for" in str(caught.value)


def test_a_search_that_overshoots_comes_back(clock: Any) -> None:
    """The first try is much faster than asked: the next budget would be more than everything."""
    clock(lambda share: share**6)
    result = graphprune.compile(classifier(), latency=0.9, **QUICK)
    search = result.report.search
    assert search["reached"] <= 0.9 * 1.05
    assert result.report.pruned.macs < result.report.original.macs


@pytest.mark.parametrize("drop", [0.02, 0.1])
def test_the_drop_holds_and_more_would_not_fit(drop: float) -> None:
    result = graphprune.compile(classifier(), max_drop=drop, eval=accuracy, calib=CALIB, **QUICK)
    metric, search = result.report.metric, result.report.search
    assert metric.original - metric.pruned <= drop + 1e-9
    assert search["reached"] == pytest.approx(metric.original - metric.pruned)
    assert search["goal"] == "max_drop"
    assert 1 < len(search["tries"]) <= 12
    share = result.report.pruned.macs / result.report.original.macs
    assert share < 0.95
    near = [t for t in search["tries"] if share - 0.1 < t["budget"] < share - 1e-9]
    assert not near or all(t["found"] is None or t["found"] > drop for t in near)
    assert result.report.options["macs"] is None
    console = Console(width=120, record=True)
    print_report(console, result.report)
    (line,) = (x for x in console.export_text().splitlines() if "Searched: " in x)
    assert f"at most {drop:.3g} was asked for ({len(search['tries'])} tries)" in line


def test_more_may_be_lost_then_more_is_pruned() -> None:
    shares = []
    for most in (0.05, 0.2, 0.6):
        result = graphprune.compile(classifier(), max_divergence=most, calib=CALIB, **QUICK)
        original = canonicalise(load(classifier()).model)
        feeds = [b.feeds for b in read_calibration(CALIB, original).judge]
        found = Judge(original, feeds).damage(result.model) ** 0.5
        assert found <= most
        assert found == pytest.approx(result.report.search["reached"], rel=1e-3)
        shares.append(result.report.pruned.macs / result.report.original.macs)
    assert shares[0] > shares[1] > shares[2]


def test_a_limit_that_nothing_meets_is_code_5_with_the_closest() -> None:
    with pytest.raises(UnreachableTargetError, match="the model loses 0"):
        graphprune.compile(classifier(), max_divergence=1e-9, calib=CALIB, **QUICK)


def test_a_limit_beside_a_budget_judges_the_one_model() -> None:
    given: dict[str, Any] = {"macs": 0.7, "calib": CALIB, **QUICK}
    result = graphprune.compile(classifier(), max_divergence=0.9, **given)
    assert len(result.report.search["tries"]) == 1
    plain = graphprune.compile(classifier(), **given)
    assert result.plan.dumps() == plain.plan.dumps()
    with pytest.raises(UnreachableTargetError, match="cannot be met within max_divergence 1e-06"):
        graphprune.compile(classifier(), max_divergence=1e-6, **given)
    with pytest.raises(UnreachableTargetError, match="MAC target cannot be reached"):
        graphprune.compile(classifier(), max_divergence=0.9, **{**given, "macs": 1e-4})


def test_the_same_search_twice_gives_the_same_weights() -> None:
    given: dict[str, Any] = {"max_divergence": 0.2, "calib": CALIB, **QUICK}
    one, two = (graphprune.compile(classifier(), **given) for _ in range(2))
    assert one.plan.dumps() == two.plan.dumps()
    assert one.report.search == two.report.search
    for name, value in one.model.graph.initializers.items():
        np.testing.assert_array_equal(
            value.const_value.numpy(), two.model.graph.initializers[name].const_value.numpy()
        )


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"max_divergence": 0.2}, None),
        ({"macs": 0.4, "scope": "sensitivity"}, 3),
        ({"latency": 0.6}, 1),
    ],
    ids=["search", "widths of least damage", "time"],
)
def test_no_plan_is_refitted_twice(
    settings: dict[str, Any], most: int | None, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner of a search is not refitted again, and what is only timed not at all."""
    clock(lambda share: share)
    plans: list[str] = []
    real = compensation.compensate

    def counted(original: ir.Model, pruned: ir.Model, plan: Any, *rest: Any, **more: Any) -> Any:
        plans.append(plan.sha256)
        return real(original, pruned, plan, *rest, **more)

    monkeypatch.setattr(compensation, "compensate", counted)
    result = graphprune.compile(classifier(), calib=CALIB, **settings, **QUICK)
    assert result.report.drift.refitted
    assert result.plan.sha256 in plans
    assert len(plans) == len(set(plans))
    assert most is None or len(plans) <= most
