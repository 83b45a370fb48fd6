"""From classes that leave to cuts: every tensor against what its labels say, element by element."""

from __future__ import annotations

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text, random_counts, removal

from graphprune.analysis.planning import plan_from_removed, site_cuts
from graphprune.analysis.resolve import Resolver
from graphprune.analysis.site import Site
from graphprune.cut import Cut, pruned_shape, take
from graphprune.errors import GraphpruneError
from graphprune.labels import Factor, LabelSpace
from models_zoo.builders import micrographs


def stays_mask(bench: Bench, site: Site, removed: np.ndarray) -> list[np.ndarray]:
    """For each factor of a site: which elements stay, spread over the whole tensor."""
    of = bench.graph.resolver.classes.of
    masks = []
    for factor in site.factors:
        stays = ~removed[of[factor.labels]]
        rank = len(site.shape)
        shape = [1] * rank
        for position, axis in enumerate(factor.axes):
            shape[axis] = factor.labels.shape[position]
        order = np.argsort(factor.axes)
        masks.append(np.broadcast_to(np.transpose(stays, order).reshape(shape), site.shape))
    return masks


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_cuts_keep_exactly_the_elements_whose_labels_stay(name: str, blocks: bool) -> None:
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    bench = Bench(build())
    bench.graph = bench.analyse(blocks=blocks)
    counts = random_counts(bench.graph.groups, np.random.default_rng(1))
    removed = removal(bench.graph, counts)
    plan = bench.plan(bench.graph, removed)
    uses = {(u.node, u.input): u.cuts for u in plan.initializers}
    cut = 0
    for site in bench.graph.sites:
        if site.is_weight:
            cuts = uses.get((site.node, site.input), ())
        else:
            cuts = plan.tensors.get(site.name, ())
        alive = np.ones(site.shape, bool)
        for mask in stays_mask(bench, site, removed):
            alive &= mask
        numbers = np.arange(alive.size).reshape(site.shape)
        kept = take(numbers, cuts)
        assert kept.reshape(-1).tolist() == numbers[alive].tolist()
        assert kept.shape == pruned_shape(site.shape, cuts)
        cut += bool(cuts)
    assert cut > 3


def test_nothing_removed_is_an_empty_plan() -> None:
    bench = Bench(NETWORKS["resnet"]())
    plan = bench.plan(bench.graph, np.zeros(bench.graph.resolver.classes.count, bool))
    assert not plan.tensors
    assert not plan.initializers
    assert not plan.statistics_nodes


def test_cuts_are_sorted_and_in_the_numbering_of_the_original() -> None:
    bench = Bench(NETWORKS["densenet"]())
    plan = bench.plan(bench.graph, removal(bench.graph, {"one.conv2": (3,), "stem": (5,)}))
    ((cut,),) = [c for n, c in plan.tensors.items() if n == "concat_7"]
    assert cut.axis == 1
    assert cut.size == 20
    assert cut.count == 8
    assert cut.kept.dtype == np.int64
    assert (np.diff(cut.kept) > 0).all()
    assert (cut.kept < 12).sum() == 5


def test_blocks_that_keep_different_sets_have_a_row_each() -> None:
    space = LabelSpace()
    labels = space.fresh((2, 4))
    site = Site("w", "n", "Op", 1, (2, 4, 3), (Factor((0, 1), labels),), frozenset(), True, 0)
    resolver = Resolver(space, [site])
    removed = np.zeros(resolver.classes.count, bool)
    removed[resolver.classes.of[[labels[0, 0], labels[1, 3]]]] = True
    found = [r for r in map(resolver.resolve, site.factors) if r is not None]
    (cut,) = site_cuts(site, found, removed)
    assert cut.blocks == (0,)
    assert cut.kept.tolist() == [[1, 2, 3], [0, 1, 2]]
    removed[:] = False
    removed[resolver.classes.of[labels[:, 1]]] = True
    (cut,) = site_cuts(site, found, removed)
    assert cut.blocks == ()
    assert cut.kept.tolist() == [0, 2, 3]


