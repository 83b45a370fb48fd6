"""Where a command writes: results on stdout, progress and remarks on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 100


class _Console(Console):
    """rich ends the process with code 1 when the reader leaves; `run` decides that here."""

    def on_broken_pipe(self) -> None:
        """Called by rich."""
        raise BrokenPipeError


def stdout() -> Console:
    """A console on stdout; in a pipe plain and 100 columns wide (or as wide as $COLUMNS)."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PIPE_WIDTH
    return _Console(file=sys.stdout, width=width, highlight=False)


def note(line: str, quiet: bool = False) -> None:
    """One line on stderr."""
    if not quiet:
        print(line, file=sys.stderr)


@contextlib.contextmanager
def reserved_stdout() -> Iterator[None]:
    """Send whatever libraries print to stderr, so that stdout holds the result alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


class Stages:
    """The running stage with its time, on stderr, while that is a terminal; otherwise nothing.

    Called by the pipeline: `stages("certify")`, or `stages("measure", 0.4)` with the share done.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._shown = self._console.is_terminal and not quiet
        self._status = self._console.status("starting") if self._shown else None
        self._stage = ""
        self._since = monotonic()

    def __call__(self, stage: str, fraction: float | None = None) -> None:
        """Show that `stage` runs, and how much of it is done."""
        if stage != self._stage:
            self._stage, self._since = stage, monotonic()
        if self._status is not None:
            seconds = monotonic() - self._since
            done = "" if fraction is None else f"  {fraction:.0%}"
            time = f"  {seconds:.0f} s" if seconds >= 1 else ""
            self._status.update(Text.assemble((stage, "bold"), (done + time, "dim")))

    def __enter__(self) -> Stages:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
