"""From an ONNX model to its dependency graph."""

from __future__ import annotations

import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph, build
from graphprune.onnx.shapes import Shapes
from graphprune.onnx.trace import trace


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
    return build(traced.alg, traced.sites, traced.statistics, traced.residuals, traced.links)