def test_rows_of_blocks_that_left_are_gone_too() -> None:
    space = LabelSpace()
    heads, dims = space.fresh(3), space.fresh((3, 4))
    factors = (Factor((0,), heads), Factor((0, 1), dims))
    site = Site("w", "n", "Op", 1, (3, 4), factors, frozenset(), True, 0)
    resolver = Resolver(space, [site])
    of = resolver.classes.of
    removed = np.zeros(resolver.classes.count, bool)
    removed[of[[heads[1], dims[0, 0], dims[2, 3], dims[1, 1]]]] = True
    found = [r for r in map(resolver.resolve, factors) if r is not None]
    first, second = site_cuts(site, found, removed)
    assert (first.axis, first.kept.tolist()) == (0, [0, 2])
    assert (second.axis, second.kept.tolist()) == (1, [[1, 2, 3], [0, 1, 2]])
    numbers = np.arange(12).reshape(3, 4)
    assert take(numbers, (first, second)).tolist() == [[1, 2, 3], [8, 9, 10]]


def test_rows_that_would_keep_different_numbers_are_refused() -> None:
    bench = Bench(micrographs.build("grouped_conv"))
    graph = bench.analyse(blocks=False)
    group = graph.by_name["conv2"]
    removed = np.zeros(graph.resolver.classes.count, bool)
    removed[group.units[group.cells[0][:1]]] = True
    with pytest.raises(GraphpruneError, match="different numbers"):
        plan_from_removed(graph, removed)


def test_what_has_to_stay_cannot_be_removed() -> None:
    bench = Bench(NETWORKS["resnet"]())
    removed = np.zeros(bench.graph.resolver.classes.count, bool)
    removed[np.flatnonzero(~bench.graph.resolver.movable)[0]] = True
    with pytest.raises(GraphpruneError, match="has to stay"):
        plan_from_removed(bench.graph, removed)


def test_statistics_are_noted_where_something_leaves_only() -> None:
    bench = Bench(NETWORKS["convnext"]())
    group = bench.graph.by_name["one.fc1"]
    plan = bench.plan(bench.graph, removal(bench.graph, {"one.fc1": (20,)}))
    assert dict(plan.statistics_nodes) == {group.statistics[0]: (3,)}
    both = bench.plan(bench.graph, removal(bench.graph, {"one.fc1": (20,), "two.fc1": (20,)}))
    assert len(both.statistics_nodes) == 2


def test_axes_that_depend_on_a_dynamic_size_say_so() -> None:
    """Batch and heads merged into one axis, as `bmm` exports have them."""
    body = (
        "q0 = MatMul (x, q) q1 = Reshape (q0, split) q2 = Transpose <perm = [0, 2, 1, 3]> (q1) "
        "q3 = Reshape (q2, merge) k0 = MatMul (x, k) k1 = Reshape (k0, split) "
        "k2 = Transpose <perm = [0, 2, 3, 1]> (k1) k3 = Reshape (k2, turn) s = MatMul (q3, k3) "
        "s1 = Reshape (s, apart) v0 = MatMul (x, v) v1 = Reshape (v0, split) "
        "v2 = Transpose <perm = [0, 2, 1, 3]> (v1) o = MatMul (s1, v2) "
        "o1 = Transpose <perm = [0, 2, 1, 3]> (o) o2 = Reshape (o1, flat) y = MatMul (o2, w)"
    )
    weights = {n: drawn(8, 12, seed=i) for i, n in enumerate("qkv")} | {
        "w": drawn(12, 5),
        "split": np.array([-1, 6, 3, 4]),
        "merge": np.array([-1, 6, 4]),
        "turn": np.array([-1, 4, 6]),
        "apart": np.array([-1, 3, 6, 6]),
        "flat": np.array([-1, 6, 12]),
    }
    inputs, outputs = "float[N, 6, 8] x", "float[N, 6, 5] y"
    bench = Bench(from_text(body, weights, inputs=inputs, outputs=outputs))
    (group,) = [g for g in bench.graph.groups if g.kind == "head"]
    plan = bench.plan(bench.graph, removal(bench.graph, {group.name: (2,)}))
    cut = plan.tensors["q3"][0]
    batch = bench.bindings[0]["N"]
    assert (cut.axis, cut.dynamic, cut.size, cut.count) == (0, True, 3 * batch, 2 * batch)
    assert not plan.tensors["q2"][0].dynamic
    small = bench.run(bench.pruned(plan), binding=1)["y"]
    assert small.shape == bench.run(binding=1)["y"].shape


def test_the_binding_and_choices_are_passed_on() -> None:
    bench = Bench(NETWORKS["resnet"]())
    plan = bench.plan(bench.graph, removal(bench.graph, {"stem": (7,)}))
    assert dict(plan.binding) == bench.bindings[0]
    assert plan.source_sha256 == bench.loaded.sha256
    assert isinstance(plan.tensors["conv_0"][0], Cut)
