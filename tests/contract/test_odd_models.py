"""Files as they really are: without names, with strange names, old styles, nothing to prune."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import drawn, from_text

import graphprune
from graphprune.errors import NothingGainedError
from graphprune.plan import Plan
from models_zoo.builders import micrographs

SETTINGS: dict[str, Any] = {"channels": 0.5, "align": 1, "bench": False}


def sizes(result: graphprune.Result) -> list[tuple[int, int]]:
    return [(g.size, len(g.kept)) for g in result.plan.groups]


def renamed(model: onnx.ModelProto, change) -> onnx.ModelProto:
    """All names of inner values, nodes and initializers through `change`."""
    face = {v.name for v in (*model.graph.input, *model.graph.output)} | {""}

    def new(name: str) -> str:
        return name if name in face else change(name)

    for node in model.graph.node:
        node.name = new(node.name)
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
    for array in model.graph.initializer:
        array.name = new(array.name)
    return model


ODD = {
    "slashes and dots": lambda n: f"/model/layer.0/{n}",
    "brackets": lambda n: f"blocks[0].{n}[*]?",
    "spaces and quotes": lambda n: f"a \"name\" of '{n}' \\ here",
    "colons": lambda n: f"StatefulPartitionedCall/{n}:0",
    "letters of all kinds": lambda n: f"слой_{n}_層_é_🙂",
    "digits": lambda n: str(zlib.crc32(n.encode())),
    "very long": lambda n: "x" * 300 + n,
    "like our own": lambda n: f"{n}_kept",
    "like our own numbered": lambda n: f"{n}_kept_2",
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["grouped_conv", "unfused_attention"])
def test_names_with_odd_characters(kind: str, name: str, tmp_path) -> None:
    plain = graphprune.compile(micrographs.build(name), **SETTINGS)
    odd = graphprune.compile(renamed(micrographs.build(name), ODD[kind]), **SETTINGS)
    assert sizes(odd) == sizes(plain)
    assert odd.report.certificate["status"] == "exact"
    odd.plan.save(tmp_path / "p.json")
    assert Plan.load(tmp_path / "p.json").sha256 == odd.plan.sha256
    onnx.checker.check_model(ir.to_proto(odd.model), full_check=True)
    first = odd.plan.groups[0].name
    only = graphprune.compile(
        renamed(micrographs.build(name), ODD[kind]), **SETTINGS, only=(first,)
    )
    assert [g.name for g in only.plan.groups] == [first], "a name is its own glob"


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_nodes_without_names(name: str) -> None:
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    settings = SETTINGS | {"dims": {"time": 9} if name == "encoder" else {}}
    named = graphprune.compile(build(), **settings, verify=False)
    model = build()
    for node in model.graph.node:
        node.name = ""
    unnamed = graphprune.compile(model, **settings)
    assert sizes(unnamed) == sizes(named)
    assert unnamed.report.certificate["status"] in ("exact", "statistics")
    outputs = {o for n in model.graph.node for o in n.output}
    assert all(u.node in outputs for u in unnamed.plan.initializers)


def test_a_node_called_like_anothers_output() -> None:
    """Unnamed nodes go by their first output, which may be another node's name."""
    model = from_text(
        "h = MatMul (x, w) r = Relu (h) g = MatMul (r, u) s = Relu (g) y = MatMul (s, v)",
        {"w": drawn(8, 6), "u": drawn(6, 6), "v": drawn(6, 4)},
    )
    model.graph.node[2].name = "h"
    result = graphprune.compile(model, **SETTINGS)
    assert result.report.certificate["status"] == "exact"
    assert sizes(result) == [(6, 3), (6, 3)]


