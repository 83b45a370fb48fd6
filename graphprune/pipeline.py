"""The compile pipeline: one visible tuple of stages, each of which adds to what is known.

load -> run -> shorten -> survey -> aim -> decide -> rewrite -> certify -> compensate -> measure ->
distill -> evaluate -> report
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
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
from graphprune.stages.recover import compensate_stage, distill_stage
from graphprune.stages.shorten import shorten_stage
from graphprune.stages.survey import survey_stage
from graphprune.stages.work import Progress, Work
from graphprune.threads import one_blas_thread

if TYPE_CHECKING:
    from graphprune.analysis.layers import Layer
    from graphprune.damage.result import Sensitivity
    from graphprune.decide import Scores
    from graphprune.report.model import Report

__all__ = ["Options", "Result", "analyse", "compile", "layers", "sensitivity", "verify"]

EIGHTHS = tuple(i / 8 for i in range(1, 8))
"""Fractions that `sensitivity` measures."""


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model, what was decided, and what that did."""

    model: ir.Model
    plan: Plan
    report: Report


STAGES: tuple[tuple[str, Callable[[Work], Work]], ...] = (
    ("load", load_stage),
    ("run", run_stage),
    ("shorten", shorten_stage),
    ("survey", survey_stage),
    ("aim", aim_stage),
    ("decide", decide_stage),
    ("rewrite", rewrite_stage),
    ("certify", certify_stage),
    ("compensate", compensate_stage),
    ("measure", measure_stage),
    ("distill", distill_stage),
    ("evaluate", evaluate_stage),
    ("report", report_stage),
)


def compile(
    model: Any,
    options: Options | None = None,
    *,
    plan: Plan | None = None,
    scores: Scores | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Prune a model, prove the result, time both.

    Args:
        model: A path, `zoo:NAME`, `onnx.ModelProto`, `onnx_ir.Model` or torch `ONNXProgram`.
        options: What stays; or give the fields of `Options` as keywords (`channels=0.5`).
        plan: Apply this plan instead of making one.
        scores: A criterion of your own: called with the analysis and names of groups, gives for each
            name the scores of its units (finite, larger stays), in place of `criterion`.
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
            "max_divergence=, layers=, heads=, head_dims= or a plan"
        )
    if scores is not None and (plan is not None or options.criterion != "auto"):
        raise UsageError("scores are in place of a criterion or a plan: give one of them")
    work = Work(model, options, progress or (lambda *_: None), given=plan, scores=scores)
    if options.calib is None:
        return _through_stages(work)
    with one_blas_thread():
        return _through_stages(work)


def _through_stages(work: Work) -> Result:
    for name, stage in STAGES:
        work.progress(name)
        start = perf_counter()
        work = stage(work)
        work = replace(work, timings={**work.timings, name: perf_counter() - start})
    assert work.report is not None
    report = replace(work.report, timings_s=work.timings)
    return Result(work.result, work.known_plan, report)


def sensitivity(
    model: Any,
    options: Options | None = None,
    *,
    fractions: Sequence[float] = EIGHTHS,
    compensate: bool = True,
    jobs: int = 1,
    scheduler: str = "",
    checkpoint: str | PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Sensitivity, tuple[str, ...]]:
    """Damage of each group of a model alone, and warnings.

    Args:
        model: As for `compile`.
        options: Calibration inputs, metric, criterion, alignment and which groups; or as keywords.
        fractions: Of each group's units that stay, rounded to the grid.
        compensate: Measure with compensation, too.
        jobs: Processes that measure, and threads of this one until they can; 1: one thread.
        scheduler: Address of a Dask scheduler, in place of processes.
        checkpoint: File that keeps measurements; a later call with the same settings and data goes on
            from it. It is left behind.
        progress: As for `compile`.
        **settings: Fields of `Options`.

    Raises:
        GraphpruneError: One of its kinds; see `graphprune.errors`.
    """
    from graphprune.damage.run import sensitivity as measure
    from graphprune.stages.choose import scores_for

    options = replace(options, **settings) if options is not None else Options(**settings)
    if options.calib is None:
        options = replace(options, calib="random")
    work = Work(model, options, progress or (lambda *_: None))
    for name, stage in (("load", load_stage), ("run", run_stage)):
        work.progress(name)
        work = stage(work)
    assert work.loaded is not None
    assert work.calibration is not None
    found = measure(
        work.known_model,
        work.known_shapes,
        options,
        work.calibration,
        source_sha256=work.loaded.sha256,
        scores=scores_for(work, None if scheduler else jobs),
        known=work.collected,
        metric=options.eval,
        fractions=fractions,
        compensate=compensate,
        jobs=jobs,
        scheduler=scheduler,
        checkpoint=checkpoint,
        progress=lambda share: work.progress("sensitivity", share),
    )
    return found, work.warnings


def analyse(model: Any, *, dims: Mapping[str, int] | None = None) -> DependencyGraph:
    """The dependency graph of a model: groups, members, constraints, and what stays and why.

    Args:
        model: As for `compile`.
        dims: Sizes of dynamic dimensions.
    """
    from graphprune.onnx.analyse import analyse_graph

    canonical = canonicalise(load(resolve(model)).model)
    return analyse_graph(canonical, *shape_pair(canonical, *default_bindings(canonical, dims)))


def layers(model: Any, *, dims: Mapping[str, int] | None = None) -> tuple[Layer, ...]:
    """What of a model can leave as a whole: its layers and residual blocks, in order.

    Args:
        model: As for `compile`.
        dims: Sizes of dynamic dimensions.
    """
    from graphprune.onnx.layers import layers_of

    canonical = canonicalise(load(resolve(model)).model)
    return layers_of(canonical, shape_pair(canonical, *default_bindings(canonical, dims)))
