"""Giving the pruned model back what the cut took."""

from __future__ import annotations

from dataclasses import replace

from graphprune.stages.work import Work


def compensate_stage(work: Work) -> Work:
    """Refit what is behind a cut to calibration inputs; what was proven is the model before."""
    if work.calibration is None or not work.known_plan.tensors:
        return work
    from graphprune.compensation.run import compensate

    model, drift, notes = compensate(
        work.known_model,
        work.result,
        work.known_plan,
        work.known_shapes[0],
        work.calibration,
        threads=work.options.threads,
        seed=work.options.seed,
        progress=lambda share: work.progress("compensate", share),
    )
    return replace(work, pruned=model, drift=drift, warnings=(*work.warnings, *notes))
