"""A networkx graph as Graphviz DOT text; the same graph always gives the same text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import networkx as nx

_ATTRIBUTES = ("label", "shape", "style", "color", "fillcolor", "tooltip")


def to_dot(graph: nx.Graph[Any], name: str = "dependencies") -> str:
    """Graphviz text of `graph`, nodes and edges in the graph's own order.

    A node shows its `label` or itself, an edge its `label` or, without one, its `node` (the op that
    couples). Nodes of one `group` share a cluster; of nodes with a `kind`, weights are filled and
    those without a group grey, because nothing of them can leave. Other attributes that Graphviz
    knows are kept.
    """
    directed = graph.is_directed()
    lines = [f"{'digraph' if directed else 'graph'} {_quoted(name)} {{"]
    lines += ["  rankdir=LR;", '  node [shape=box, fontname="sans-serif", fontsize=10];']
    lines += ['  edge [fontname="sans-serif", fontsize=8];']
    numbers = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    clusters: dict[str, list[str]] = {}
    for node, data in graph.nodes(data=True):
        shown = {"label": str(node), **_style(data), **_known(data)}
        clusters.setdefault(str(data.get("group") or ""), []).append(
            f"{numbers[node]} [{_attributes(shown)}];"
        )
    for position, (cluster, members) in enumerate(clusters.items()):
        if not cluster:
            lines += [f"  {line}" for line in members]
            continue
        lines += [f"  subgraph cluster_{position} {{", f"    label={_quoted(cluster)};"]
        lines += [f"    {line}" for line in members]
        lines.append("  }")
    arrow = "->" if directed else "--"
    for a, b, data in graph.edges(data=True):
        shown = _known(data)
        if "label" not in shown and data.get("node"):
            shown["label"] = str(data["node"])
        extra = f" [{_attributes(shown)}]" if shown else ""
        lines.append(f"  {numbers[a]} {arrow} {numbers[b]}{extra};")
    return "\n".join([*lines, "}", ""])


def _style(data: Mapping[str, Any]) -> dict[str, str]:
    style = {}
    if data.get("kind") == "weight":
        style = {"style": "filled", "fillcolor": "lightsteelblue"}
    if "kind" in data and not data.get("group"):
        style["color"] = "grey"
        style["fontcolor"] = "grey40"
    return style


def _known(data: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(data[key]) for key in _ATTRIBUTES if data.get(key) not in (None, "")}


def _attributes(shown: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={_quoted(value)}" for key, value in shown.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
