"""Putting a report together from what the stages found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from graphprune import __version__
from graphprune.measure.cost import count_macs
from graphprune.measure.memory import peak_activation_bytes
from graphprune.measure.size import count_parameters, model_bytes
from graphprune.onnx.shapes import Shapes, infer_shapes
from graphprune.options import Options
from graphprune.plan import GroupChoice, Plan, pruned_shape
from graphprune.report.model import GroupReport, Report, Side

if TYPE_CHECKING:
    from graphprune.certify.certificate import Certificate
    from graphprune.measure.latency import Latency, Timing


def build_report(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    shapes: Shapes,
    *,
    source: str,
    options: Options,
    certificate: Certificate | None,
    latency: Latency | None,
    timings: Mapping[str, float],
    warnings: Sequence[str],
    original_bytes: int,
) -> Report:
    """Everything the user is told, from both graphs and the plan."""
    before = _side(original, shapes, latency.original if latency else None, original_bytes)
    after = _side(pruned, infer_shapes(pruned, shapes.binding), latency.pruned if latency else None)
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
    )


def _side(model: ir.Model, shapes: Shapes, timing: Timing | None, size: int | None = None) -> Side:
    return Side(
        params=count_parameters(model),
        macs=count_macs(model, shapes).total,
        bytes=model_bytes(model) if size is None else size,
        latency_ms=None if timing is None else timing.median_ms,
        latency_iqr_ms=None if timing is None else timing.iqr_ms,
        peak_activation_bytes=peak_activation_bytes(model, shapes.dims, shapes.dtypes),
    )


def _groups(original: ir.Model, plan: Plan) -> tuple[GroupReport, ...]:
    saved = _saved(original, plan)
    return tuple(
        GroupReport(g.name, g.kind, g.size, len(g.kept), g.members, g.kept, saved[g.name])
        for g in plan.groups
    )


def _saved(original: ir.Model, plan: Plan) -> dict[str, int]:
    """Weights that left, each divided among the groups that cut the initializer it was in."""
    sizes = {}
    for name, value in original.graph.initializers.items():
        if value.const_value is not None:
            sizes[name] = tuple(int(n) for n in value.const_value.shape.numpy())
    by_axis: dict[tuple[str, int], list[GroupChoice]] = {}
    for group in plan.groups:
        for name, axis in group.members:
            by_axis.setdefault((name, axis), []).append(group)
    shares = {g.name: 0.0 for g in plan.groups}
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for use in plan.initializers:
        shape = sizes.get(use.initializer)
        if shape is None:
            continue
        new = pruned_shape(shape, use.cuts)
        if (use.initializer, new) in seen:
            continue
        seen.add((use.initializer, new))
        gone = int(np.prod(shape)) - int(np.prod(new))
        weight = {c.axis: float(np.log(max(c.size, 1) / max(c.count, 1))) for c in use.cuts}
        total = sum(weight.values())
        for cut in use.cuts:
            groups = by_axis.get((use.initializer, cut.axis), [])
            for group in groups:
                part = weight[cut.axis] / total if total else 0.0
                shares[group.name] += gone * part / len(groups)
    return {name: round(share) for name, share in shares.items()}
