"""From an ONNX model to its dependency graph."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph, build
from graphprune.onnx.shapes import Shapes
from graphprune.onnx.trace import STRONG, trace
from graphprune.plan import Unpruned
from graphprune.rules.context import node_name


def analyse_graph(
    model: ir.Model,
    shapes: Shapes,
    other: Shapes | None = None,
    *,
    blocks: bool = True,
    grid: int = 16,
) -> DependencyGraph:
    """Groups of a canonical model (see `trace` for the arguments)."""
    traced = trace(model, shapes, other, blocks=blocks, grid=grid)
    graph = build(traced.alg, traced.sites, traced.statistics, traced.residuals, traced.links)
    return replace(graph, unpruned=(*graph.unpruned, *_replaceable(model)))


def _replaceable(model: ir.Model) -> list[Unpruned]:
    """Weights that are inputs of the graph as well: a caller may put others in their place."""
    reason = "is an input of the graph too, which a caller may replace: take it out of the inputs"
    return [
        Unpruned(
            node_name(next(iter(value.uses())).node), f"'{value.name}' {reason}", value.name or ""
        )
        for value in model.graph.inputs
        if value.is_initializer() and value.dtype in STRONG and value.uses()
        if value.shape is not None and len(value.shape) > 1
    ]
