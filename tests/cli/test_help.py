"""Help, version, and how quickly they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

from graphprune import __version__
from graphprune.cli import run
from graphprune.cli.app import COMMANDS

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "scipy", "networkx", "torch", "sympy")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from graphprune.cli import run; run(['--help']); run(['compile', '--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"graphprune {command}" in out


CONTRACT = {
    "compile": (
        "-o --channels --params --macs --align --criterion --scope --heads --head-dims --residual "
        "--only --exclude --group-ratio --plan --save-plan --report --json --dim --provider "
        "--threads --seed --no-bench --no-verify --allow-slower --overwrite --quiet"
    ),
    "inspect": "--dot --graphml --json",
    "apply": "-o --overwrite",
    "verify": "--plan",
    "bench": "--threads --provider",
    "explain": "--json",
    "zoo": "--json",
    "sparsify": (
        "--sparsity --scope --criterion --pattern --pattern-axis --calib --only --exclude --compile "
        "--save-plan -o --json --overwrite --no-bench"
    ),
    "pack": "-o --as --json --overwrite",
    "unpack": "-o --check --overwrite",
    "trim-vocab": "--tokenizer --corpus -o --tokenizer-out --json --overwrite",
}


@pytest.mark.parametrize("command", CONTRACT)
def test_the_contract_of_options(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run([command, "--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert [option for option in CONTRACT[command].split() if option not in words] == []


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"graphprune {__version__}\n"


def test_without_arguments_the_help_is_shown_and_the_code_says_usage(capsys):
    assert run([]) == 2
    assert "compile" in capsys.readouterr().out
