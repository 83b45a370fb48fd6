"""Every way to end: its exit code, one line on stderr, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from cli_stand_ins import mlp, result

from graphprune import errors
from graphprune.cli import run


def only(folder: Path, *names: str) -> bool:
    """Whether the folder holds nothing else, hidden files included."""
    return sorted(p.name for p in folder.iterdir()) == sorted(names)


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("graphprune: error: ")
    return captured.err


def test_done(model, pipeline, capsys):
    pipeline(result)
    assert run(["compile", str(model), "--channels", "0.5"]) == 0
    assert only(model.parent, "net.onnx", "net.pruned.onnx")
    assert "fc1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2),
        (errors.UnsupportedModelError("x"), 3),
        (errors.CertificateError("x"), 4),
        (errors.UnreachableTargetError("x"), 5),
        (errors.NothingGainedError("x"), 6),
        (errors.GraphpruneError("x"), 1),
    ],
)
def test_errors_of_the_pipeline(error, code, model, pipeline, capsys):
    def fail():
        raise error

    pipeline(fail)
    assert run(["compile", str(model), "--channels", "0.5"]) == code
    assert one_line(capsys) == "graphprune: error: x\n"
    assert only(model.parent, "net.onnx")


def test_a_bug_is_one_line_with_a_hint(model, pipeline, capsys, monkeypatch):
    monkeypatch.delenv("GRAPHPRUNE_TRACEBACK", raising=False)
    pipeline(lambda: 1 / 0)
    assert run(["compile", str(model), "--channels", "0.5"]) == 1
    line = one_line(capsys)
    assert "internal error: ZeroDivisionError" in line
    assert "GRAPHPRUNE_TRACEBACK=1" in line
    monkeypatch.setenv("GRAPHPRUNE_TRACEBACK", "1")
    assert run(["compile", str(model), "--channels", "0.5"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_many_lines_of_a_message_become_one(model, pipeline, capsys):
    def fail():
        raise errors.UnsupportedModelError("first\n  second")

    pipeline(fail)
    assert run(["compile", str(model), "--channels", "0.5"]) == 3
    assert one_line(capsys) == "graphprune: error: first second\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--channels", "0"], "0 < R <= 1"),
        (["--channels", "1.5"], "0 < R <= 1"),
        (["--params", "nan"], "0 < R <= 1"),
        (["--macs", "-0.5"], "0 < R <= 1"),
        (["--channels", "half"], "--channels"),
        ([], "--channels R"),
        (["--channels", "0.5", "--macs", "0.5"], "--channels and --macs exclude each other"),
        (["--channels", "0.5", "--align", "0"], "--align"),
        (["--channels", "0.5", "--align", "some"], "--align"),
        (["--channels", "0.5", "--scope", "galaxy"], "local, global"),
        (["--channels", "0.5", "--dim", "n"], "NAME=SIZE"),
        (["--channels", "0.5", "--dim", "n=0"], "NAME=SIZE"),
        (["--channels", "0.5", "--dim", "n=2", "--dim", "n=3"], "two sizes"),
        (["--group-ratio", "fc1"], "GLOB=R"),
        (["--group-ratio", "fc1=2"], "0 <= R <= 1"),
        (["--channels", "0.5", "--threads", "0"], "--threads"),
        (["--channels", "0.5", "--seed", "-1"], "--seed"),
        (["--channels", "0.5", "--plan", "p.json"], "--plan"),
        (["--plan", "none.json"], "none.json"),
        (["--channels", "0.5", "--nonsense"], "--nonsense"),
        (["--channels", "0.5", "extra"], "extra"),
    ],
)
def test_usage(arguments, words, model, pipeline, capsys):
    calls = pipeline(result)
    assert run(["compile", str(model), *arguments]) == 2
    assert words in one_line(capsys)
    assert calls == []
    assert only(model.parent, "net.onnx")


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "none.onnx", "--channels", "0.5"],
        ["inspect", "none.onnx"],
        ["explain", "none.onnx", "fc1"],
        ["apply", "none.onnx", "p.json"],
        ["verify", "none.onnx", "none.onnx"],
        ["bench", "none.onnx"],
        ["nonsense"],
    ],
)
def test_missing_files_and_unknown_commands_are_usage(command, capsys):
    assert run(command) == 2
    assert command[-1 if command == ["nonsense"] else 1] in one_line(capsys)


def test_output_equal_to_the_input_is_refused_even_with_overwrite(model, pipeline, capsys):
    calls = pipeline(result)
    before = model.read_bytes()
    alias = model.with_name("alias.onnx")
    alias.symlink_to(model)
    hard = model.with_name("hard.onnx")
    os.link(model, hard)
    for target in (model, alias, hard, model.parent / "." / "net.onnx"):
        arguments = ["--channels", "0.5", "-o", str(target), "--overwrite"]
        assert run(["compile", str(model), *arguments]) == 2
        assert "input" in one_line(capsys)
    assert calls == []
    assert model.read_bytes() == before


def test_external_data_of_the_input_is_not_overwritten(tmp_path, pipeline, capsys):
    """`b.onnx` may get its weights in `b.onnx.data`, which is where the input keeps its own."""
    source = tmp_path / "a.onnx"
    ir.save(mlp(), source, external_data="b.onnx.data", size_threshold_bytes=0)
    calls = pipeline(result)
    command = ["compile", str(source), "--channels", "0.5", "-o", str(tmp_path / "b.onnx")]
    assert run([*command, "--overwrite"]) == 2
    assert "weights of the input" in one_line(capsys)
    assert calls == []


@pytest.mark.parametrize("option", ["-o", "--report", "--save-plan"])
def test_an_existing_output_needs_overwrite(option, model, pipeline, capsys, tmp_path):
    calls = pipeline(result)
    target = tmp_path / "there"
    target.write_text("mine")
    command = ["compile", str(model), "--channels", "0.5", option, str(target)]
    assert run(command) == 2
    assert "--overwrite" in one_line(capsys)
    assert (calls, target.read_text()) == ([], "mine")
    assert run([*command, "--overwrite"]) == 0
    assert target.read_bytes() != b"mine"


def test_the_default_output_needs_overwrite_too(model, pipeline, capsys):
    pipeline(result)
    model.with_name("net.pruned.onnx").write_text("mine")
    assert run(["compile", str(model), "--channels", "0.5"]) == 2
    assert "--overwrite" in one_line(capsys)


def test_unwritable_outputs_are_found_before_the_work(model, pipeline, capsys, tmp_path):
    calls = pipeline(result)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for target in ("none/out.onnx", "folder", "file/out.onnx"):
        assert run(["compile", str(model), "--channels", "0.5", "-o", str(tmp_path / target)]) == 2
        one_line(capsys)
    same = str(tmp_path / "same")
    assert run(["compile", str(model), "--channels", "0.5", "-o", same, "--report", same]) == 2
    assert "both write" in one_line(capsys)
    assert run(["compile", str(model), "--channels", "1", "-o", "/dev/null", "--overwrite"]) == 2
    assert "no ordinary file" in one_line(capsys)
    assert calls == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(model, pipeline, capsys, tmp_path):
    calls = pipeline(result)
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert run(["compile", str(model), "--channels", "0.5", "-o", str(folder / "o.onnx")]) == 2
    assert "cannot write" in one_line(capsys)
    assert calls == []


def test_a_full_disk_leaves_nothing(model, pipeline, capsys, monkeypatch, tmp_path):
    """The model still fits, the report does not."""
    pipeline(result)
    real = os.fsync
    state = {"count": 0}

    def full(handle):
        state["count"] += 1
        if state["count"] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    monkeypatch.setattr(os, "fsync", full)
    report = str(tmp_path / "r.json")
    assert run(["compile", str(model), "--channels", "0.5", "--report", report]) == 2
    assert "No space left" in one_line(capsys)
    assert only(model.parent, "net.onnx")


def test_not_onnx_is_an_unsupported_model(tmp_path, capsys):
    path = tmp_path / "x.onnx"
    path.write_text("this is no model")
    assert run(["bench", str(path)]) == 3
    one_line(capsys)


def test_json_names_the_reason(model, pipeline, capsys):
    def fail():
        raise errors.NothingGainedError("no group could be pruned")

    pipeline(fail)
    assert run(["compile", str(model), "--channels", "0.5", "--json"]) == 6
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "error": {
            "exit_code": 6,
            "kind": "NothingGainedError",
            "message": "no group could be pruned",
        }
    }
    assert captured.err == "graphprune: error: no group could be pruned\n"


def test_what_is_written_is_a_model(model, pipeline):
    pipeline(result)
    target = model.with_name("out.onnx")
    assert run(["compile", str(model), "--channels", "0.5", "-o", str(target), "-q"]) == 0
    onnx.checker.check_model(onnx.load(target))
