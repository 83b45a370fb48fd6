from __future__ import annotations

import re

import networkx as nx

from graphprune.report.dot import to_dot


def graph() -> nx.Graph:
    made = nx.Graph()
    made.add_node(("w", 0), group="conv1", label="w [0]", shape="ellipse")
    made.add_node(("v", 1), group="conv1")
    made.add_node("alone")
    made.add_edge(("w", 0), ("v", 1), node="/add")
    made.add_edge(("v", 1), "alone", label='says "hi"\nand \\ bye')
    return made


def test_nodes_edges_and_clusters():
    text = to_dot(graph())
    assert text.startswith('graph "dependencies" {')
    assert text.endswith("}\n")
    assert text.count("{") == text.count("}") == 2
    assert '    n0 [label="w [0]", shape="ellipse"];' in text
    assert "    n1 [label=\"('v', 1)\"];" in text
    assert '  n2 [label="alone"];' in text
    assert '  n0 -- n1 [label="/add"];' in text
    assert re.search(r'subgraph cluster_\d+ \{\n    label="conv1";', text)


def test_quotes_backslashes_and_lines_are_escaped():
    assert r'n1 -- n2 [label="says \"hi\"\nand \\ bye"];' in to_dot(graph())


def test_directed_graphs_have_arrows_and_text_is_stable():
    directed = nx.DiGraph([("a", "b")])
    assert "n0 -> n1;" in to_dot(directed, "d")
    assert to_dot(graph()) == to_dot(graph())


def test_weights_and_what_stays_look_different():
    made = nx.Graph()
    made.add_node("w", kind="weight", group="g")
    made.add_node("x", kind="activation", group="")
    text = to_dot(made)
    assert 'n0 [label="w", style="filled", fillcolor="lightsteelblue"];' in text
    assert 'n1 [label="x", color="grey", fontcolor="grey40"];' in text
