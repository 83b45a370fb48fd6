"""A model on the bench: loaded, canonical, with its sizes, for tests of the single stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.analysis.groups import Group
from graphprune.analysis.planning import plan_from_removed
from graphprune.measure.cost import count_macs
from graphprune.measure.size import NOT_WEIGHTS, count_parameters
from graphprune.onnx.analyse import analyse_graph
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.costs import mac_function, whole_uses
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.onnx.shapes import default_bindings, infer_shapes, shape_pair
from graphprune.onnx.subject import initializers_of
from graphprune.passes.prune import PrunePass
from graphprune.plan import Plan
from graphprune.selection.cost import CostModel
from graphprune.selection.widths import counts_for

Array = np.ndarray[Any, Any]
Counts = dict[str, tuple[int, ...]]


def from_text(
    body: str,
    weights: Mapping[str, Array],
    *,
    inputs: str = "float[N, 8] x",
    outputs: str = "float[N, M] y",
    opset: int = 18,
) -> onnx.ModelProto:
    """A model from ONNX text and named weights."""
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def drawn(*shape: int, seed: int = 0, fan_in: int | None = None) -> Array:
    """Weights of which unit variance goes in and about unit variance comes out."""
    scale = (fan_in or shape[0]) ** -0.5
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


class Bench:
    """The first stages of a compile, one by one."""

    def __init__(self, model: Any, dims: Mapping[str, int] | None = None) -> None:
        self.loaded = load(model)
        self.model = canonicalise(self.loaded.model)
        self.bindings = default_bindings(self.model, dims)
        self.shapes = shape_pair(self.model, *self.bindings)

    def analyse(self, *, blocks: bool = True, grid: int = 1) -> DependencyGraph:
        return analyse_graph(self.model, self.shapes[0], self.shapes[1], blocks=blocks, grid=grid)

    @cached_property
    def graph(self) -> DependencyGraph:
        return self.analyse()

    @cached_property
    def weights(self) -> dict[str, Array]:
        found = initializers_of(self.model)
        return {n: v.const_value.numpy() for n, v in found.items()}

    @cached_property
    def cost(self) -> CostModel:
        return self.cost_of(self.graph)

    def cost_of(self, graph: DependencyGraph) -> CostModel:
        found = initializers_of(self.model)
        return CostModel(
            graph,
            mac_function(self.model, self.shapes[0]),
            count_parameters(self.model),
            whole=whole_uses(self.model, graph.sites),
            uncounted={n for n, v in found.items() if v.dtype in NOT_WEIGHTS},
        )

    def plan(self, graph: DependencyGraph, removed: Array) -> Plan:
        sha256, binding = self.loaded.sha256, self.bindings[0]
        return plan_from_removed(graph, removed, source_sha256=sha256, binding=binding)

    def pruned(self, plan: Plan) -> ir.Model:
        copy = self.model.clone()
        PrunePass(plan, self.bindings)(copy)
        return copy

    def run(self, model: ir.Model | None = None, binding: int = 0) -> dict[str, Array]:
        """Outputs of the (pruned) model on random inputs."""
        feeds = random_feeds(self.model, self.shapes[binding], 0)
        with Session(model or self.model) as session:
            return session.run(feeds)


def really(model: ir.Model, binding: Mapping[str, int]) -> tuple[int, int]:
    """(parameters, MACs) counted on a graph as it stands."""
    return count_parameters(model), count_macs(model, infer_shapes(model, binding)).total


def removal(graph: DependencyGraph, counts: Mapping[str, Sequence[int]], seed: int = 0) -> Array:
    """Random units of every cell leave, as many as `counts` says."""
    rng = np.random.default_rng(seed)
    removed = np.zeros(graph.resolver.classes.count, bool)
    for group in graph.groups:
        for cell, count in zip(group.cells, counts.get(group.name, ()), strict=False):
            removed[group.units[rng.permutation(cell)[count:]]] = True
    return removed


def random_counts(groups: Sequence[Group], rng: np.random.Generator) -> Counts:
    """A random legal allocation, off any grid."""
    return {g.name: counts_for(g, float(rng.uniform(0.1, 0.8)), lambda w: 1) for g in groups}


def half(group: Group) -> tuple[int, ...]:
    """About half of the units of a group, legally."""
    return counts_for(group, 0.5, lambda w: 1)
