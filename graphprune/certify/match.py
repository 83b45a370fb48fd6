"""Which node of the pruned graph is which node of the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from graphprune.certify.graphs import all_nodes, node_key, subgraphs


@dataclass(frozen=True, eq=False)
class Match:
    """Nodes and values of two graphs that correspond, bodies of If, Loop and Scan included.

    Attributes:
        nodes: Node of the pruned graph -> node of the original.
        values: Activation of the pruned graph -> that of the original (by name and place).
        order: Node of the original -> its place in topological order.
        added: Nodes that only the pruned graph has.
    """

    nodes: Mapping[ir.Node, ir.Node]
    values: Mapping[ir.Value, ir.Value]
    order: Mapping[ir.Node, int]
    added: tuple[ir.Node, ...]


def match(original: ir.Graph, pruned: ir.Graph) -> Match:
    """Match by the names of outputs and, for nodes that were renamed or lost some, of nodes."""
    nodes: dict[ir.Node, ir.Node] = {}
    values: dict[ir.Value, ir.Value] = {}
    added: list[ir.Node] = []
    _match(original, pruned, nodes, values, added)
    order = {node: i for i, node in enumerate(all_nodes(original))}
    return Match(nodes, values, order, tuple(added))


def _match(
    original: ir.Graph,
    pruned: ir.Graph,
    nodes: dict[ir.Node, ir.Node],
    values: dict[ir.Value, ir.Value],
    added: list[ir.Node],
) -> None:
    defined = {v.name: v for v in original.inputs if v.name}
    producers: dict[str, ir.Node] = {}
    keys: dict[str, ir.Node] = {}
    for node in original:
        keys.setdefault(node_key(node), node)
        for value in node.outputs:
            if value.name:
                defined[value.name] = value
                producers[value.name] = node
    for value in pruned.inputs:
        if value.name in defined:
            values[value] = defined[value.name]
    taken: set[ir.Node] = set()
    for node in pruned:
        found = next((producers[v.name] for v in node.outputs if v.name in producers), None)
        if found is None and keys.get(node_key(node)) not in taken:
            found = keys.get(node_key(node))
        if found is None:
            added.append(node)
            continue
        taken.add(found)
        nodes[node] = found
        values.update({v: defined[v.name] for v in node.outputs if v.name in defined})
        for mine, theirs in zip(subgraphs(node), subgraphs(found), strict=False):
            _match(theirs, mine, nodes, values, added)
