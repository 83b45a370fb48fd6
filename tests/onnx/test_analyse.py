"""From a model to its dependency graph in one call."""

from __future__ import annotations

import time

import onnx
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

import graphprune
from graphprune.errors import UsageError
from graphprune.onnx.analyse import analyse_graph


def test_it_is_what_the_public_function_gives() -> None:
    bench = Bench(NETWORKS["resnet"]())
    direct = analyse_graph(bench.model, bench.shapes[0], bench.shapes[1])
    public = graphprune.analyse(NETWORKS["resnet"]())
    assert [g.name for g in direct.groups] == [g.name for g in public.groups]
    assert public.to_json() == direct.to_json()


def test_dims_are_taken() -> None:
    graph = graphprune.analyse(NETWORKS["encoder"](), dims={"time": 7, "batch": 1})
    assert {
        s.shape[1] for s in graph.sites if s.op == "LayerNormalization" and not s.is_weight
    } == {7}
    with pytest.raises(UsageError, match="'tiem'"):
        graphprune.analyse(NETWORKS["encoder"](), dims={"tiem": 7})


def test_vectors_that_are_inputs_too_are_not_worth_a_line() -> None:
    proto = from_text(
        "h = MatMul (x, w) b = Add (h, c) y = MatMul (b, v)",
        {"w": drawn(8, 6), "c": drawn(6), "v": drawn(6, 4)},
    )
    proto.graph.input.append(onnx.helper.make_tensor_value_info("c", 1, [6]))
    graph = Bench(proto).graph
    assert graph.groups == (), "the caller may pass a bias of the old width"
    assert not any("input of the graph" in u.reason for u in graph.unpruned)
    assert any("fixed size" in u.reason for u in graph.unpruned)


def test_long_chains_take_linear_time() -> None:
    """Twice the layers, about twice the time: no rule or solver step looks at all pairs."""

    def seconds(layers: int) -> float:
        steps = "".join(f"h{i + 1} = MatMul (h{i}, w{i}) " for i in range(layers))
        body = f"h0 = Relu (x) {steps} y = Tanh (h{layers})"
        weights = {f"w{i}": drawn(64, 64, seed=i) for i in range(layers)}
        proto = from_text(body, weights, inputs="float[N, 64] x", outputs="float[N, 64] y")
        bench = Bench(proto)
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            assert len(bench.analyse().groups) == layers - 1
            best = min(best, time.process_time() - start)
        return best

    assert seconds(160) < 4.5 * seconds(80)
