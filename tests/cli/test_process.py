"""The program as a process: signals, pipes, terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# The real program with a pipeline that takes as long as the test wants.
PROGRAM = """
import pathlib, sys, time
sys.path.insert(0, {here!r})
import cli_stand_ins
import graphprune.pipeline as pipeline

def wait():
    pathlib.Path({ready!r}).touch()
    time.sleep(60)

def compile(*_, progress=None, **__):
    print("a library that prints")
    if progress is not None:
        progress("certify", 0.5)
        time.sleep(0.3 if sys.stderr.isatty() else 0)
    if {where!r} == "pipeline":
        wait()
    return cli_stand_ins.result()

pipeline.compile = compile
if {where!r} == "save":
    import graphprune.onnx.save as save
    save._flush = lambda path: wait()
from graphprune.cli import main
main()
"""


def start(tmp_path: Path, *arguments: str, where: str = "", **options) -> subprocess.Popen:
    ready = tmp_path / "ready"
    code = PROGRAM.format(here=str(HERE), ready=str(ready), where=where)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        # A shell's background jobs inherit an ignored SIGINT, and so would this program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("where", ["pipeline", "save"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_file(number, code, where, model, tmp_path_factory):
    aside = tmp_path_factory.mktemp("aside")
    process = start(aside, "compile", str(model), "--channels", "0.5", where=where)
    deadline = time.monotonic() + 60
    while not (aside / "ready").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    returned, out, err = finish(process)
    assert returned == code
    assert out == ""
    assert err.splitlines()[-1].startswith("graphprune: ")
    assert "nothing was written" in err
    assert "Traceback" not in err
    assert [p.name for p in model.parent.iterdir()] == ["net.onnx"]


def test_json_is_all_there_is_on_stdout(model, tmp_path):
    code, out, err = finish(start(tmp_path, "compile", str(model), "--channels", "0.5", "--json"))
    assert code == 0, err
    assert json.loads(out)["pruned"]["params"] == 144
    assert "a library that prints" in err


def test_a_pipe_gets_plain_text_and_no_progress(model, tmp_path):
    code, out, err = finish(start(tmp_path, "compile", str(model), "--channels", "0.5"))
    assert code == 0, err
    assert "\x1b" not in out + err
    assert "certify" not in err
    assert "Wrote" in out


def test_quiet_prints_nothing(model, tmp_path):
    process = start(tmp_path, "compile", str(model), "--channels", "0.5", "--quiet")
    code, out, _ = finish(process)
    assert (code, out) == (0, "")
    assert model.with_name("net.pruned.onnx").exists()


def test_a_reader_that_leaves_is_no_error(model, tmp_path):
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, "compile", str(model), "--channels", "0.5", stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.skipif(not hasattr(pty, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_gets_colour_and_progress(model, tmp_path):
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    process = start(
        tmp_path,
        *("compile", str(model), "--channels", "0.5"),
        stdout=follower,
        stderr=follower,
        env={**environment, "TERM": "xterm-256color"},
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            data = os.read(leader, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        seen += data
    assert process.wait(timeout=60) == 0
    os.close(leader)
    assert b"\x1b[1m" in seen
    assert b"certify" in seen
    assert b"fewer parameters" in seen
