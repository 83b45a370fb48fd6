from __future__ import annotations

from workbench import Bench, drawn, from_text, removal


def test_pruning_leaves_the_callers_model_as_it_is():
    """Tensors are shared with the model in memory: not even their names may change."""
    proto = from_text(
        "h = MatMul (x, w)\nr = Relu (h)\ny = MatMul (r, v)",
        {"w": drawn(8, 6), "v": drawn(6, 3)},
        outputs="float[N, 3] y",
    )
    before = proto.SerializeToString(deterministic=True)
    bench = Bench(proto)
    (group,) = bench.graph.groups
    pruned = bench.pruned(bench.plan(bench.graph, removal(bench.graph, {group.name: [4]})))
    assert sorted(pruned.graph.initializers) == ["v", "w"]
    assert proto.SerializeToString(deterministic=True) == before
