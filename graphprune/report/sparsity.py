"""What pruning of single weights did, on a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from graphprune.report import numbers
from graphprune.report.layout import indented, plain_table, shorten, title, warning
from graphprune.report.terminal import latency_note
from graphprune.sparse.reports import SparsityReport

MOST = 12


def sparsity_parts(name: str, report: SparsityReport) -> list[RenderableType]:
    """Headline, weights, speed, empty units."""
    dense, stored = (sum(getattr(w, k) for w in report.weights) for k in ("dense", "stored"))
    head = Text.assemble(
        (name, "bold"),
        "  ",
        (
            f"{report.sparsity:.1%} of {numbers.count(report.elements)} weights are zero",
            "bold green",
        ),
        f", {numbers.size(dense)} dense, {numbers.size(stored)} in their cheapest formats",
    )
    parts: list[RenderableType] = [head, Text(), indented(_table(report)), Text()]
    if report.latency is not None:
        parts.append(title("Speed", latency_note(report.latency)))
        if report.latency.verdict == "noise":
            parts.append(Text("onnxruntime multiplies zeros like any other number."))
    units = sum(len(e.units) for e in report.empty)
    leave = sum(len(e.units) for e in report.empty if e.leave)
    if units:
        where = ", ".join(
            f"{shorten(e.name, 32)} {len(e.units)}/{e.size}" for e in report.empty[:4]
        )
        more = ", ..." if len(report.empty) > 4 else ""
        parts.append(title("Empty units", f"{units} ({where}{more}), {leave} can leave"))
    else:
        parts.append(title("Empty units", "none: every channel, neuron and head has weights left"))
    parts += [warning(line) for line in report.warnings[:3]]
    return parts


def _table(report: SparsityReport) -> RenderableType:
    table = plain_table()
    table.add_column("weight", no_wrap=True, overflow="ellipsis")
    table.add_column("shape", no_wrap=True)
    for column in ("zeros", "dense", "stored"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("format", no_wrap=True)
    largest = {id(w) for w in sorted(report.weights, key=lambda w: -w.dense)[:MOST]}
    for w in (w for w in report.weights if id(w) in largest):
        table.add_row(
            Text(shorten(w.name, 32)),
            " x ".join(str(d) for d in w.shape),
            f"{w.sparsity:.1%}",
            numbers.size(w.dense),
            numbers.size(w.stored),
            w.format,
        )
    rest = [w for w in report.weights if id(w) not in largest]
    if rest:
        dense, stored = sum(w.dense for w in rest), sum(w.stored for w in rest)
        name = Text(f"and {len(rest)} smaller ones", "dim")
        table.add_row(name, "", "", numbers.size(dense), numbers.size(stored), "")
    return table
