"""Giving the pruned model back what the cut took."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graphprune.stages.work import Recovered, Work

if TYPE_CHECKING:
    from graphprune.data.feeds import Calibration


def compensate_stage(work: Work) -> Work:
    """Refit what is behind a cut to calibration inputs; what was proven is the model before."""
    if work.calibration is None or work.calibration.random or not work.known_plan.cuts_something:
        return work
    found = work.recovered
    if found is None or found.plan_sha256 != work.known_plan.sha256:
        work.collected.clear()  # scores are known; covariances would take more memory than the model
        found = _recovered(work, work.calibration)
    return replace(
        work,
        recovered=found,
        pruned=found.model,
        drift=found.drift,
        warnings=(*work.warnings, *found.notes),
    )


def _recovered(work: Work, data: Calibration) -> Recovered:
    from graphprune.compensation.run import compensate

    found = compensate(
        work.known_model,
        work.result,
        work.known_plan,
        work.known_shapes[0],
        data,
        threads=work.options.threads,
        seed=work.options.seed,
        progress=lambda share: work.progress("compensate", share),
    )
    return Recovered(work.known_plan.sha256, *found)


def distill_stage(work: Work) -> Work:
    """Train the result to give what the original gives. It comes behind the timing, which weights
    do not change: what is too slow is not trained."""
    options, calibration = work.options, work.calibration
    if options.distill is None or calibration is None or not work.known_plan.cuts_something:
        return work
    from graphprune.certify.drift import compare_on
    from graphprune.compensation.run import plain_drift
    from graphprune.distill.run import distill

    model, done = distill(
        work.known_model,
        work.result,
        work.known_plan,
        calibration,
        minutes=options.distill,
        seed=options.seed,
        threads=options.threads,
        checkpoint=options.distill_checkpoint,
        progress=lambda share: work.progress("distill", share),
    )
    drift = work.drift
    if drift is not None:
        judge = [b.feeds for b in calibration.judge]
        after = compare_on(work.known_model, model, judge, threads=options.threads)
        drift = replace(drift, outputs=plain_drift(after))
    warnings = (*work.warnings, *done.warnings)
    return replace(work, pruned=model, drift=drift, distilled=done, warnings=warnings)
