"""Damage curves as a table for a terminal and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from graphprune.report import numbers
from graphprune.report.layout import indented, show, title, warning

if TYPE_CHECKING:
    from graphprune.damage.result import Measurement, Sensitivity

_PANELS = 9
"""Groups in one panel of a plot, at most: more lines cannot be told apart."""


def print_curves(
    console: Console, found: Sensitivity, warnings: Sequence[str] = (), last: str = ""
) -> None:
    """Print one line a group, the most sensitive first."""
    rows = _rows(found)
    fractions = sorted({round(m.kept, 3) for each in rows.values() for m in each})
    shown = fractions if len(fractions) <= 8 else _spread(fractions, 8)
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("group", overflow="fold")
    table.add_column("units", justify="right")
    for fraction in shown:
        table.add_column(f"{fraction:.3g}", justify="right")
    for name, points in sorted(rows.items(), key=lambda r: (-_worst(r[1]), r[0])):
        near = {min(shown, key=lambda f: abs(f - m.kept)): m for m in reversed(points)}
        cells = [_cell(near[f]) if f in near else "" for f in shown]
        table.add_row(name, str(found.sizes[name]), *cells)
    folded = any(m.folded is not None for m in found.measurements)
    how = "with compensation" if folded else "as cut"
    what = Text(
        "Relative squared error of the outputs when one group alone keeps this fraction "
        f"of its units, {how}."
    )
    parts: list[RenderableType] = [
        title("sensitivity", numbers.plural(len(rows), "group")),
        indented(what),
        indented(table),
    ]
    show(console, *parts, *[warning(w) for w in warnings])
    if last:
        console.print(Text(last), soft_wrap=True)


def plot_curves(found: Sensitivity, path: Path, title: str = "") -> None:
    """Draw the curves as SVG, in panels of groups that follow each other in the model.

    The same measurements give the same bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from graphprune.files import write_atomically

    rows = list(_rows(found).items())
    panels = [rows[i : i + _PANELS] for i in range(0, len(rows), _PANELS)] or [[]]
    with matplotlib.rc_context({"svg.hashsalt": "graphprune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 3.2 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axis, panel in zip(axes, panels, strict=True):
            for name, points in panel:
                pairs = [(m.kept, max(_damage(m), 1e-8)) for m in points]
                axis.plot(*zip(*pairs, strict=True), marker="o", markersize=3, label=name)
            axis.set_yscale("log")
            axis.set_xlim(0, 1)
            axis.grid(alpha=0.3)
            axis.set_ylabel("damage")
            if panel:
                axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes[-1].set_xlabel("fraction of the group's units that stay")
        if title:
            figure.suptitle(title)
        canvas = FigureCanvasSVG(figure)
        draw: Any = canvas.print_svg  # without types
        write_atomically(path, lambda file: draw(file, metadata={"Date": None}))


def _rows(found: Sensitivity) -> dict[str, list[Measurement]]:
    """Measurements that worked, by group."""
    rows: dict[str, list[Measurement]] = {}
    for each in found.measurements:
        if each.damage is not None or each.folded is not None:
            rows.setdefault(each.group, []).append(each)
    return rows


def _damage(point: Measurement) -> float:
    value = point.damage if point.folded is None else point.folded
    return value if value is not None else float("nan")


def _worst(points: Sequence[Measurement]) -> float:
    return max(_damage(p) for p in points)


def _cell(point: Measurement) -> str:
    return f"{_damage(point):.2g}"


def _spread(values: Sequence[float], count: int) -> list[float]:
    step = (len(values) - 1) / (count - 1)
    return [values[round(i * step)] for i in range(count)]
