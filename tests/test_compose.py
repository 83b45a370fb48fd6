"""Two plans as one: the composed plan makes in one step what pruning twice makes in two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench, random_counts, removal

from graphprune.analysis.planning import plan_from_removed
from graphprune.compose import compose, compose_cuts
from graphprune.cut import Cut, take
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.shapes import infer_shapes
from graphprune.passes.prune import PrunePass
from graphprune.plan import Plan
from models_zoo.builders import micrographs


def cuts(*items: tuple[int, int, list]) -> tuple[Cut, ...]:
    """(axis, size, kept), with blocks = axis 0 where `kept` is nested."""
    return tuple(
        Cut(a, n, np.array(k), (0,) if isinstance(k[0], list) else ()) for a, n, k in items
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (cuts((1, 6, [0, 2, 3, 5])), cuts((1, 4, [1, 3]))),
        (cuts((1, 6, [0, 2, 3, 5])), cuts((0, 4, [1, 3]))),
        (cuts((0, 4, [1, 2, 3])), cuts((0, 3, [0, 2]), (1, 6, [0, 5]))),
        (cuts((1, 6, [[0, 1], [2, 3], [4, 5], [0, 5]])), ()),
        ((), cuts((1, 6, [[0, 1], [2, 3], [4, 5], [0, 5]]))),
        (cuts((1, 6, [[0, 1, 2], [2, 3, 4], [3, 4, 5], [0, 2, 5]])), cuts((1, 3, [0, 2]))),
        (
            cuts((1, 6, [[0, 1, 2], [2, 3, 4], [3, 4, 5], [0, 2, 5]])),
            cuts((1, 3, [[0], [1], [2], [1]])),
        ),
        # Heads leave first, then dims, different ones in each head that stayed.
        (cuts((0, 4, [0, 2])), cuts((1, 6, [[0, 1], [3, 5]]))),
        (cuts((0, 4, [0, 2]), (1, 6, [0, 1, 2, 5])), cuts((1, 4, [[0, 3], [1, 2]]))),
        # Dims leave first, then some of the blocks.
        (cuts((1, 6, [[0, 1], [2, 3], [4, 5], [0, 5]])), cuts((0, 4, [1, 3]))),
        (
            cuts((1, 6, [[0, 1, 2], [2, 3, 4], [3, 4, 5], [0, 2, 5]])),
            cuts((0, 4, [1, 3]), (1, 3, [[0, 1], [1, 2]])),
        ),
    ],
)
def test_cuts_of_one_tensor(first: tuple[Cut, ...], second: tuple[Cut, ...]) -> None:
    array = np.arange(4 * 6 * 2).reshape(4, 6, 2)
    both = compose_cuts(first, second)
    assert (take(array, both) == take(take(array, first), second)).all()
    assert [c.axis for c in both] == sorted({c.axis for c in (*first, *second)})
    for cut in both:
        assert cut.size == array.shape[cut.axis], "in the numbering of the original"


def test_dynamic_once_is_dynamic_always() -> None:
    one = (Cut(0, 6, np.array([0, 1, 3, 4]), dynamic=True),)
    two = (Cut(0, 4, np.array([0, 2])),)
    assert compose_cuts(one, two)[0].dynamic
    assert compose_cuts(two, ())[0].dynamic is False


class Twice:
    """A model pruned by two plans one after the other."""

    def __init__(self, name: str, *, blocks: tuple[bool, bool], seed: int) -> None:
        build = NETWORKS.get(name) or (lambda: micrographs.build(name))
        self.bench = bench = Bench(build())
        rng = np.random.default_rng(seed)
        graph = bench.analyse(blocks=blocks[0])
        some = [g for g in graph.groups if rng.random() < 0.7]
        self.first = bench.plan(graph, removal(graph, random_counts(some, rng), seed))
        self.middle = bench.pruned(self.first)
        shapes = [infer_shapes(self.middle, b) for b in bench.bindings]
        graph = analyse_graph(self.middle, shapes[0], shapes[1], blocks=blocks[1], grid=1)
        some = [g for g in graph.groups if rng.random() < 0.7]
        removed = removal(graph, random_counts(some, rng), seed)
        self.second = plan_from_removed(graph, removed, binding=bench.bindings[0])
        self.last = self.middle.clone()
        PrunePass(self.second, bench.bindings)(self.last)


@pytest.mark.parametrize("blocks", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("name", ["resnet", "encoder", "llama", "grouped_conv", "c2f", "speech"])
@pytest.mark.parametrize("seed", range(2))
def test_the_composed_plan_gives_the_same_weights_and_outputs(
    name: str, blocks: tuple[bool, bool], seed: int
) -> None:
    twice = Twice(name, blocks=blocks, seed=seed)
    once = twice.bench.pruned(compose(twice.first, twice.second))
    compared = 0
    by_name = {n.name: n for n in once.graph}
    for node in twice.last.graph:
        other = by_name.get(node.name)
        if other is None:
            continue
        for a, b in zip(node.inputs, other.inputs, strict=True):
            if a is not None and a.const_value is not None and b.const_value is not None:
                assert (a.const_value.numpy() == b.const_value.numpy()).all(), node.name
                compared += 1
    assert compared > 2
    for binding in (0, 1):
        old, new = twice.bench.run(twice.last, binding), twice.bench.run(once, binding)
        for output, array in old.items():
            assert np.abs(array).max() > 1e-3
            np.testing.assert_allclose(new[output], array, rtol=1e-5, atol=1e-5)


def test_nothing_and_something() -> None:
    bench = Bench(NETWORKS["resnet"]())
    plan = bench.plan(bench.graph, removal(bench.graph, {"stem": (7,)}))
    nothing = Plan(plan.source_sha256, (), {}, (), binding=plan.binding)
    for both in (compose(plan, nothing), compose(nothing, plan)):
        assert both.to_json()["tensors"] == plan.to_json()["tensors"]
        assert both.to_json()["initializers"] == plan.to_json()["initializers"]


def test_the_rest_is_joined() -> None:
    twice = Twice("convnext", blocks=(True, True), seed=3)
    both = compose(twice.first, twice.second)
    assert both.source_sha256 == twice.first.source_sha256
    assert dict(both.binding) == dict(twice.first.binding)
    assert set(both.statistics_nodes) == {
        *twice.first.statistics_nodes,
        *twice.second.statistics_nodes,
    }
    assert ir.to_proto(twice.last).ByteSize() < ir.to_proto(twice.bench.model).ByteSize()
