"""Right triples are certified, broken ones are refused at the right node by each half alone."""

from __future__ import annotations

import json

import pytest
from certify_case import Case, Mutation
from certify_cases import all_cases
from certify_convolutions import conv_chain

from graphprune.certify import certify, require
from graphprune.certify.numeric import compare_graphs
from graphprune.certify.structural import check_structure
from graphprune.errors import CertificateError
from graphprune.onnx.shapes import default_bindings

CASES = all_cases()
BROKEN = [(case, mutation) for case in CASES for mutation in case.mutations]


def named(message: str, nodes: tuple[str, ...]) -> bool:
    """Whether the message blames one of `nodes` (the first node that it quotes)."""
    return any(message.partition(" '")[2].startswith(f"{node}'") for node in nodes)


def broken(case: Case, mutation: Mutation):
    model = case.pruned.clone()
    mutation.apply(model)
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("level", ["full", "layerwise"])
def test_right_triple(case: Case, level: str) -> None:
    found = certify(case.original, case.pruned, case.plan, level=level)
    assert found.status == case.status, found.first_difference
    assert found.first_difference == ""
    assert found.max_rel_error < 1e-5
    assert found.tensor_max_rel_error < 1e-5
    top = {v.name for node in case.original.graph for v in node.outputs}
    assert found.checked_tensors >= len(top & set(case.plan.tensors))
    assert len(found.bindings) == 2
    assert found.bindings[0] == case.plan.binding
    assert set(found.statistics_nodes) == set(case.plan.statistics_nodes)
    assert not [w for w in found.weak if "dynamic axis" not in w]
    require(found)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_right_triple_by_structure_alone(case: Case) -> None:
    found = certify(case.original, case.pruned, case.plan, level="structural")
    assert found.status == case.status, found.first_difference
    assert found.checked_structure >= len(case.plan.initializers)
    assert found.weak == ("structure only: neither graph was run",)


@pytest.mark.parametrize(
    ("case", "mutation"), BROKEN, ids=[f"{c.name}-{m.name.replace(' ', '_')}" for c, m in BROKEN]
)
def test_broken_graph_is_refused(case: Case, mutation: Mutation) -> None:
    model = broken(case, mutation)
    found = certify(case.original, model, case.plan)
    assert found.status == "failed"
    assert named(found.first_difference, mutation.nodes), found.first_difference
    with pytest.raises(CertificateError, match=f"'{mutation.nodes[0]}'|'{mutation.nodes[-1]}'"):
        require(found)
    bindings = [default_bindings(case.original)[1]]
    structure = check_structure(case.original, model, case.plan, [case.plan.binding, *bindings])
    assert bool(structure.failures) == mutation.structural, structure.failures
    if mutation.structural:
        assert named(structure.failures[0], mutation.nodes), structure.failures[0]
    for layerwise in (False, True):
        numbers = compare_graphs(
            case.original, model, case.plan, renamed=structure.renamed, layerwise=layerwise
        )
        if mutation.numeric:
            assert named(numbers.difference, mutation.nodes), numbers.difference


def test_json_is_what_the_report_needs() -> None:
    case = conv_chain()
    data = json.loads(json.dumps(certify(case.original, case.pruned, case.plan).to_json()))
    assert data["status"] == "exact"
    assert data["bindings"] == [{"N": 2}, {"N": 3}]
    assert data["statistics_nodes"] == []
    assert {"max_abs_error", "max_rel_error", "weak", "checked_tensors"} <= set(data)
    assert data["first_difference"] is None


def test_same_seed_same_certificate() -> None:
    case = conv_chain()
    first, second = (certify(case.original, case.pruned, case.plan, seed=3) for _ in range(2))
    assert first == second
