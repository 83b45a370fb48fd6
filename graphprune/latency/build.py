"""Measuring a latency table: even prunings of the model, profiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.errors import NothingGainedError
from graphprune.latency.profile import profile
from graphprune.latency.table import LatencyTable, Line
from graphprune.onnx.costs import work_function
from graphprune.onnx.shapes import Shapes
from graphprune.onnx.subject import OnnxSubject, decide_model
from graphprune.options import Options
from graphprune.plan import Plan, Unpruned
from graphprune.rewrite import rewrite
from graphprune.selection.budget import Cost, Counts
from graphprune.selection.cost import CostModel

Array = np.ndarray[Any, Any]


RATIOS = (0.85, 0.7, 0.5, 0.35, 0.2, 0.1)
"""Widths that are profiled beside the original's."""


def made_for(sha256: str, options: Options, binding: Mapping[str, int]) -> dict[str, Any]:
    """What a table holds for."""
    import onnxruntime as ort

    return {
        "model": sha256,
        "onnxruntime": ort.__version__,
        "threads": options.threads,
        "provider": options.provider,
        "sizes": dict(binding),
    }


def measure_table(
    model: ir.Model,
    shapes: tuple[Shapes, Shapes],
    options: Options,
    feeds: Mapping[str, Array],
    fits: Mapping[str, Any],
    progress: Callable[[float], None] | None = None,
) -> LatencyTable:
    """Profile `model` at several widths.

    Args:
        model: Canonical.
        shapes: Its sizes at two bindings.
        options: Alignment, residual widths, threads, provider.
        feeds: What is run.
        fits: See `made_for`.
        progress: Called with the share that is done.

    Raises:
        UnsupportedModelError: onnxruntime does not run one of the models.
    """
    graph, cost = _analysed(model, shapes, options)
    work_of = work_function(model, shapes[0])
    points: dict[str, list[tuple[float, float]]] = {}
    for i, ratio in enumerate((1.0, *RATIOS)):
        found = _evenly(model, shapes, options, ratio) if ratio < 1 else (model, {})
        if progress is not None:
            progress(i / (len(RATIOS) + 1))
        if found is None:
            continue
        pruned, kept = found
        work = work_of(*cost.sizes(_counts(graph, kept)))
        everything = sum(work.values())
        times = profile(pruned, feeds, threads=options.threads, provider=options.provider)
        for name, ms in times.items():
            points.setdefault(name, []).append((work.get(name, everything), ms))
    return LatencyTable(dict(fits), {name: Line.through(p) for name, p in points.items()})


def predictor(
    model: ir.Model, shapes: tuple[Shapes, Shapes], options: Options, table: LatencyTable
) -> Callable[[DependencyGraph], Cost]:
    """From an analysis of `model` to the predicted milliseconds of an allocation."""
    work_of = work_function(model, shapes[0])

    def of(graph: DependencyGraph) -> Cost:
        cost = OnnxSubject(model, shapes, "").cost(graph)

        def predict(counts: Counts) -> float:
            work = work_of(*cost.sizes(counts))
            return table.total({**work, "": sum(work.values())})

        return predict

    return of


def _analysed(
    model: ir.Model, shapes: tuple[Shapes, Shapes], options: Options
) -> tuple[DependencyGraph, CostModel]:
    subject = OnnxSubject(model, shapes, "")
    graph = subject.analyse(grid=16 if options.align == "auto" else int(options.align))
    return graph, subject.cost(graph)


def _evenly(
    model: ir.Model, shapes: tuple[Shapes, Shapes], options: Options, ratio: float
) -> tuple[ir.Model, dict[str, tuple[int, ...]]] | None:
    """The model with the same ratio everywhere, and the units kept of each group that was cut.

    In all groups, whatever is to be pruned this time: the table may be used again.
    """
    even = Options(channels=ratio, align=options.align, residual=options.residual)

    def decided(refused: Sequence[Unpruned]) -> tuple[Plan, DependencyGraph]:
        return decide_model(model, shapes, even, "", lambda *_: None, refused)

    try:
        plan, graph = decided(())
        plan, _, pruned = rewrite(model, [s.binding for s in shapes], plan, graph, decided)
    except NothingGainedError:
        return None
    return (pruned, {g.name: g.kept for g in plan.groups}) if plan.groups else None


def _counts(graph: DependencyGraph, kept: Mapping[str, tuple[int, ...]]) -> Counts:
    by_name = graph.by_name
    return {
        name: tuple(int(np.isin(cell, units).sum()) for cell in by_name[name].cells)
        for name, units in kept.items()
        if name in by_name
    }
