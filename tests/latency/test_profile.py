"""Time of fused graphs goes to the layers of the model; tables predict what pruning leaves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, random_counts, removal

from graphprune.latency.build import made_for, measure_table, predictor
from graphprune.latency.profile import UNNAMED, profile
from graphprune.onnx.costs import work_function
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.shapes import infer_shapes
from graphprune.options import Options
from graphprune.rules.context import node_name


def feeds(bench: Bench) -> dict[str, np.ndarray]:
    return random_feeds(bench.model, bench.bindings[0], 0)


@pytest.mark.parametrize("name", ["resnet", "encoder"])
def test_all_time_belongs_to_nodes_of_the_model(name: str) -> None:
    bench = Bench(NETWORKS[name]())
    before = ir.to_proto(bench.model).SerializeToString()
    found = profile(bench.model, feeds(bench), seconds=0.05)
    nodes = {node_name(n): n for n in bench.model.graph}
    assert set(found) <= {*nodes, UNNAMED}
    total = sum(found.values())
    assert total > 0
    assert found.get(UNNAMED, 0.0) < 0.02 * total
    heavy = [n for n, node in nodes.items() if node.op_type in ("Conv", "Gemm")]
    if name == "resnet":  # each is fused with a norm, a Relu, an Add: none of their time is lost
        assert set(heavy) <= set(found)
        rest = {nodes[n].op_type for n in set(found) - set(heavy) if n}
        assert not rest & {"BatchNormalization", "Relu", "Add"}, rest
        assert sum(found[n] for n in heavy) > 0.4 * total
    assert ir.to_proto(bench.model).SerializeToString() == before


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "encoder"])
def test_work_is_that_of_the_pruned_model(name: str) -> None:
    """At the counts as well as in the smaller graph itself."""
    bench = Bench(NETWORKS[name]())
    work = work_function(bench.model, bench.shapes[0])
    rng = np.random.default_rng(0)
    groups = [g for g in bench.graph.groups if not g.balances]
    for _ in range(3):
        counts = random_counts(groups, rng)
        pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, counts)))
        shapes = infer_shapes(pruned, bench.bindings[0])
        really = work_function(pruned, shapes)({}, {})
        expected = work(*bench.cost.sizes(counts))
        assert {n: expected[n] for n in really} == really
        assert sum(really.values()) < sum(work({}, {}).values())
        macs = bench.cost(counts)[1]
        priced = [n for n in pruned.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
        assert sum(really[node_name(n)] for n in priced) == macs


def test_a_table_predicts_from_measured_widths() -> None:
    bench = Bench(NETWORKS["resnet"]())
    options = Options(channels=0.5, align=4, only=("stem",))
    fits = made_for("ab", options, bench.bindings[0])
    shares: list[float] = []
    table = measure_table(bench.model, bench.shapes, options, feeds(bench), fits, shares.append)
    assert shares == sorted(shares)
    lines = [line for line in table.lines.values() if len(line.work) >= 4]
    assert len(lines) >= 5, "every layer at several widths, whatever is to be pruned this time"
    predict = predictor(bench.model, bench.shapes, options, table)(bench.graph)
    whole = predict({})
    assert whole == pytest.approx(sum(line.ms[-1] for line in table.lines.values()), rel=1e-6)
    counts = {g.name: tuple(max(1, c.size // 4) for c in g.cells) for g in bench.graph.groups}
    assert 0 < predict(counts) < whole
    one = bench.graph.groups[0].name
    assert predict(counts) <= predict({one: counts[one]}) <= whole
