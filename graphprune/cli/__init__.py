"""The command line. Heavy imports stand inside the commands, so that `--help` is instant."""

from __future__ import annotations

from graphprune.cli.app import main, run

__all__ = ["main", "run"]
