"""Driving the rules over a graph: sites, links, pins with the node to blame, ambiguous names."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.onnx.shapes import Shapes
from graphprune.onnx.trace import Trace, owner, trace
from models_zoo.builders import micrographs

CHAIN = "h = MatMul (x, w) b = Add (h, c) r = Relu (b) y = MatMul (r, v)"
WEIGHTS = {"w": drawn(8, 6), "c": drawn(6), "v": drawn(6, 4)}


def traced(bench: Bench, **settings) -> Trace:
    return trace(bench.model, bench.shapes[0], bench.shapes[1], **settings)


def pins(found: Trace) -> list[tuple[str, str]]:
    return [(pin.node, pin.reason) for _, pin in found.alg.space.pins]


def test_sites_are_tracked_tensors_and_uses_in_graph_order() -> None:
    found = traced(Bench(from_text(CHAIN, WEIGHTS)))
    assert [(s.name, s.node, s.op, s.input, s.strong) for s in found.sites] == [
        ("w", "h", "MatMul", 1, True),
        ("h", "h", "MatMul", -1, False),
        ("c", "b", "Add", 1, True),
        ("b", "b", "Add", -1, False),
        ("r", "r", "Relu", -1, False),
        ("v", "y", "MatMul", 1, True),
        ("y", "y", "MatMul", -1, False),
    ]
    assert [s.order for s in found.sites] == [0, 0, 1, 1, 2, 3, 3]
    assert found.sites[0].shape == (8, 6)
    assert found.sites[0].factors[0].axes == (1,)


def test_links_name_what_each_node_connects() -> None:
    found = traced(Bench(from_text(CHAIN, WEIGHTS)))
    assert [(x.node, x.op, x.reads, x.writes) for x in found.links] == [
        ("h", "MatMul", ("w",), ("h",)),
        ("b", "Add", ("h", "c"), ("b",)),
        ("r", "Relu", ("b",), ("r",)),
        ("y", "MatMul", ("r", "v"), ("y",)),
    ]


def test_axes_that_differ_between_the_bindings_are_dynamic() -> None:
    bench = Bench(NETWORKS["encoder"]())
    found = traced(bench)
    add = next(s for s in found.sites if s.op == "Add" and len(s.shape) == 3)
    assert add.dynamic == {0, 1}
    alone = trace(bench.model, bench.shapes[0])
    assert all(s.dynamic == frozenset() for s in alone.sites)


def test_outputs_are_pinned_in_the_name_of_the_output() -> None:
    found = traced(Bench(from_text(CHAIN, WEIGHTS)))
    assert pins(found) == [("y", "it is the model's output 'y'")]


def test_an_op_without_a_rule_pins_what_it_reads_and_is_named() -> None:
    body = "h = MatMul (x, w) r = other.Thing (h) y = MatMul (r, v)"
    text = '<ir_version: 9, opset_import: ["" : 18, "other" : 1]> '
    text += f"g (float[N, 8] x) => (float[N, 4] y) {{ {body} }}"
    proto = onnx.parser.parse_model(text)
    for name in "wv":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(WEIGHTS[name], name))
    bench = Bench(proto)
    found = traced(bench)
    reasons = dict(pins(found))
    assert "other.Thing" in reasons["r"] or "not known" in reasons["r"]
    assert bench.graph.groups == ()


def test_a_shape_that_is_not_known_pins_and_is_named() -> None:
    """A shape goes missing: nothing that the node reads may leave."""
    bench = Bench(from_text(CHAIN, WEIGHTS))
    first = bench.shapes[0]
    hidden = next(v for v in first.dims if v.name == "r")
    dims = {v: d for v, d in first.dims.items() if v is not hidden}
    shapes = Shapes(first.binding, dims, first.values, first.unknown, first.dtypes)
    found = trace(bench.model, shapes)
    assert ("r", "the shape of 'r' is not known") in pins(found)


def test_boundaries_pin_with_their_reason() -> None:
    body = "h = MatMul (x, w) n = NonZero (h) f = Cast <to = 1> (n) y = MatMul (h, v)"
    found = traced(Bench(from_text(body, WEIGHTS)))
    assert ("n", "its result depends on the data") in pins(found)


def test_blocks_and_grid_reach_the_rules() -> None:
    bench = Bench(micrographs.build("grouped_conv"))
    for blocks, axes in ((True, 1), (False, 2)):
        found = traced(bench, blocks=blocks)
        weight = next(s for s in found.sites if s.name == "conv2.weight")
        assert {len(f.axes) for f in weight.factors} >= {axes} or blocks
    assert traced(bench, grid=4).alg.grid == 4


def test_bodies_are_traced_too() -> None:
    body = (
        "h = MatMul (x, w) go = Constant <value = bool {1}> () "
        "i = If (go) <then_branch = t () => (float[N, 6] a) { a = Tanh (h) }, "
        "else_branch = e () => (float[N, 6] b) { b = Relu (h) }> y = MatMul (i, v)"
    )
    found = traced(Bench(from_text(body, WEIGHTS)))
    assert {"a", "b", "i"} <= {s.name for s in found.sites}


def test_tensors_of_one_name_in_two_bodies_stay_whole() -> None:
    body = (
        "h = MatMul (x, w) go = Constant <value = bool {1}> () "
        "i = If (go) <then_branch = t () => (float[N, 6] a) { a = Tanh (h) }, "
        "else_branch = e () => (float[N, 6] a) { a = Relu (h) }> y = MatMul (i, v)"
    )
    bench = Bench(from_text(body, WEIGHTS))
    assert ("a", "two tensors are called 'a'") in pins(traced(bench))
    assert bench.graph.groups == ()


def test_integer_initializers_are_no_weights() -> None:
    body = "h = MatMul (x, w) k = Cast <to = 7> (h) s = Add (k, t) f = Cast <to = 1> (s) "
    body += "y = MatMul (f, v)"
    found = traced(Bench(from_text(body, WEIGHTS | {"t": np.arange(6)})))
    strong = {s.name: s.strong for s in found.sites if s.is_weight}
    assert strong == {"w": True, "t": False, "v": True}


@pytest.mark.parametrize(
    ("initializer", "scopes", "expected"),
    [
        ("layer1.0.conv1.weight", "", "layer1.0.conv1"),
        ("weight", "", ""),
        ("w", "['', 'encoder.layer.0', 'linear']", "encoder.layer.0"),
        ("val_12", "['', '']", ""),
        ("a.b", "['one', 'two']", "one"),
    ],
)
def test_the_layer_a_weight_belongs_to(initializer: str, scopes: str, expected: str) -> None:
    weight = ir.Value(name=initializer)
    node = ir.node("MatMul", [ir.Value(name="x"), weight])
    if scopes:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = scopes
    assert owner(node, weight) == expected


def test_unnamed_nodes_are_called_by_their_first_output() -> None:
    proto = from_text(CHAIN, WEIGHTS)
    for node in proto.graph.node:
        assert node.name == ""
    found = traced(Bench(proto))
    assert {s.node for s in found.sites} == {"h", "b", "r", "y"}


def test_a_table_that_is_the_head_too_leaves_the_same_in_both_uses() -> None:
    """RoBERTa: a layer stands between the trunk and the tied head, its width is the trunk's."""
    bench = Bench(
        from_text(
            "e = Gather (table, x) h = MatMul (e, w) r = Relu (h) "
            "t = Transpose <perm = [1, 0]> (table) y = MatMul (r, t)",
            {"table": drawn(40, 8), "w": drawn(8, 8)},
            inputs="int64[N, 6] x",
            outputs="float[N, 6, 40] y",
        )
    )
    (group,) = bench.graph.groups
    places = {(m.site.name, m.site.node, m.axis) for m in group.members if m.site.is_weight}
    assert places == {("table", "e", 1), ("table", "t", 1), ("w", "h", 0), ("w", "h", 1)}
    reasons = {u.reason for u in bench.graph.unpruned}
    assert "a table that is looked up keeps its rows" in reasons
