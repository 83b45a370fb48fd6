"""Whole layers out of whole networks: each alone and all together give what the original gives with
their inputs in place of their outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.certify.shortened import check_shortened, twin
from graphprune.errors import UsageError
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.layers import layers_of
from graphprune.onnx.runtime import Session
from graphprune.passes import DropLayersPass, PrunePass
from graphprune.plan import LayerCut, LinearMap, Plan

DEEP = ("resnet", "convnext", "encoder", "llama")

RESIDUAL = (
    "a = MatMul (x, w1) b = Relu (a) c = MatMul (b, w2) h = Add (x, c) "
    "d = MatMul (h, w3) e = Relu (d) f = MatMul (e, w4) {last}"
)
WEIGHTS = {f"w{i}": drawn(8, 8, seed=i) for i in range(1, 5)}
INNER = RESIDUAL.format(last="k = Add (h, f) y = Tanh (k)")
OUTER = RESIDUAL.format(last="y = Add (h, f)")


def cuts_of(bench: Bench) -> list[LayerCut]:
    found = layers_of(bench.model, bench.shapes)
    return [LayerCut(layer.name, layer.source, layer.output) for layer in found]


def shorter(bench: Bench, cuts: list[LayerCut]) -> ir.Model:
    copy = bench.model.clone()
    DropLayersPass(cuts)(copy)
    return copy


def widened(bench: Bench, cut: LayerCut) -> LayerCut:
    value = next(v for n in bench.model.graph for v in n.outputs if v.name == cut.output)
    dims = bench.shapes[0].dims[value]
    plane = len(dims) == 4
    return replace(cut, linear=LinearMap(dims[1 if plane else -1], 2 if plane else None))


@pytest.mark.parametrize("name", DEEP)
def test_each_layer_alone_and_all_together(name: str) -> None:
    bench = Bench(NETWORKS[name]())
    cuts = cuts_of(bench)
    assert cuts
    whole = bench.run()
    for some in [*([cut] for cut in cuts), cuts]:
        model = shorter(bench, some)
        for i in (0, 1):
            feeds = random_feeds(bench.model, bench.shapes[i], i)
            found = check_shortened(bench.model, model, some, [feeds])
            assert not found.failure
            assert found.max_rel_error is not None
            assert found.max_rel_error < 1e-5
        moved = bench.run(model)
        assert any(np.abs(moved[n] - whole[n]).max() > 1e-3 for n in whole), "it did nothing"


@pytest.mark.parametrize("name", DEEP)
def test_an_identity_map_in_its_place_changes_nothing(name: str) -> None:
    bench = Bench(NETWORKS[name]())
    cuts = cuts_of(bench)
    plain = bench.run(shorter(bench, cuts))
    mapped = [widened(bench, cut) for cut in cuts]
    model = shorter(bench, mapped)
    assert not check_shortened(bench.model, model, mapped, []).failure
    for key, value in bench.run(model).items():
        np.testing.assert_allclose(value, plain[key], rtol=1e-4, atol=1e-5)


def test_weights_and_nodes_of_the_layer_go_and_names_stay() -> None:
    bench = Bench(from_text(INNER, WEIGHTS, outputs="float[N, 8] y"))
    first, second = cuts_of(bench)
    assert (first.source, first.output, second.output) == ("x", "h", "k")
    model = shorter(bench, [first])
    assert set(model.graph.initializers) == {"w3", "w4"}
    assert [n.op_type for n in model.graph] == ["MatMul", "Relu", "MatMul", "Add", "Tanh"]
    assert next(iter(model.graph)).inputs[0] is model.graph.inputs[0]


@pytest.mark.parametrize("count", [1, 2])
def test_an_output_of_the_graph_is_handed_on(count: int) -> None:
    bench = Bench(from_text(OUTER, WEIGHTS, outputs="float[N, 8] y"))
    cuts = cuts_of(bench)[-count:]
    model = shorter(bench, cuts)
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert list(model.graph)[-1].op_type == "Identity"
    assert not check_shortened(
        bench.model, model, cuts, [{"x": np.eye(8, dtype=np.float32)}]
    ).failure
    wanted = bench.run(twin(bench.model, cuts))["y"]
    np.testing.assert_allclose(bench.run(model)["y"], wanted, rtol=1e-6)


def test_a_layer_that_the_model_lacks_is_an_error_and_changes_nothing() -> None:
    bench = Bench(from_text(INNER, WEIGHTS, outputs="float[N, 8] y"))
    copy = bench.model.clone()
    with pytest.raises(UsageError, match=r"'a\.2'.*'nowhere'"):
        DropLayersPass([LayerCut("a.1", "x", "h"), LayerCut("a.2", "h", "nowhere")])(copy)
    assert [n.name for n in copy.graph] == [n.name for n in bench.model.graph]


def test_a_plan_with_layers_is_not_for_the_whole_model() -> None:
    bench = Bench(from_text(INNER, WEIGHTS, outputs="float[N, 8] y"))
    plan = Plan(bench.loaded.sha256, (), {}, (), layers=tuple(cuts_of(bench)[:1]))
    with pytest.raises(UsageError, match=r"DropLayersPass\(plan\.layers\)"):
        PrunePass(plan)(bench.model.clone())
    PrunePass(plan)(shorter(bench, list(plan.layers)))


def test_bodies_that_read_a_layer_s_output_read_its_source() -> None:
    body = (
        "a = MatMul (x, w1) h = Add (x, a) flag = Constant <value = bool {1}> () "
        "y = If (flag) <then_branch = t () => (float[N, 8] p) { p = Tanh (h) }, "
        "else_branch = e () => (float[N, 8] q) { q = Relu (h) }>"
    )
    bench = Bench(from_text(body, {"w1": WEIGHTS["w1"]}, outputs="float[N, 8] y"))
    cut = LayerCut("a", "x", "h")
    model = shorter(bench, [cut])
    feed = {"x": np.linspace(-2, 2, 16, dtype=np.float32).reshape(2, 8)}
    with Session(model) as session:
        np.testing.assert_allclose(session.run(feed)["y"], np.tanh(feed["x"]), rtol=1e-6)
    assert not check_shortened(bench.model, model, [cut], [feed]).failure
