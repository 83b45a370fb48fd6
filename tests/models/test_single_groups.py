"""Every group of whole networks, removed alone, equals the masked original.

Half of the units of one group leave, everything else stays: what a rule gets wrong shows up in the
group that runs through it, and nothing else can hide it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from architectures import NETWORKS
from workbench import Bench, half, removal

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.certify import certify
from models_zoo.builders import micrographs

MICRO = ("lstm_linear", "c2f", "tied_embedding", "einsum_attention", "view_literal", "add_flip")
WITH_BLOCKS = ("encoder", "llama", "micro:einsum_attention", "micro:unfused_attention")
TORCH = ("c2f", "einsum_attention", "lstm_linear", "channel_shuffle")
SIZES = {"encoder": {"time": 6}}


def torch_built(name: str) -> onnx.ModelProto:
    """A micro-graph as torch writes it."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from models_zoo.builders import torch_micrographs
    from models_zoo.builders.export import export

    sample = torch_micrographs.sample(name)
    return export(sample.module, sample.inputs, exporter="legacy", opset=17, axes=sample.axes)


def model_of(name: str) -> onnx.ModelProto:
    kind, _, inner = name.rpartition(":")
    build: dict[str, Callable[[str], onnx.ModelProto]] = {
        "": lambda n: NETWORKS[n](),
        "micro": micrographs.build,
        "torch": torch_built,
    }
    return build[kind](inner)


def removed_alone(bench: Bench, graph: DependencyGraph, group: Group) -> None:
    counts = {group.name: half(group)}
    assert counts[group.name] != tuple(c.size for c in group.cells), "nothing would leave"
    plan = bench.plan(graph, removal(graph, counts, seed=len(group.name)))
    pruned = bench.pruned(plan)
    found = certify(bench.model, pruned, plan, bindings=bench.bindings)
    expected = "statistics" if group.statistics else "exact"
    assert found.status == expected, f"{group.name}: {found.first_difference}"
    assert set(found.statistics_nodes) == set(group.statistics)
    assert found.tensor_max_rel_error < 2e-5
    assert not [w for w in found.weak if "no evidence" in w or "too little" in w], found.weak
    assert found.checked_tensors > len(plan.tensors)
    changed = bench.run(pruned)
    for output, before in bench.run().items():
        assert np.abs(changed[output] - before).max() > 1e-4 * np.abs(before).max(), group.name


def every_group_alone(name: str, *, blocks: bool) -> None:
    bench = Bench(model_of(name), SIZES.get(name))
    graph = bench.analyse(blocks=blocks)
    groups = list(graph.groups)
    if not blocks:  # the others are the same as with whole blocks
        whole = {(g.kind, g.size, len(g.members)) for g in bench.analyse().groups}
        groups = [g for g in groups if (g.kind, g.size, len(g.members)) not in whole]
    assert groups
    for group in groups:
        removed_alone(bench, graph, group)


@pytest.mark.parametrize("name", [*NETWORKS, *(f"micro:{n}" for n in MICRO)])
def test_whole_blocks(name: str) -> None:
    every_group_alone(name, blocks=True)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_inside_blocks(name: str) -> None:
    every_group_alone(name, blocks=False)


@pytest.mark.parametrize("name", TORCH)
def test_as_torch_writes_it(name: str) -> None:
    every_group_alone(f"torch:{name}", blocks=True)
