"""What storing a model in other formats saved, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from graphprune.report import numbers
from graphprune.report.layout import indented, plain_table, shorten, title
from graphprune.report.terminal import latency_note
from graphprune.sparse.initializers import SparseInitializers
from graphprune.sparse.reports import PackReport, TensorSize

MOST = 12


def pack_parts(name: str, report: PackReport) -> list[RenderableType]:
    """Headline and table of a pack."""
    share = report.packed / max(1, report.original)
    elements = sum(t.elements for t in report.tensors)
    zeros = elements - sum(t.nonzero for t in report.tensors)
    head = Text.assemble(
        (name, "bold"),
        f"  {numbers.size(report.original)} -> ",
        (numbers.size(report.packed), "bold green"),
        f" ({share:.1%}), {zeros / max(1, elements):.1%} of all elements are zero",
    )
    note = "It is smaller on disk; unpacked it is the same model, and runs as fast as before."
    return [head, Text(), indented(tensor_table(report.tensors)), Text(), Text(note, "dim")]


def tensor_table(tensors: Sequence[TensorSize]) -> RenderableType:
    """The largest tensors: zeros, bytes dense and stored, format."""
    table = plain_table()
    table.add_column("tensor", no_wrap=True, overflow="ellipsis")
    table.add_column("type", no_wrap=True)
    table.add_column("zeros", justify="right", no_wrap=True)
    table.add_column("dense", justify="right", no_wrap=True)
    table.add_column("stored", justify="right", no_wrap=True)
    table.add_column("format", no_wrap=True)
    largest = sorted(tensors, key=lambda t: -t.dense)[:MOST]
    chosen = {id(t) for t in largest}
    for t in (t for t in tensors if id(t) in chosen):
        table.add_row(
            Text(shorten(t.name, 36)),
            t.dtype,
            f"{1 - t.nonzero / max(1, t.elements):.1%}",
            numbers.size(t.dense),
            numbers.size(t.stored),
            ", ".join(t.formats),
        )
    rest = [t for t in tensors if id(t) not in chosen]
    if rest:
        dense, stored = sum(t.dense for t in rest), sum(t.stored for t in rest)
        more = Text(f"and {len(rest)} smaller ones", "dim")
        table.add_row(more, "", "", numbers.size(dense), numbers.size(stored), "")
    return table


def sparse_parts(name: str, made: SparseInitializers) -> list[RenderableType]:
    """Headline of a model with sparse initializers, and what that does at run time."""
    head = Text.assemble(
        (name, "bold"),
        f"  {numbers.size(made.original)} -> ",
        (numbers.size(made.written), "bold green"),
        f" ({made.written / made.original:.1%})",
    )
    count = numbers.plural(len(made.tensors), "sparse initializer")
    lines: list[RenderableType] = [
        head,
        Text(f"{count}; outputs in onnxruntime are equal bit by bit."),
    ]
    if made.latency is not None:
        lines.append(title("Speed", latency_note(made.latency)))
    return lines