def old_style(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """Initializers listed among the inputs, as before IR version 4."""
    for array in model.graph.initializer:
        if not names or array.name in names:
            info = onnx.helper.make_tensor_value_info(array.name, array.data_type, array.dims)
            model.graph.input.append(info)
    return model


def test_all_initializers_are_inputs() -> None:
    with pytest.raises(NothingGainedError, match="is an input of the graph too") as error:
        graphprune.compile(old_style(micrographs.build("grouped_conv")), **SETTINGS)
    assert error.value.exit_code == 6
    assert "take it out of the inputs" in str(error.value)


def test_some_initializers_are_inputs() -> None:
    model = old_style(micrographs.build("grouped_conv"), "conv1.weight")
    result = graphprune.compile(model, **SETTINGS)
    assert [g.name for g in result.plan.groups] == ["conv2"]
    assert any(u.group == "conv1.weight" for u in result.plan.unpruned)
    proto = ir.to_proto(result.model)
    assert [v.name for v in proto.graph.input] == ["x", "conv1.weight"]
    kept = next(i for i in proto.graph.initializer if i.name == "conv1.weight")
    assert list(kept.dims) == [32, 3, 3, 3]


def test_sizes_that_are_inputs_too_are_left_to_the_caller() -> None:
    """A Reshape's sizes among the inputs: the tensor behind it may not change its shape."""
    model = old_style(micrographs.build("view_literal"), "sizes_3")
    names = [i.name for i in model.graph.initializer]
    assert "sizes_3" in names
    try:
        result = graphprune.compile(model, **SETTINGS)
    except NothingGainedError:
        return
    assert result.report.certificate["status"] == "exact"
    proto = ir.to_proto(result.model)
    assert [v.name for v in proto.graph.input] == ["x", "sizes_3"]


NOTHING = {
    "no weights": (from_text("y = Relu (x)", {}, outputs="float[N, 8] y"), "weight"),
    "one layer": (from_text("y = MatMul (x, w)", {"w": drawn(8, 4)}), "output 'y'"),
    "a softmax": (from_text("h = MatMul (x, w) y = Softmax (h)", {"w": drawn(8, 4)}), "Softmax"),
    "one channel": (
        from_text("h = MatMul (x, w) y = MatMul (h, v)", {"w": drawn(8, 1), "v": drawn(1, 4)}),
        "output 'y'",  # an axis of one channel carries nothing that could leave
    ),
    "an unknown op": (
        from_text(
            "h = MatMul (x, w) n = NonZero (h) f = Cast <to = 1> (n) q = ReduceSum (f) "
            "g = MatMul (h, v) y = Add (g, q)",
            {"w": drawn(8, 4), "v": drawn(4, 4)},
        ),
        "depends on the data",
    ),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_nothing_to_prune_says_why(kind: str) -> None:
    model, words = NOTHING[kind]
    with pytest.raises(NothingGainedError, match=words) as error:
        graphprune.compile(model, **SETTINGS)
    assert error.value.exit_code == 6
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ratio", [1.0, 0.999, 0.5, 0.01, 1e-9])
@pytest.mark.parametrize("align", [1, "auto"])
def test_ratios_at_the_edges(ratio: float, align: int | str) -> None:
    """Everything stays, or at least one unit of everything; never an empty tensor."""
    for name in ("grouped_conv", "lstm_linear"):
        model = micrographs.build(name)
        try:
            result = graphprune.compile(model, channels=ratio, align=align, bench=False)
        except NothingGainedError:
            assert ratio >= 0.999
            continue
        assert result.report.certificate["status"] == "exact"
        for size, kept in sizes(result):
            assert 1 <= kept < size
        for value in result.model.graph.initializers.values():
            assert 0 not in list(value.const_value.shape)


def test_an_input_that_goes_straight_out_and_an_unused_one() -> None:
    model = from_text(
        "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)",
        {"w": drawn(8, 6), "v": drawn(6, 4)},
        inputs="float[N, 8] x, float[3] unused",
        outputs="float[N, 4] y, float[N, 8] x",
    )
    result = graphprune.compile(model, **SETTINGS)
    proto = ir.to_proto(result.model)
    assert [v.name for v in proto.graph.input] == ["x", "unused"]
    assert [v.name for v in proto.graph.output] == ["y", "x"]


def test_an_output_on_the_way_pins_what_it_shows() -> None:
    model = from_text(
        "h = MatMul (x, w) r = Relu (h) g = MatMul (r, u) s = Relu (g) y = MatMul (s, v)",
        {"w": drawn(8, 6), "u": drawn(6, 6), "v": drawn(6, 4)},
        outputs="float[N, 4] y, float[N, 6] r",
    )
    result = graphprune.compile(model, **SETTINGS)
    assert [g.name for g in result.plan.groups] == ["g"]
    assert any("output 'r'" in u.reason for u in result.plan.unpruned)


def test_batch_is_static_and_one() -> None:
    model = from_text(
        "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)",
        {"w": drawn(8, 6), "v": drawn(6, 4)},
        inputs="float[1, 8] x",
        outputs="float[1, 4] y",
    )
    result = graphprune.compile(model, **SETTINGS)
    assert sizes(result) == [(6, 3)]
    assert np.prod(result.model.graph.inputs[0].shape.numpy()) == 8
