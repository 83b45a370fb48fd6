"""A networkx graph as GraphML, which allows only plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import networkx as nx


def write_graphml(graph: nx.Graph[Any], file: BinaryIO) -> None:
    """Write `graph`; a node `(tensor, axis)` is called `tensor[axis]`, other values are text."""
    import networkx as nx

    flat: nx.Graph[str] = nx.DiGraph() if graph.is_directed() else nx.Graph()
    flat.add_nodes_from((_name(node), _plain(data)) for node, data in graph.nodes(data=True))
    flat.add_edges_from((_name(a), _name(b), _plain(data)) for a, b, data in graph.edges(data=True))
    nx.write_graphml(flat, file)


def _name(node: Any) -> str:
    if isinstance(node, tuple) and len(node) == 2:
        return f"{node[0]}[{node[1]}]"
    return str(node)


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        str(key): value if isinstance(value, str | int | float | bool) else str(value)
        for key, value in data.items()
        if value is not None
    }
