"""What printed reports are made of: tables without lines, headings, remarks, bars."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


def show(console: Console, *parts: RenderableType) -> None:
    """Print parts; in a pipe without the spaces that fill a line up to the console's width."""
    if console.is_terminal:
        console.print(Group(*parts), highlight=False)
        return
    with console.capture() as captured:
        console.print(Group(*parts), highlight=False)
    for line in captured.get().splitlines():
        console.print(Text(line.rstrip()), soft_wrap=True)


def shorten(name: str, width: int) -> str:
    """A name cut in front: the end of a path says most."""
    return name if len(name) <= width else "..." + name[-max(1, width - 3) :]


def plain_table(header: bool = True) -> Table:
    """A table without lines; its columns are set apart by two spaces."""
    return Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=header
    )


def indented(part: RenderableType) -> Padding:
    """A part, set two columns to the right."""
    return Padding(part, (0, 0, 0, 2))


def title(name: str, note: str = "") -> Text:
    """A heading and a remark on it."""
    return Text.assemble((name, "bold"), ("  " + note, "dim"))


def warning(line: str) -> Text:
    """A remark that a reader should not miss."""
    return Text.assemble(("warning: ", "bold yellow"), line)


def shows_bars(console: Console) -> bool:
    """Bars where they are sure to be drawn: on a terminal that shows block characters."""
    return console.is_terminal and not console.options.ascii_only and console.width >= 76


def bar(fraction: float, cells: int = 12) -> Text:
    """How much remains."""
    full = min(cells, max(0, round(fraction * cells)))
    return Text.assemble(("█" * full, "green"), ("░" * (cells - full), "dim"))
