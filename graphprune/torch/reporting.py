"""The report of a pruned module, in the form that ONNX files have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from graphprune import __version__
from graphprune.measure.latency import Latency
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.report.groups import group_reports
from graphprune.report.model import Report, Side
from graphprune.torch.differences import Difference
from graphprune.torch.own import Kept
from graphprune.torch.subject import TorchSubject, count_parameters, parameter_count


def build_report(
    subject: TorchSubject,
    base: TorchSubject,
    plan: Plan,
    result: nn.Module,
    options: Options,
    kept: Kept,
    *,
    difference: Difference | None,
    latency: Latency | None,
    timings: Mapping[str, float],
) -> Report:
    """Everything the user is told.

    Args:
        subject: The original.
        base: It without the layers that left.
        plan: What was removed.
        result: What is left.
        options: What the user said.
        kept: How the user's class was kept, or why not.
        difference: What comparing with the masked original found.
        latency: Both timed in torch.
        timings: Seconds of each stage.
    """
    captured = subject.captured
    tensors = captured.weights.tensors
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if isinstance(t, nn.Parameter)}
    name = type(captured.module).__name__ if captured.module is not None else "graph"
    if kept.module is not None:
        form = (f"kept {name}: {kept.why}", *kept.changed)
    else:
        form = (f"{name} became a graph: {kept.why}",)
    original = captured.module or captured.graph_module
    before = Side(parameter_count(captured), subject.macs(), _bytes(original))
    after = Side(count_parameters(result), base.macs(plan), _bytes(result))
    if latency is not None:
        one, two = latency.original, latency.pruned
        before = Side(before.params, before.macs, before.bytes, one.median_ms, one.iqr_ms)
        after = Side(after.params, after.macs, after.bytes, two.median_ms, two.iqr_ms)
    return Report(
        version=__version__,
        source=name,
        source_sha256=plan.source_sha256,
        plan_sha256=plan.sha256,
        options=options.to_json(),
        original=before,
        pruned=after,
        latency=latency,
        certificate=None if difference is None else _certificate(plan, difference),
        groups=group_reports(plan, shapes),
        unpruned=plan.unpruned,
        timings_s=timings,
        layers=plan.layers,
        warnings=(*captured.notes, *form),
    )


def _bytes(module: nn.Module) -> int:
    tensors = {id(t): t for t in module.state_dict(keep_vars=True).values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _certificate(plan: Plan, found: Difference) -> dict[str, Any]:
    nodes = sorted(plan.statistics_nodes)
    return {
        "status": "statistics" if nodes else "exact",
        "level": "full",
        "max_abs_error": found.abs_error,
        "max_rel_error": found.rel_error,
        "gradient_max_rel_error": found.gradient_error,
        "statistics_nodes": nodes,
        "checked_tensors": found.checked,
        "weak": list(found.weak),
        "first_difference": None,
    }
