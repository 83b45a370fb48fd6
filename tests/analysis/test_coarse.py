"""The networkx picture: places, couplings, and that groups are what it connects."""

from __future__ import annotations

import networkx as nx
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.analysis.coarse import coarse_graph, place
from models_zoo.builders import micrographs

CHAIN = "h = MatMul (x, w) b = Add (h, c) r = Relu (b) y = MatMul (r, v)"


@pytest.fixture
def chain() -> nx.Graph:
    weights = {"w": drawn(8, 6), "c": drawn(6), "v": drawn(6, 4)}
    return coarse_graph(Bench(from_text(CHAIN, weights)).graph)


def test_nodes_are_axes_of_tensors_and_of_uses_of_weights(chain: nx.Graph) -> None:
    assert set(chain) == {
        *("w[1] @ h", "h[1]", "c[0] @ b", "b[1]", "r[1]", "v[0] @ y", "v[1] @ y", "y[1]")
    }
    assert chain.nodes["v[0] @ y"] == {
        **{"kind": "weight", "tensor": "v", "axis": 0, "op": "MatMul"},
        **{"group": "h", "size": 6},
    }
    assert chain.nodes["r[1]"]["kind"] == "activation"
    assert chain.nodes["y[1]"]["group"] == "", "all of it stays"


def test_edges_are_the_couplings_of_one_op(chain: nx.Graph) -> None:
    assert {frozenset(e) for e in chain.edges} == {
        frozenset(e)
        for e in [
            ("w[1] @ h", "h[1]"),
            ("h[1]", "b[1]"),
            ("h[1]", "c[0] @ b"),
            ("c[0] @ b", "b[1]"),
            ("b[1]", "r[1]"),
            ("r[1]", "v[0] @ y"),
            ("v[1] @ y", "y[1]"),
        ]
    }
    assert chain.edges["b[1]", "r[1]"] == {"node": "r", "op": "Relu"}


def test_each_use_of_a_weight_is_a_place_of_its_own() -> None:
    body = "h = MatMul (x, w) r = Relu (h) g = MatMul (r, w) s = Relu (g) y = MatMul (s, v)"
    graph = Bench(from_text(body, {"w": drawn(8, 8), "v": drawn(8, 4)})).graph
    picture = coarse_graph(graph)
    assert {"w[1] @ h", "w[0] @ g", "w[1] @ g"} <= set(picture)
    assert picture.nodes["w[1] @ h"]["group"] == picture.nodes["w[0] @ g"]["group"] == "h"
    assert picture.nodes["w[1] @ g"]["group"] == "g"
    assert not nx.has_path(picture, "w[1] @ h", "w[1] @ g")


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_every_group_is_one_connected_piece_and_names_are_places(name: str) -> None:
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    graph = Bench(build()).graph
    picture = graph.to_networkx()
    for group in graph.groups:
        places = {place(m.site, m.axis) for m in group.members}
        assert places <= set(picture)
        for node in places:
            assert group.name in picture.nodes[node]["group"].split(", ")
        assert nx.is_connected(picture.subgraph(places)), group.name


def test_drawable() -> None:
    """All attributes are of types that GraphML and DOT can write."""
    picture = Bench(NETWORKS["encoder"]()).graph.to_networkx()
    text = "\n".join(nx.generate_graphml(picture))
    again = nx.parse_graphml(text)
    assert set(again) == set(picture)
    assert again.number_of_edges() == picture.number_of_edges()
