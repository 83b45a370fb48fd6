"""Parts of printed reports: what a pipe gets, names cut short, bars."""

from __future__ import annotations

import io

from rich.console import Console

from graphprune.report.layout import bar, indented, plain_table, shorten, show, shows_bars, warning


def test_long_names_keep_their_end():
    assert shorten("/model/layers.3/attention/query", 12) == "...ion/query"
    assert shorten("short", 12) == "short"


def test_a_pipe_gets_neither_colours_nor_spaces_at_the_end():
    table = plain_table()
    table.add_column("name")
    table.add_row("conv")
    console = Console(file=io.StringIO(), width=40)
    show(console, indented(table), warning("slower"))
    assert console.file.getvalue().splitlines() == ["  name", "  conv", "warning: slower"]
    assert not shows_bars(console)


def test_a_bar_is_as_full_as_what_remains():
    assert bar(0.25, 8).plain == "██░░░░░░"
    assert bar(0.0, 4).plain == "░░░░"
    assert bar(1.7, 4).plain == "████"  # more than before
