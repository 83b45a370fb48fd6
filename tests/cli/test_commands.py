"""Every command on real models, through to the files and figures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphprune import zoo
from graphprune.cli import run

NO_BENCH = ["--no-bench"]


@pytest.fixture
def pruned(model: Path) -> Path:
    plan = str(model.with_name("net.plan.json"))
    arguments = ["--channels", "0.5", "--save-plan", plan, "-q", *NO_BENCH]
    assert run(["compile", str(model), *arguments]) == 0
    return model.with_name("net.pruned.onnx")


def out_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_compile_halves_the_neurons(model, capsys):
    report = model.with_name("r.json")
    arguments = ["--channels", "0.5", "--report", str(report), "--json", *NO_BENCH]
    assert run(["compile", str(model), *arguments]) == 0
    shown = out_json(capsys)
    assert shown == json.loads(report.read_text())
    assert shown["source"] == str(model)
    assert (shown["original"]["params"], shown["pruned"]["params"]) == (32 * 9, 16 * 9)
    assert shown["original"]["macs"] == 2 * shown["pruned"]["macs"]
    assert shown["original"]["bytes"] == model.stat().st_size
    written = model.with_name("net.pruned.onnx")
    assert shown["pruned"]["bytes"] == written.stat().st_size
    assert shown["certificate"]["status"] == "exact"
    assert shown["certificate"]["max_abs_error"] < 1e-5
    (group,) = shown["groups"]
    assert (group["size_before"], group["size_after"], group["params_saved"]) == (32, 16, 144)
    assert shown["speedup"] is None
    assert shown["options"]["channels"] == 0.5
    assert set(shown["timings_s"]) >= {"load", "decide", "rewrite", "certify"}


def test_compile_times_both(model, capsys):
    assert run(["compile", str(model), "--channels", "0.5", "--json", "--allow-slower"]) == 0
    shown = out_json(capsys)
    for side in ("original", "pruned"):
        assert shown[side]["latency_ms"] > 0
        assert shown[side]["latency_iqr_ms"] >= 0
    latency = shown["latency"]
    assert latency["interval"][0] <= latency["ratio"] <= latency["interval"][1]
    assert latency["verdict"] in ("faster", "slower", "noise")
    assert (latency["threads"], latency["provider"]) == (1, "CPUExecutionProvider")


def test_the_input_is_untouched_and_its_interface_is_kept(model, pruned):
    before, after = onnx.load(model), onnx.load(pruned)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    weights = {t.name: tuple(t.dims) for t in before.graph.initializer}
    assert weights == {"w1": (6, 32), "w2": (32, 3)}


def test_apply_gives_the_same_bytes(model, pruned):
    again = model.with_name("again.onnx")
    plan = str(model.with_name("net.plan.json"))
    assert run(["apply", str(model), plan, "-o", str(again), "-q"]) == 0
    assert again.read_bytes() == pruned.read_bytes()
    assert run(["compile", str(model), "--plan", plan, "-o", str(again), "-q", "--overwrite"]) == 0
    assert again.read_bytes() == pruned.read_bytes()


def test_a_plan_of_another_model_is_refused(model, pruned, tmp_path, capsys):
    other = tmp_path / "other.onnx"
    changed = onnx.load(model)
    changed.doc_string = "another"
    onnx.save(changed, other)
    plan = str(model.with_name("net.plan.json"))
    assert run(["apply", str(other), plan]) == 2
    assert "another model" in capsys.readouterr().err
    assert not (tmp_path / "other.pruned.onnx").exists()


def test_verify_finds_the_plan_beside_the_model(model, pruned, capsys):
    assert run(["verify", str(model), str(pruned)]) == 0
    assert capsys.readouterr().out.startswith("Certificate: exact.")
    assert run(["verify", str(model), str(pruned), "--json"]) == 0
    assert out_json(capsys)["status"] == "exact"
    model.with_name("net.plan.json").unlink()
    assert run(["verify", str(model), str(pruned)]) == 2
    assert "--plan" in capsys.readouterr().err


def test_verify_catches_one_changed_weight(model, pruned, capsys):
    broken = onnx.load(pruned)
    tensor = next(t for t in broken.graph.initializer if t.name.startswith("w2"))
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[3, 1] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(broken, pruned)
    assert run(["verify", str(model), str(pruned)]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert run(["verify", str(model), str(pruned), "--json"]) == 4
    captured = capsys.readouterr()
    shown = json.loads(captured.out)
    assert shown["status"] == "failed"
    assert shown["first_difference"]
    assert captured.err.startswith("graphprune: error: ")


def test_bench_of_one_and_of_two(model, pruned, capsys):
    assert run(["bench", str(model), "--seconds", "0.2", "--json"]) == 0
    alone = out_json(capsys)
    assert alone["median_ms"] > 0
    assert alone["binding"]
    assert run(["bench", str(model), str(pruned), "--seconds", "0.2", "--json"]) == 0
    both = out_json(capsys)
    assert both["original"]["median_ms"] > 0
    assert both["runs_per_block"] == 10
    assert run(["bench", str(model), str(pruned), "--seconds", "0.2"]) == 0
    text = capsys.readouterr().out
    assert "pairs of blocks of 10" in text
    assert len(text.splitlines()) == 3


def test_bench_of_different_inputs_is_usage(model, capsys):
    other = zoo.get("resnet-fashion").path
    assert run(["bench", str(model), str(other)]) == 2
    assert "different inputs" in capsys.readouterr().err


def test_inspect_shows_groups_and_what_stays(model, capsys):
    assert run(["inspect", str(model)]) == 0
    text = capsys.readouterr().out
    assert "1 group, 32 units" in text
    assert "fc1" in text
    assert "cannot be pruned" in text
    assert run(["inspect", str(model), "--json"]) == 0
    shown = out_json(capsys)
    assert [(g["name"], g["size"]) for g in shown["groups"]] == [("fc1", 32)]


def test_inspect_draws(model, capsys):
    dot, graphml = model.with_name("g.dot"), model.with_name("g.graphml")
    command = ["inspect", str(model), "--dot", str(dot), "--graphml", str(graphml)]
    assert run(command) == 0
    assert capsys.readouterr().out
    text = dot.read_text()
    assert text.startswith("graph ")
    assert "w1[1] @ fc1" in text
    nodes = [e for e in ET.parse(graphml).iter() if e.tag.endswith("}node")]
    assert len(nodes) == text.count("[label=") - text.count(" -- ")
    assert run(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(["inspect", str(model), "--dot", "-"]) == 0
    assert capsys.readouterr().out == text


def test_explain(model, capsys):
    assert run(["explain", str(model), "fc1"]) == 0
    assert "can be pruned" in capsys.readouterr().out
    assert run(["explain", str(model), "y", "--json"]) == 0
    findings = out_json(capsys)["findings"]
    assert not any(f["prunable"] for f in findings)
    assert any("output" in f["reason"] for f in findings)
    assert run(["explain", str(model), "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_nothing_to_prune_is_code_6(model, capsys):
    assert run(["compile", str(model), "--channels", "0.5", "--only", "no-such-group*"]) in (2, 6)
    assert not model.with_name("net.pruned.onnx").exists()
    capsys.readouterr()
    assert run(["compile", str(model), "--channels", "0.5", "--exclude", "*", *NO_BENCH]) == 6
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unreachable_budget_is_code_5(model, capsys):
    assert run(["compile", str(model), "--params", "0.0001", *NO_BENCH]) == 5
    assert not model.with_name("net.pruned.onnx").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_zoo_lists_what_compile_takes(capsys):
    assert run(["zoo"]) == 0
    text = capsys.readouterr().out
    assert run(["zoo", "--json"]) == 0
    rows = out_json(capsys)
    assert [row["name"] for row in rows] == [f"zoo:{name}" for name in zoo.names()]
    assert all(row["name"] in text for row in rows)
    assert run(["compile", "zoo:none", "--channels", "0.5"]) == 2
    assert zoo.names()[0] in capsys.readouterr().err


def test_a_zoo_model_shows_its_accuracy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--channels", "0.75", "--json", *NO_BENCH]
    assert run(["compile", "zoo:resnet-fashion", *arguments]) == 0
    shown = out_json(capsys)
    assert shown["source"] == "zoo:resnet-fashion"
    metric = shown["metric"]
    assert metric["name"] == "accuracy"
    assert metric["original"] > 0.9
    assert metric["examples"] >= 1000
    session = ort.InferenceSession(tmp_path / "resnet-fashion.pruned.onnx")
    entry = zoo.get("resnet-fashion")
    again = entry.evaluate(lambda feeds: session.run(None, feeds))
    assert np.isclose(metric["pruned"], again)
