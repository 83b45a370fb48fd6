"""Putting a report together from what the stages found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphprune import __version__
from graphprune.compensation.report import DriftReport
from graphprune.measure.cost import count_macs
from graphprune.measure.memory import peak_activation_bytes
from graphprune.measure.size import count_parameters, model_bytes
from graphprune.onnx.shapes import infer_shapes
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.report.groups import group_reports
from graphprune.report.model import GroupReport, Metric, Report, Side

if TYPE_CHECKING:
    from graphprune.certify.certificate import Certificate
    from graphprune.measure.latency import Latency, Timing


def build_report(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    binding: Mapping[str, int],
    *,
    source: str,
    options: Options,
    certificate: Certificate | None,
    latency: Latency | None,
    timings: Mapping[str, float],
    warnings: Sequence[str],
    original_bytes: int,
    drift: DriftReport | None = None,
    distillation: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
    search: Mapping[str, Any] | None = None,
) -> Report:
    """Everything the user is told, from both graphs and the plan."""
    before = _side(original, binding, latency.original if latency else None, original_bytes)
    after = _side(pruned, binding, latency.pruned if latency else None)
    notes = list(warnings)
    if certificate is not None:
        notes += certificate.weak
    return Report(
        version=__version__,
        source=source,
        source_sha256=plan.source_sha256,
        plan_sha256=plan.sha256,
        options=options.to_json(),
        original=before,
        pruned=after,
        latency=latency,
        certificate=None if certificate is None else certificate.to_json(),
        groups=_groups(original, plan),
        unpruned=plan.unpruned,
        timings_s=timings,
        warnings=tuple(notes),
        metric=metric,
        drift=drift,
        distillation=distillation,
        search=search,
        layers=plan.layers,
    )


def _side(
    model: ir.Model, binding: Mapping[str, int], timing: Timing | None, size: int | None = None
) -> Side:
    shapes = infer_shapes(model, binding)
    return Side(
        params=count_parameters(model),
        macs=count_macs(model, shapes).total,
        bytes=model_bytes(model) if size is None else size,
        latency_ms=None if timing is None else timing.median_ms,
        latency_iqr_ms=None if timing is None else timing.iqr_ms,
        peak_activation_bytes=peak_activation_bytes(model, shapes.dims, shapes.dtypes),
    )


def _groups(original: ir.Model, plan: Plan) -> tuple[GroupReport, ...]:
    shapes = {
        name: tuple(int(n) for n in value.const_value.shape.numpy())
        for name, value in original.graph.initializers.items()
        if value.const_value is not None
    }
    return group_reports(plan, shapes)
