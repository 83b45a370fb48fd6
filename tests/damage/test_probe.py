"""One group alone: the same model that compile makes of it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from architectures import NETWORKS
from workbench import Bench

import graphprune
from graphprune.damage.judge import Judge
from graphprune.damage.probe import Point, Prober
from graphprune.onnx.feeds import random_feeds
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.selection.criteria import scores


def prober(bench: Bench, **settings: object) -> Prober:
    return Prober(bench.model, bench.shapes, Options(**{"align": 1, **settings}))


def plan_of(bench: Bench, probe: Prober, point: Point) -> Plan:
    """By the criterion that compile takes when nothing else is said."""
    found = scores([probe.graph.by_name[point.group]], lambda name: bench.weights[name], "l2", 0)
    return probe.plan(point, found[point.group])


@pytest.mark.parametrize("name", ["resnet", "encoder", "shufflenet"])
def test_the_model_of_a_point_is_what_compile_makes(name: str) -> None:
    proto = NETWORKS[name]()
    bench = Bench(proto)
    probe = prober(bench)
    points = probe.points([0.5])
    assert len(points) == len(probe.groups) >= 2
    compared = 0
    for point in points[:4]:
        model = probe.model(plan_of(bench, probe, point))
        assert model is not None
        try:
            made = graphprune.compile(
                proto, channels=0.5, only=point.group, align=1, bench=False, verify=False
            )
        except graphprune.errors.NothingGainedError:  # alone it would make the model larger
            continue
        assert [g.name for g in made.plan.groups] == [point.group]
        assert len(made.plan.groups[0].kept) == sum(point.counts)
        made.model.metadata_props.clear()
        model.metadata_props.clear()
        assert ir.to_proto(model.graph) == ir.to_proto(made.model.graph)
        compared += 1
    assert compared >= 2


def test_points_are_on_the_grid_below_the_whole_and_not_twice() -> None:
    probe = prober(Bench(NETWORKS["resnet"]()), align=8)
    points = probe.points([0.45, 0.5, 0.55, 0.99])
    assert points
    assert len({(p.group, p.counts) for p in points}) == len(points)
    sizes = {g.name: g.size for g in probe.groups}
    for point in points:
        (count,) = point.counts
        assert count % 8 == 0
        assert count < sizes[point.group]
        assert point.kept == count / sizes[point.group]


def test_only_and_exclude_say_which_groups() -> None:
    bench = Bench(NETWORKS["resnet"]())
    every = [g.name for g in prober(bench).groups]
    assert [g.name for g in prober(bench, only=(every[1],)).groups] == [every[1]]
    assert [g.name for g in prober(bench, exclude=(every[1],)).groups] == [every[0], *every[2:]]


def test_less_of_a_group_hurts_more_and_the_original_stays() -> None:
    bench = Bench(NETWORKS["resnet"]())
    before = ir.to_proto(bench.model).SerializeToString()
    probe = prober(bench)
    feeds = [random_feeds(bench.model, bench.bindings[0], i) for i in range(2)]
    judge = Judge(bench.model, feeds)
    found: dict[str, list[float]] = {}
    for point in probe.points([0.1, 0.9]):
        found.setdefault(point.group, []).append(
            judge.damage(probe.model(plan_of(bench, probe, point)))
        )
    assert all(np.isfinite(values).all() and min(values) > 0 for values in found.values())
    assert sum(few > many for few, many in found.values()) >= len(found) - 1
    assert ir.to_proto(bench.model).SerializeToString() == before
