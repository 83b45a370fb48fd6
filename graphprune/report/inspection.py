"""Groups and explanations as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from graphprune.report import numbers
from graphprune.report.layout import indented, plain_table, shorten, show, title
from graphprune.report.terminal import reasons

if TYPE_CHECKING:
    from graphprune.analysis.dependency import DependencyGraph
    from graphprune.analysis.groups import Group
    from graphprune.analysis.layers import Layer


def print_groups(
    console: Console, source: str, graph: DependencyGraph, layers: Sequence[Layer] = ()
) -> None:
    """Every group with its size, what it runs through and what binds it; whole layers; what is pinned."""
    units = sum(group.size for group in graph.groups)
    head = f"{numbers.plural(len(graph.groups), 'group')}, {numbers.plural(units, 'unit')}"
    table = plain_table()
    table.add_column("group", no_wrap=True, overflow="ellipsis")
    table.add_column("kind", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("remarks")
    room = max(12, console.width - 58)
    for group in graph.groups:
        weights = {m.site.name for m in group.members if m.site.is_weight}
        table.add_row(
            Text(shorten(group.name, room)),
            Text(group.kind),
            f"{group.size:,}",
            f"{len(weights):,}",
            Text(_remarks(group), "dim"),
        )
    parts: list[Any] = [title(source.rsplit("/", 1)[-1], head), Text(), indented(table)]
    if layers:
        whole = numbers.plural(len(layers), "whole layer")
        names = Text(", ".join(layer.name for layer in layers))
        parts += [Text(), title("can leave with --layers", whole), indented(names)]
    if graph.unpruned:
        places = numbers.plural(len(graph.unpruned), "place")
        parts += [Text(), title("cannot be pruned", places), indented(reasons(graph.unpruned))]
    show(console, *parts)


def _remarks(group: Group) -> str:
    found = []
    if group.trunk:
        found.append("trunk: with --residual only")
    if group.balances:
        found.append(f"equal counts in {numbers.plural(len(group.balances), 'place')}")
    if group.statistics:
        found.append(f"statistics: {_some(group.statistics)}")
    return "; ".join(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return shorten(names[0], 28) + more


def print_explanation(console: Console, explanation: Any) -> None:
    """An explanation, a line each."""
    for line in str(explanation).splitlines():
        console.print(Text(line), soft_wrap=not console.is_terminal)
