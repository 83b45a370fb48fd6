"""The `graphprune` program: its commands, its exit codes, and how it ends.

Every way to end is one of these: the exit codes of `graphprune.errors`; 2 for a wrong command line;
1 with one line for a bug; 130 and 143 after Ctrl-C and SIGTERM; 141 when the reader of a pipe left.
"""

from __future__ import annotations

import contextlib
import inspect as inspection
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from graphprune.cli.apply import apply
from graphprune.cli.bench import bench
from graphprune.cli.compile import compile_
from graphprune.cli.explain import explain
from graphprune.cli.inspect import inspect
from graphprune.cli.pack import pack
from graphprune.cli.sensitivity import sensitivity
from graphprune.cli.sparsify import sparsify
from graphprune.cli.trim_vocab import trim_vocab
from graphprune.cli.unpack import unpack
from graphprune.cli.verify import verify
from graphprune.cli.zoo import zoo
from graphprune.errors import GraphpruneError

app = typer.Typer(
    name="graphprune",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from graphprune import __version__

        typer.echo(f"graphprune {__version__}")
        raise typer.Exit


def _reflowed(function: Callable[..., None]) -> str:
    """A docstring with one line for each paragraph: the terminal wraps it, whatever its width."""
    paragraphs = inspection.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Show the version.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Structured pruning as a compiler for ONNX graphs.

    Removes whole channels, neurons and heads, writes a smaller ONNX file with the same inputs and
    outputs, proves that it computes what the masked original computes, and times both in
    onnxruntime. Every ratio is the fraction that [bold]remains[/bold].

    Exit codes: 0 done, 1 internal error, 2 usage, 3 model unsupported or invalid, 4 certificate
    failed, 5 target unreachable, 6 nothing gained.
    """


COMMANDS: dict[str, Callable[..., None]] = {
    "compile": compile_,
    "sensitivity": sensitivity,
    "inspect": inspect,
    "explain": explain,
    "apply": apply,
    "verify": verify,
    "bench": bench,
    "sparsify": sparsify,
    "pack": pack,
    "unpack": unpack,
    "trim-vocab": trim_vocab,
    "zoo": zoo,
}
app.callback(help=_reflowed(program))(program)
for _name, _command in COMMANDS.items():
    app.command(_name, help=_reflowed(_command))(_command)


class Terminated(BaseException):
    """A signal asked the process to end; like KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> None:
    """Entry point of the `graphprune` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Nothing but SystemExit ever leaves."""
    as_json = "--json" in arguments
    try:
        with _signals():
            code = _invoke(list(arguments))
            sys.stdout.flush()
            return code
    except GraphpruneError as error:
        return _fail(error.exit_code, type(error).__name__, str(error), as_json)
    except KeyboardInterrupt:
        return _fail(130, "Interrupted", "interrupted, nothing was written", as_json)
    except Terminated as end:
        return _fail(128 + end.number, "Interrupted", "terminated, nothing was written", as_json)
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain once more while closing stdout.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        usage = _usage_message(error)
        if usage is not None:
            return _fail(2, "UsageError", usage, as_json)
        return _internal(error, as_json)


def _invoke(arguments: list[str]) -> int:
    """Parse and run. Not `app()`: that prints boxes for errors and an empty line for Ctrl-C."""
    if not arguments:
        _invoke(["--help"])
        return 2
    command = typer.main.get_command(app)
    try:
        with command.make_context("graphprune", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _usage_message(error: Exception) -> str | None:
    """The line of an error that typer raises for a wrong command line, None for any other error.

    Told by its methods: typer brings its own copy of click's classes, under a private name.
    """
    describe = getattr(error, "format_message", None)
    if describe is None or getattr(error, "exit_code", None) != 2:
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "graphprune"
    message = " ".join(str(describe()).split()).rstrip(".")
    return f"{message} (see {path} --help)"


def _fail(code: int, kind: str, message: str, as_json: bool) -> int:
    line = " ".join(message.split())
    if as_json:
        data: dict[str, Any] = {"error": {"exit_code": code, "kind": kind, "message": line}}
        with contextlib.suppress(OSError):
            print(json.dumps(data), flush=True)
    prefix = "graphprune: " if kind == "Interrupted" else "graphprune: error: "
    print(prefix + line, file=sys.stderr)
    return code


def _internal(error: Exception, as_json: bool) -> int:
    if os.environ.get("GRAPHPRUNE_TRACEBACK"):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    hint = "this is a bug; GRAPHPRUNE_TRACEBACK=1 shows where"
    return _fail(1, "InternalError", f"internal error: {what[:300]} ({hint})", as_json)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, so that temporary files are cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    before: list[tuple[int, Any]] = []
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Only the main thread may set handlers, and `nohup` must stay in force.
        with contextlib.suppress(ValueError):
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before.append((number, signal.signal(number, end)))
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
