"""The report is put together from both graphs and the plan; every number against its own count."""

from __future__ import annotations

import json

import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, really

from graphprune.certify.certificate import Certificate
from graphprune.onnx.save import save
from graphprune.onnx.subject import decide_model as decide
from graphprune.options import Options
from graphprune.report.build import build_report
from graphprune.report.model import Report


@pytest.fixture(scope="module")
def pair() -> tuple[Bench, ir.Model, Report]:
    bench = Bench(NETWORKS["resnet"]())
    options = Options(channels=0.5, align=1)
    plan, _ = decide(bench.model, bench.shapes, options, bench.loaded.sha256, lambda *_: None)
    pruned = bench.pruned(plan)
    report = build_report(
        bench.model,
        pruned,
        plan,
        bench.bindings[0],
        source="net.onnx",
        options=options,
        certificate=Certificate("exact", weak=("a weak point",)),
        latency=None,
        timings={"load": 0.5},
        warnings=["look out"],
        original_bytes=bench.loaded.original_size_bytes,
    )
    return bench, pruned, report


def test_sizes_are_those_of_the_graphs(pair: tuple[Bench, ir.Model, Report]) -> None:
    bench, pruned, report = pair
    for side, model in ((report.original, bench.model), (report.pruned, pruned)):
        assert (side.params, side.macs) == really(model, bench.bindings[0])
        assert side.peak_activation_bytes > 0
        assert side.latency_ms is None
    assert report.pruned.peak_activation_bytes < report.original.peak_activation_bytes
    assert report.original.bytes == bench.loaded.original_size_bytes


def test_bytes_are_those_of_the_file(pair, tmp_path) -> None:
    _, pruned, report = pair
    (file,) = save(pruned, tmp_path / "pruned.onnx")
    assert report.pruned.bytes == file.stat().st_size


def test_names_hashes_notes(pair: tuple[Bench, ir.Model, Report]) -> None:
    bench, _, report = pair
    assert report.source == "net.onnx"
    assert report.source_sha256 == bench.loaded.sha256
    assert len(report.plan_sha256) == 64
    assert report.warnings == ("look out", "a weak point")
    assert any("output 'y'" in u.reason for u in report.unpruned)
    assert report.certificate["status"] == "exact"
    assert report.options["channels"] == 0.5
    assert report.speedup is None


def test_groups_are_credited_with_what_left(pair: tuple[Bench, ir.Model, Report]) -> None:
    bench, _, report = pair
    assert [(g.name, g.before, g.after) for g in report.groups] == [
        ("stem", 16, 8),
        ("one.conv1", 16, 8),
        ("two.conv1", 32, 16),
        ("two.conv2", 32, 16),
    ]
    saved = report.original.params - report.pruned.params
    assert abs(sum(g.params_saved for g in report.groups) - saved) <= len(report.groups)
    for entry in report.groups:
        assert len(entry.kept) == entry.after
        assert entry.params_saved > 0
        group = bench.graph.by_name[entry.name]
        assert set(entry.members) == {(m.site.name, m.axis) for m in group.members}


def test_it_is_json(pair: tuple[Bench, ir.Model, Report]) -> None:
    _, _, report = pair
    data = json.loads(report.dumps())
    for side in ("original", "pruned"):
        assert {"params", "macs", "bytes", "latency_ms"} <= set(data[side])
    assert {"status", "max_abs_error", "max_rel_error", "bindings", "statistics_nodes"} <= set(
        data["certificate"]
    )
