from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from graphprune.cut import Cut
from graphprune.errors import UsageError
from graphprune.measure.latency import Latency, Timing, Verdict
from graphprune.plan import GroupChoice, InitializerCut, Plan, Unpruned
from graphprune.report.groups import group_reports
from graphprune.report.model import GroupReport, Metric, Report, Side
from graphprune.report.terminal import headline, print_report


def latency(ratio: float = 2.31, spread: float = 0.02, verdict: Verdict = "faster") -> Latency:
    return Latency(
        original=Timing(1.003, 0.012, 64),
        pruned=Timing(1.003 / ratio, 0.008, 64),
        ratio=ratio,
        interval=(ratio - spread, ratio + spread),
        confidence=0.992,
        verdict=verdict,
        blocks=8,
        runs_per_block=10,
        discarded=2,
        threads=1,
        provider="CPUExecutionProvider",
    )


def report(groups: int = 3, **changes: object) -> Report:
    made = Report(
        version="0.1.0",
        source="zoo:resnet-fashion",
        source_sha256="ab" * 32,
        plan_sha256="cd" * 32,
        options={"channels": 0.5, "align": "auto"},
        original=Side(272_474, 31_240_000, 1_105_000, 1.003, 0.012, 262_144),
        pruned=Side(70_012, 8_100_000, 292_000, 0.434, 0.008, 131_072),
        latency=latency(),
        certificate={
            "status": "exact",
            "max_abs_error": 3.1e-7,
            "max_rel_error": 1e-6,
            "bindings": [{"n": 2}, {"n": 3}],
            "statistics_nodes": [],
        },
        groups=tuple(
            GroupReport(
                f"/layer{i}/block/conv1/Conv", "channel", 16, 8, ((f"w{i}", 0),), tuple(range(8)), i
            )
            for i in range(groups)
        ),
        unpruned=(
            Unpruned("/fc/Gemm", "it feeds the graph output 'logits'"),
            Unpruned("/aux/Gemm", "it feeds the graph output 'logits'"),
            Unpruned("/stem/Conv", "it reads the graph input 'image'"),
        ),
        timings_s={"load": 0.01, "analyse": 0.02},
        warnings=("fine-tune it",),
        metric=Metric("accuracy", 0.9247, 0.1033, 10_000),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def text(
    made: Report, width: int = 100, next_steps: tuple[str, ...] = (), **console: object
) -> str:
    recorder = Console(width=width, record=True, file=open("/dev/null", "w"), **console)  # type: ignore[arg-type]  # noqa: SIM115
    print_report(recorder, made, next_steps)
    return recorder.export_text()


def test_json_holds_the_contract():
    data = report().to_json()
    for side in ("original", "pruned"):
        assert set(data[side]) >= {"params", "macs", "bytes", "latency_ms", "latency_iqr_ms"}
    assert data["speedup"] == 2.31
    assert set(data["certificate"]) >= {
        *("status", "max_abs_error", "max_rel_error", "bindings", "statistics_nodes"),
    }
    group = data["groups"][0]
    assert (group["size_before"], group["size_after"], group["kept"]) == (16, 8, list(range(8)))
    assert group["members"] == [{"name": "w0", "axis": 0}]
    assert data["unpruned"][0] == {
        "node": "/fc/Gemm",
        "reason": "it feeds the graph output 'logits'",
        "group": "",
    }
    assert list(data["timings_s"]) == ["load", "analyse"]
    assert data["warnings"] == ["fine-tune it"]


def test_text_is_stable_json_with_sorted_keys(tmp_path: Path):
    assert report().dumps() == report().dumps()
    data = json.loads(report().dumps())
    assert list(data) == sorted(data)
    report().save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == data


def test_a_folder_that_does_not_exist_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot write"):
        report().save(tmp_path / "none" / "r.json")


def test_what_was_not_measured_is_null():
    data = json.loads(report(latency=None, certificate=None, metric=None).dumps())
    assert (data["speedup"], data["latency"], data["certificate"]) == (None, None, None)


def test_noise_too_high_gives_no_speedup():
    noisy = latency(ratio=1.2, spread=0.4, verdict="noise")
    assert report(latency=noisy).to_json()["speedup"] is None
    assert "noise too high" in text(report(latency=noisy))
    assert "x faster" not in headline(report(latency=noisy)).plain


def plan(groups: list[GroupChoice], uses: list[InitializerCut]) -> Plan:
    return Plan("00", tuple(groups), {}, tuple(uses))


def cut(axis: int, size: int, kept: int) -> Cut:
    return Cut(axis, size, np.arange(kept))


def test_savings_add_up_to_the_weights_that_leave():
    """A matrix [8, 16] loses half of its rows and three quarters of its columns."""
    made = plan(
        [
            GroupChoice("a", "channel", 8, tuple(range(4)), members=(("w", 0),)),
            GroupChoice("b", "channel", 16, tuple(range(4)), members=(("w", 1), ("v", 0))),
            GroupChoice("whole", "channel", 5, tuple(range(5)), members=(("u", 0),)),
        ],
        [
            InitializerCut("w", "n", 1, (cut(0, 8, 4), cut(1, 16, 4))),
            InitializerCut("v", "m", 1, (cut(0, 16, 4),)),
            InitializerCut("v", "other", 1, (cut(0, 16, 4),)),  # a second use of the same weight
        ],
    )
    reports = group_reports(made, {"w": (8, 16), "v": (16, 10), "u": (5,)})
    assert [r.name for r in reports] == ["a", "b"]  # a group that lost nothing is not listed
    saved = {r.name: r.params_saved for r in reports}
    # w loses 128 - 16 = 112, of which halving takes a third (log 2 of log 8); v loses 120.
    assert saved == {"a": round(112 / 3), "b": round(112 * 2 / 3 + 120)}


def test_groups_behind_a_concat_share_a_saving_by_the_units_they_lose():
    made = plan(
        [
            GroupChoice("a", "channel", 4, (0, 1, 2), members=(("w", 1),)),
            GroupChoice("b", "channel", 6, (0, 1, 2), members=(("w", 1),)),
        ],
        [InitializerCut("w", "n", 1, (cut(1, 10, 6),))],
    )
    saved = {r.name: r.params_saved for r in group_reports(made, {"w": (3, 10)})}
    assert saved == {"a": 3, "b": 9}


def test_the_first_line_says_it_all():
    assert headline(report()).plain == (
        "resnet-fashion  2.31x faster, 74 % fewer parameters, 74 % fewer MACs"
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("groups", [1, 40])
def test_no_line_is_wider_than_the_terminal(width, groups):
    lines = text(report(groups), width, force_terminal=True).splitlines()
    assert max(map(len, lines)) <= width
    assert any("params" in line for line in lines)


def test_everything_a_reader_looks_for_is_there():
    shown = text(report(), next_steps=("Wrote net.pruned.onnx.",))
    for part in (
        *("272 k", "70.0 k", "-74 %", "1.00 ms", "0.43 ms", "2.31x (2.29x to 2.33x), 1 thread"),
        *("92.5 %", "10.3 %", "-82.1 points on 10,000 examples", "Certificate: exact", "3.1e-07"),
        *("pruned  3 groups", "left as it was  3 places", "/fc/Gemm, /aux/Gemm"),
        *("warning: fine-tune it", "Wrote net.pruned.onnx."),
    ):
        assert part in shown, part


def test_many_groups_are_summed_up_without_losing_any():
    shown = text(report(40))
    assert "and 28 smaller ones" in shown
    assert str(sum(range(28))) in shown


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (None, "Not verified"),
        ({"status": "failed", "max_abs_error": 0.5}, "failed"),
        (
            {"status": "statistics", "max_abs_error": 1e-6, "statistics_nodes": ["a", "b"]},
            "2 norms are taken over what stays",
        ),
    ],
)
def test_certificate_in_words(certificate, words):
    assert words in text(report(certificate=certificate))


def test_plain_in_a_pipe(tmp_path: Path):
    with (tmp_path / "out").open("w") as file:
        print_report(Console(file=file, width=100), report(), ("a" * 150,))
    lines = (tmp_path / "out").read_text().splitlines()
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)
    assert "a" * 150 in lines


def test_brackets_in_names_are_no_markup():
    odd = GroupReport("[red]conv[/red][0]", "channel", 4, 2, (), (0, 1))
    assert "[red]conv[/red][0]" in text(replace(report(), groups=(odd,)))
