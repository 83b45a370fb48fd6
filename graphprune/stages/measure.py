"""Timing both models, and the report."""

from __future__ import annotations

from dataclasses import replace

from graphprune.errors import NothingGainedError
from graphprune.stages.choose import decide_stage, rewrite_stage
from graphprune.stages.prove import certify_stage
from graphprune.stages.recover import compensate_stage
from graphprune.stages.work import Work

_COARSER = (32, 64)


def measure_stage(work: Work) -> Work:
    """Time both models. Where the result is slower, try coarser widths; else it is an error."""
    if not work.options.bench or work.timed is None:
        return work
    first = found = _timed(work)
    fixed = work.given is not None or work.search is not None or work.options.align != "auto"
    for grid in () if fixed else _COARSER:
        if not _slower(found):
            return found
        note = f"slower on the default grid, so widths are multiples of {grid}"
        again = replace(
            work,
            options=replace(work.options, align=grid),
            warnings=(*work.warnings, note),
        )
        try:
            for stage in (decide_stage, rewrite_stage, certify_stage, compensate_stage):
                again = stage(again)
        except NothingGainedError:  # nothing is on that grid
            break
        found = _timed(again)
    if not _slower(found):
        return found
    assert first.latency is not None
    raise NothingGainedError(
        f"the pruned model is slower than the original ({first.latency.ratio:.2f}x at "
        f"{work.options.threads} thread(s)): keep less, use --align auto, or pass --allow-slower"
    )


def _slower(work: Work) -> bool:
    assert work.latency is not None
    return work.latency.verdict == "slower" and not work.options.allow_slower


def _timed(work: Work) -> Work:
    from graphprune.measure.latency import compare_latency

    assert work.timed is not None
    latency = compare_latency(
        work.known_model,
        work.result,
        work.timed.feeds,
        threads=work.options.threads,
        provider=work.options.provider,
        progress=lambda share: work.progress("measure", share),
    )
    return replace(work, latency=latency)


def evaluate_stage(work: Work) -> Work:
    """The user's own metric of the result, beside the original's."""
    if work.metric is None:
        return work
    return replace(work, quality=(*work.quality[:1], work.metric(work.result)))


def report_stage(work: Work) -> Work:
    """Put together what was done."""
    from graphprune.report.build import build_report
    from graphprune.report.model import Metric

    assert work.loaded is not None
    metric = None
    if work.metric is not None:
        before, after = work.quality
        metric = Metric(work.metric.name, before, after)
    report = build_report(
        work.known_model,
        work.result,
        work.known_plan,
        work.known_shapes[0].binding if work.timed is None else work.timed.binding,
        source=str(work.loaded.path or "model in memory"),
        options=work.asked or work.options,
        certificate=work.certificate,
        latency=work.latency,
        timings=work.timings,
        warnings=work.warnings,
        original_bytes=work.loaded.original_size_bytes,
        drift=work.drift,
        distillation=None if work.distilled is None else work.distilled.to_json(),
        metric=metric,
        search=None if work.search is None else work.search.to_json(),
    )
    return replace(work, report=report)
