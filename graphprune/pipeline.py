"""The compile pipeline: one visible tuple of stages, each of which adds to what is known.

load -> run -> survey -> aim -> decide -> rewrite -> certify -> compensate -> measure -> evaluate -> report
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.errors import UsageError
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.shapes import default_bindings, shape_pair
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.stages.aim import aim_stage
from graphprune.stages.choose import decide_stage, rewrite_stage
from graphprune.stages.measure import evaluate_stage, measure_stage, report_stage
from graphprune.stages.prove import certify_stage, verify
from graphprune.stages.read import load_stage, resolve, run_stage
from graphprune.stages.recover import compensate_stage
from graphprune.stages.survey import survey_stage
from graphprune.stages.work import Progress, Work

if TYPE_CHECKING:
    from graphprune.report.model import Report

__all__ = ["Options", "Result", "analyse", "compile", "verify"]


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model, what was decided, and what that did."""

    model: ir.Model
    plan: Plan
    report: Report


STAGES: tuple[tuple[str, Callable[[Work], Work]], ...] = (
    ("load", load_stage),
    ("run", run_stage),
    ("survey", survey_stage),
    ("aim", aim_stage),
    ("decide", decide_stage),
    ("rewrite", rewrite_stage),
    ("certify", certify_stage),
    ("compensate", compensate_stage),
    ("measure", measure_stage),
    ("evaluate", evaluate_stage),
    ("report", report_stage),
)


def compile(
    model: Any,
    options: Options | None = None,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Prune a model, prove the result, time both.

    Args:
        model: A path, `zoo:NAME`, `onnx.ModelProto`, `onnx_ir.Model` or torch `ONNXProgram`.
        options: What stays; or give the fields of `Options` as keywords (`channels=0.5`).
        plan: Apply this plan instead of making one.
        progress: Called with the name of each stage, and the share of it that is done.
        **settings: Fields of `Options`.

    Returns:
        The pruned model (not yet written), the plan and the report.

    Raises:
        GraphpruneError: One of its kinds; see `graphprune.errors`.
    """
    options = replace(options, **settings) if options is not None else Options(**settings)
    if plan is None and not options.says_what_stays:
        raise UsageError(
            "say what stays: channels=, params=, macs=, latency=, latency_ms=, max_drop=, "
            "max_divergence=, heads=, head_dims= or a plan"
        )
    work = Work(model, options, progress or (lambda *_: None), given=plan)
    for name, stage in STAGES:
        work.progress(name)
        start = perf_counter()
        work = stage(work)
        work = replace(work, timings={**work.timings, name: perf_counter() - start})
    assert work.report is not None
    report = replace(work.report, timings_s=work.timings)
    return Result(work.result, work.known_plan, report)


def analyse(model: Any, *, dims: Mapping[str, int] | None = None) -> DependencyGraph:
    """The dependency graph of a model: groups, members, constraints, and what stays and why.

    Args:
        model: As for `compile`.
        dims: Sizes of dynamic dimensions.
    """
    from graphprune.onnx.analyse import analyse_graph

    canonical = canonicalise(load(resolve(model)).model)
    return analyse_graph(canonical, *shape_pair(canonical, *default_bindings(canonical, dims)))
