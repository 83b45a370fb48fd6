"""Groups of whole graphs: sizes, members, kinds, names, constraints, and why the rest stays."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from models_zoo.builders import micrographs


def graph_of(name: str, *, blocks: bool = True) -> DependencyGraph:
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    return Bench(build()).analyse(blocks=blocks)


def summary(graph: DependencyGraph) -> dict[str, tuple[str, int]]:
    return {g.name: (g.kind, g.size) for g in graph.groups}


EXPECTED = {
    "resnet": {
        "stem": ("residual", 16),
        "one.conv1": ("channel", 16),
        "two.conv1": ("channel", 32),
        "two.conv2": ("residual", 32),
    },
    "mobilenet": {
        "stem": ("residual", 16),
        "one.expand": ("channel", 24),
        "one.squeeze": ("channel", 8),
        "two.expand": ("channel", 32),
        "two.squeeze": ("channel", 8),
        "two.project": ("channel", 24),
    },
    "convnext": {"stem": ("residual", 16), "one.fc1": ("neuron", 40), "two.fc1": ("neuron", 40)},
    "speech": {"conv": ("channel", 20), "one": ("hidden", 32), "two": ("hidden", 24)},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_of_known_networks(name: str) -> None:
    assert summary(graph_of(name)) == EXPECTED[name]


def test_heads_leave_whole_or_lose_dims() -> None:
    heads = [g for g in graph_of("encoder").groups if g.kind == "head"]
    assert [(g.name, g.size) for g in heads] == [("one.q", 4), ("two.q", 4)]
    dims = [g for g in graph_of("encoder", blocks=False).groups if g.kind == "head-dim"]
    assert [(g.name, g.size) for g in dims] == [
        (f"{block}.{n}", 32) for block in ("one", "two") for n in "qv"
    ]
    assert all(len(g.cells) == 4 for g in dims), "each head may keep other dims, equally many"


def test_a_table_that_is_the_head_too_makes_no_heads() -> None:
    """Both sides of the last product are computed, one of them from a weight alone."""
    body = (
        "e = Gather (t, i) h = MatMul (e, w) r = Relu (h) g = MatMul (r, v) "
        "k = Transpose <perm = [1, 0]> (t) y = MatMul (g, k)"
    )
    weights = {"t": drawn(50, 32), "w": drawn(32, 48), "v": drawn(48, 32)}
    inputs, outputs = "int64[N, T] i", "float[N, T, 50] y"
    graph = Bench(from_text(body, weights, inputs=inputs, outputs=outputs)).graph
    assert [(g.kind, g.size) for g in graph.groups] == [("neuron", 32), ("neuron", 48)]


def test_queries_leave_with_the_key_value_head_they_share() -> None:
    """Four query heads, two key-value heads: two units. All heads share the tables of angles, so
    rotary pairs of dims leave together and the same from every head."""
    heads = [g for g in graph_of("llama").groups if g.kind == "head"]
    assert [g.size for g in heads] == [2, 2]
    dims = {g.name: g.size for g in graph_of("llama", blocks=False).groups if g.kind == "head-dim"}
    assert dims == {"one.q": 4, "one.v": 16, "two.q": 4, "two.v": 16}


def test_members_are_all_places_in_graph_order() -> None:
    graph = graph_of("resnet")
    group = graph.by_name["one.conv1"]
    weights = [(m.site.name, m.axis) for m in group.members if m.site.is_weight]
    assert weights == [
        ("one.conv1.weight", 0),
        ("one.conv1.bias", 0),
        *((f"one.conv1.bn.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")),
        ("one.conv2.weight", 1),
    ]
    activations = [m.site.op for m in group.members if not m.site.is_weight]
    assert activations == ["Conv", "BatchNormalization", "Relu"]
    orders = [m.site.order for m in group.members]
    assert orders == sorted(orders)


def test_units_are_in_the_order_of_the_first_layer() -> None:
    bench = Bench(NETWORKS["resnet"]())
    for group in bench.graph.groups:
        first = group.members[0]
        assert first.resolved.classes.reshape(-1).tolist() == group.units.tolist()


def test_every_movable_class_belongs_to_exactly_one_group() -> None:
    for name in (*NETWORKS, *micrographs.NAMES):
        for blocks in (True, False):
            graph = graph_of(name, blocks=blocks)
            units = np.concatenate([g.units for g in graph.groups])
            assert np.unique(units).size == units.size
            assert graph.resolver.movable[units].all()
            seen = {
                int(c)
                for site in graph.sites
                for r in graph.resolved(site)
                for c in np.unique(r.classes)
                if c >= 0
            }
            assert seen == set(units.tolist()), name
            for group in graph.groups:
                cells = np.concatenate(group.cells)
                assert sorted(cells.tolist()) == list(range(group.size))


def test_balances_say_how_many_every_row_keeps() -> None:
    """With random units leaving, a balance holds exactly where all rows of all places agree."""
    rng = np.random.default_rng(0)
    for name in ("grouped_conv", "channel_shuffle", "c2f", "unfused_attention"):
        graph = graph_of(name, blocks=False)
        for group in graph.groups:
            for _ in range(10):
                stays = np.ones(graph.resolver.classes.count, bool)
                kept = np.array([rng.integers(1, c.size + 1) for c in group.cells])
                for cell, count in zip(group.cells, kept, strict=True):
                    stays[group.units[rng.permutation(cell)[count:]]] = False
                met = all(np.unique(b.fixed + b.counts @ kept).size == 1 for b in group.balances)
                rows = [m.resolved.rows for m in group.members if len(m.resolved.rows) > 1]
                lengths = [np.where(r < 0, True, stays[r]).sum(axis=1) for r in rows]
                agree = all(np.unique(n).size == 1 for n in lengths)
                assert met <= agree, (name, group.name)
                if not group.balances:
                    assert agree


def test_a_trunk_is_a_residual_width_that_runs_through_a_norm() -> None:
    trunks = {n: [g.name for g in graph_of(n).groups if g.trunk] for n in NETWORKS}
    assert {n: len(t) for n, t in trunks.items()} == dict.fromkeys(NETWORKS, 0) | {
        "convnext": 1,
        "encoder": 1,
        "llama": 1,
    }
    graph = graph_of("llama")
    (trunk,) = [g for g in graph.groups if g.trunk]
    assert len(trunk.statistics) == 5, "two norms in each block and the last one"
    assert trunk.size == 32


def test_statistics_name_the_nodes_and_their_axes() -> None:
    graph = graph_of("convnext")
    gated = graph.by_name["one.fc1"]
    assert [s.op for s in graph.statistics if s.node in gated.statistics] == ["ReduceMean"]
    assert all(s.axes == (3,) for s in graph.statistics if s.node in gated.statistics)
    assert not gated.trunk
    plain = graph_of("resnet")
    assert plain.statistics == ()


@pytest.mark.parametrize(
    ("body", "weights", "node", "reason"),
    [
        ("h = MatMul (x, w) y = Softmax (h)", {"w": (8, 6)}, "y", "Softmax"),
        ("y = MatMul (x, w)", {"w": (8, 6)}, "y", "the model's output 'y'"),
        (
            "h = MatMul (x, w) r = TopK <axis = -1> (h, k) y = MatMul (r, v)",
            {"w": (8, 6), "v": (3, 4)},
            "TopK",
            "",
        ),
    ],
)
def test_what_stays_and_why(
    body: str, weights: dict[str, tuple[int, ...]], node: str, reason: str
) -> None:
    if node == "TopK":
        body = body.replace("r = TopK", "r, i = TopK")
    arrays = {n: drawn(*shape) for n, shape in weights.items()}
    if node == "TopK":
        arrays["k"] = np.array([3])
    graph = Bench(from_text(body, arrays)).graph
    assert graph.groups == ()
    found = next(u for u in graph.unpruned if u.group == "w[1]")
    assert reason in found.reason
    assert found.reason
    if node != "TopK":
        assert found.node == node


def test_weights_that_are_inputs_too_are_named() -> None:
    proto = from_text("h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)", {"w": drawn(8, 6)})
    import onnx

    proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn(6, 4), "v"))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("v", 1, [6, 4]))
    graph = Bench(proto).graph
    assert graph.groups == ()
    reasons = {u.group: u.reason for u in graph.unpruned}
    assert "an input of the graph too" in reasons["v"]
    assert "v" in reasons["v"]
    assert "fixed size" in reasons["w[1]"]


def test_equal_names_are_made_unique() -> None:
    """`c2f` splits one layer's channels into two groups; one of the nodes has the second's name."""
    graph = graph_of("c2f")
    names = [g.name for g in graph.groups]
    assert names[:2] == ["conv1", "conv1#2"]
    assert len(set(names)) == len(names)
    model = micrographs.build("c2f")
    for array in model.graph.initializer:
        array.name = array.name.replace("bottleneck1", "conv1#2")
    for node in model.graph.node:
        node.input[:] = [i.replace("bottleneck1", "conv1#2") for i in node.input]
    graph = Bench(model).graph
    names = [g.name for g in graph.groups]
    assert len(set(names)) == len(names) == len(graph.by_name)
    assert "conv1#2#2" in names


def test_physical_widths_a_group_decides_alone() -> None:
    graph = graph_of("densenet")
    group = graph.by_name["one.conv1"]
    lengths = {(w.site.op, w.axis): (w.counts, w.fixed) for w in group.widths}
    assert lengths["Conv", 0] == ((1,), 0)
    assert lengths["Conv", 1] == ((1,), 0)
    piece = graph.by_name["one.conv2"]  # its consumers also read other groups: not it alone
    assert {(w.site.node, w.axis) for w in piece.widths} <= {
        (m.site.node, m.axis) for m in piece.members
    }
    assert all(w.counts == (1,) for w in piece.widths if w.site.name == "one.conv2.weight")
    heads = graph_of("unfused_attention").groups[0]
    assert {w.counts for w in heads.widths} == {(8,)}


def test_json_holds_groups_members_and_reasons() -> None:
    graph = graph_of("grouped_conv", blocks=False)
    data = json.loads(json.dumps(graph.to_json()))
    assert [g["name"] for g in data["groups"]] == [g.name for g in graph.groups]
    first = data["groups"][0]
    assert {"name", "kind", "size", "trunk", "members", "constraints"} <= set(first)
    member = first["members"][0]
    assert member["weight"] is True
    assert member["name"] == "conv1.weight"
    assert data["groups"][1]["constraints"]["balanced"][0]["counts"]
    assert data["unpruned"][0]["reason"]


def test_results_are_frozen() -> None:
    graph = graph_of("resnet")
    for thing in (graph, graph.groups[0], graph.sites[0], graph.groups[0].members[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.name = "other"  # type: ignore[misc]


def test_the_same_graph_gives_the_same_groups() -> None:
    def text(group: Group) -> str:
        return f"{group.name} {group.units.tolist()} {[c.tolist() for c in group.cells]}"

    for name in ("c2f", "encoder"):
        first, second = (graph_of(name, blocks=False) for _ in range(2))
        assert list(map(text, first.groups)) == list(map(text, second.groups))
