"""Why something can or cannot be pruned."""

from __future__ import annotations

import json

import numpy as np
import pytest
from architectures import NETWORKS
from workbench import Bench, drawn, from_text

from graphprune.analysis.explain import explain
from graphprune.errors import UsageError
from models_zoo.builders import micrographs

PINNED = (
    "h = MatMul (x, w) r = Relu (h) t = Tanh (r) z = MatMul (t, v) s = Softmax (t) "
    "a = MatMul (s, v) y = Add (z, a)"
)


def pinned() -> Bench:
    return Bench(from_text(PINNED, {"w": drawn(8, 6), "v": drawn(6, 4)}))


def test_the_node_the_reason_and_the_way_there() -> None:
    found = explain(pinned().graph, "w")
    (finding,) = found.findings
    assert finding.place == "w[1] @ h"
    assert not finding.prunable
    assert finding.groups == ()
    assert finding.node == "s"
    assert "Softmax" in finding.reason
    assert [step.place for step in finding.path] == ["w[1] @ h", "h[1]", "r[1]"]
    assert [step.node for step in finding.path] == ["h", "r", "t"]
    text = str(found)
    assert "w[1] @ h: stays" in text
    assert "Softmax" in text
    assert "--Relu r--" in text


def test_what_can_be_pruned_names_its_groups() -> None:
    graph = Bench(NETWORKS["densenet"]()).graph
    (finding,) = explain(graph, "concat_7").findings
    assert finding.prunable
    assert finding.groups == ("stem", "one.conv2")
    assert finding.reason == ""
    assert "can be pruned, in stem, one.conv2" in str(explain(graph, "concat_7"))


def test_part_of_an_axis_may_stay() -> None:
    body = "h = MatMul (x, w) a, b = Split <axis = 1> (h, n) s = Softmax (a) "
    body += "t = MatMul (s, u) r = Relu (b) z = MatMul (r, v) y = Add (t, z)"
    weights = {"w": drawn(8, 6), "u": drawn(2, 4), "v": drawn(4, 4), "n": np.array([2, 4])}
    (finding,) = explain(Bench(from_text(body, weights)).graph, "w").findings
    assert finding.prunable
    assert len(finding.groups) == 1
    assert finding.node == "s"
    assert "part of it stays" in str(explain(Bench(from_text(body, weights)).graph, "w"))


def test_a_node_a_group_and_a_weight_can_be_asked_for() -> None:
    graph = Bench(NETWORKS["encoder"]()).graph
    softmax = next(link.node for link in graph.links if link.op == "Softmax")
    for name in ("one.q", "one.fc1.weight", softmax):
        assert explain(graph, name).findings, name
    assert explain(graph, softmax).findings[0].place == f"{softmax}[1]", "whole heads leave"
    both = explain(graph, "one.fc1.weight").findings
    assert [f.place.split(" ")[0] for f in both] == ["one.fc1.weight[1]", "one.fc1.weight[0]"]
    assert json.loads(json.dumps(explain(graph, "one.q").to_json()))["name"] == "one.q"


def test_outputs_explain_themselves() -> None:
    graph = Bench(NETWORKS["resnet"]()).graph
    findings = explain(graph, "head.weight").findings
    by_place = {f.place.split(" ")[0]: f for f in findings}
    assert by_place["head.weight[1]"].prunable
    assert not by_place["head.weight[0]"].prunable
    assert "output 'y'" in by_place["head.weight[0]"].reason


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="'nothing'") as error:
        explain(pinned().graph, "nothing")
    assert "inspect" in str(error.value)


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_everything_that_is_tracked_can_be_explained(name: str) -> None:
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    graph = Bench(build()).graph
    for site in graph.sites[::5]:
        for finding in explain(graph, site.name).findings:
            assert finding.prunable == bool(finding.groups)
            assert finding.prunable or finding.reason
            assert bool(finding.reason) == bool(finding.node) or not finding.node
