"""Groups whose sizes cannot be followed are left with the reason; the others are pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text, half, removal

import graphprune
from graphprune.analysis.dependency import DependencyGraph
from graphprune.cut import Cut
from graphprune.errors import UsageError
from graphprune.passes.sizes import SizeError
from graphprune.plan import GroupChoice, Plan, Unpruned
from graphprune.rewrite import groups_at, rewrite

#: Channels plus time is read as data: no factor scales it back at every length.
AWKWARD = (
    "h = Conv (x, w) s = Shape (h) a = Gather (s, one) b = Gather (s, two) n = Add (a, b) "
    "f = Cast <to = 1> (n) d = Div (h, f) r = Relu (d) q = Conv (r, u) t = Relu (q) y = Conv (t, v)"
)
CONSTANTS = {
    "w": drawn(8, 3, 1, fan_in=3),
    "u": drawn(6, 8, 1, fan_in=1),
    "v": drawn(4, 6, 1, fan_in=6),
    "one": np.array(1),
    "two": np.array(2),
}


def awkward(body: str = AWKWARD):
    return from_text(body, CONSTANTS, inputs="float[N, 3, T] x", outputs="float[N, 4, T] y")


class Decider:
    """Halves every group but those refused, and remembers what it was told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.told: list[list[Unpruned]] = []

    def __call__(self, refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        self.told.append(list(refused))
        graph = self.bench.graph
        names = {u.group for u in refused}
        counts = {g.name: half(g) for g in graph.groups if g.name not in names}
        plan = self.bench.plan(graph, removal(graph, counts))
        choices = tuple(GroupChoice(n, "channel", 8, (0,)) for n in counts)
        return replace(plan, groups=choices), graph


def test_a_plan_that_works_is_taken_as_it_is() -> None:
    bench = Bench(NETWORKS["resnet"]())
    decide = Decider(bench)
    plan, graph = decide(())
    found, same, pruned = rewrite(bench.model, bench.bindings, plan, graph, decide)
    assert found is plan
    assert same is graph
    assert len(decide.told) == 1
    assert list(pruned.graph.initializers["stem.weight"].shape) == [8, 3, 3, 3]


def test_a_group_that_cannot_be_followed_is_refused_and_the_rest_pruned() -> None:
    bench = Bench(awkward())
    assert [g.name for g in bench.graph.groups] == ["h", "q"]
    decide = Decider(bench)
    plan, graph = decide(())
    found, _, pruned = rewrite(bench.model, bench.bindings, plan, graph, decide)
    (refused,) = decide.told[-1]
    assert refused.group == "h"
    assert refused.node in ("d", "f")
    assert "factor" in refused.reason
    assert list(pruned.graph.initializers["w"].shape) == [8, 3, 1]
    assert list(pruned.graph.initializers["u"].shape) == [3, 8, 1]
    assert set(found.tensors) == {"q", "t"}


def test_the_whole_line_reports_it() -> None:
    result = graphprune.compile(awkward(), channels=0.5, align=1, bench=False)
    assert [(g.name, len(g.kept)) for g in result.plan.groups] == [("q", 3)]
    assert any(u.group == "h" and "factor" in u.reason for u in result.plan.unpruned)
    assert result.report.certificate["status"] == "exact"


def test_many_groups_are_refused_one_after_the_other() -> None:
    """More of them than any fixed number of rounds."""
    layers = 20
    body, weights, h = "", {"one": np.array(1), "two": np.array(2)}, "x"
    for i in range(layers):
        weights[f"w{i}"] = drawn(8, 8 if i else 3, 1, seed=i, fan_in=8)
        body += (
            f"h{i} = Conv ({h}, w{i}) s{i} = Shape (h{i}) a{i} = Gather (s{i}, one) "
            f"b{i} = Gather (s{i}, two) n{i} = Add (a{i}, b{i}) f{i} = Cast <to = 1> (n{i}) "
            f"d{i} = Div (h{i}, f{i}) "
        )
        h = f"d{i}"
    weights["u"] = drawn(6, 8, 1, fan_in=8)
    weights["v"] = drawn(4, 6, 1, fan_in=6)
    body += f"q = Conv ({h}, u) t = Relu (q) y = Conv (t, v)"
    proto = from_text(body, weights, inputs="float[N, 3, T] x", outputs="float[N, 4, T] y")
    bench = Bench(proto)
    assert len(bench.graph.groups) == layers + 1
    decide = Decider(bench)
    plan, graph = decide(())
    found, _, _ = rewrite(bench.model, bench.bindings, plan, graph, decide)
    assert set(found.tensors) == {"q", "t"}


def test_a_plan_from_outside_is_refused_as_a_whole() -> None:
    bench = Bench(awkward())
    decide = Decider(bench)
    plan, _ = decide(())
    with pytest.raises(SizeError, match="factor"):
        rewrite(bench.model, bench.bindings, plan, None, decide)
    bad = Plan("", (), {"gone": (Cut(0, 2, np.array([0])),)}, ())
    with pytest.raises(UsageError, match="'gone'"):
        rewrite(bench.model, bench.bindings, bad, bench.graph, decide)


def test_groups_at_a_node_are_those_it_reads_or_writes() -> None:
    bench = Bench(NETWORKS["densenet"]())
    plan, graph = Decider(bench)(())
    assert groups_at(graph, plan, "concat_7") == ["stem", "one.conv2"]
    assert groups_at(graph, plan, "nothing") == []
