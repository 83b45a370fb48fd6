"""Compensate a pruned model, and say what that was worth on inputs that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import onnx_ir as ir

from graphprune.certify.drift import OutputDrift, compare_on
from graphprune.data.feeds import Calibration
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.shapes import Shapes
from graphprune.passes.compensate import CompensatePass
from graphprune.plan import Plan
from graphprune.report.model import DriftReport

REFITTED = "graphprune.refitted_layers"
"""Metadata of a model whose weights are no longer slices of the original's."""


def compensate(
    original: ir.Model,
    pruned: ir.Model,
    plan: Plan,
    shapes: Shapes,
    data: Calibration,
    *,
    threads: int = 1,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> tuple[ir.Model, DriftReport, tuple[str, ...]]:
    """A copy of `pruned` with refitted weights, how far it is from `original`, and warnings.

    The refitted copy is taken only where its outputs are closer to the original's on the inputs
    that regularisers are chosen by; the drift is measured on others.

    Args:
        original: Canonical.
        pruned: What `plan` made of it.
        plan: What was cut.
        shapes: Of the original, at any binding.
        data: Calibration inputs.
        threads: Of onnxruntime.
        seed: Of the choice of rows.
        progress: Called with the share that is done.

    Raises:
        UsageError: The model does not run on the calibration inputs.
    """
    dims = {v.name: d for v, d in shapes.dims.items() if v.name}
    fit, choose, judge = ([b.feeds for b in p] for p in (data.fit, data.choose, data.judge))
    copy = pruned.clone()
    work = CompensatePass(
        plan, original, dims, fit, choose, threads=threads, seed=seed, progress=progress
    )
    try:
        before = compare_on(original, pruned, judge, threads=threads)
        work(copy)
        gain = [_damage(compare_on(original, m, choose, threads=threads)) for m in (pruned, copy)]
    except (UnsupportedModelError, ir.passes.PassError) as error:
        cause = error.__cause__ if isinstance(error, ir.passes.PassError) else error
        if not isinstance(cause, UnsupportedModelError):
            raise
        raise UsageError(f"the model does not run on the calibration inputs: {cause}") from error
    notes = []
    refitted = sum(fitted.lam is not None for fitted in work.layers)
    if not gain[1] <= gain[0]:
        copy, refitted = pruned, 0
        notes.append("compensation did not bring held-out outputs closer: the weights stay")
    if refitted:
        copy.metadata_props[REFITTED] = str(refitted)
    after = compare_on(original, copy, judge, threads=threads)
    report = DriftReport(
        samples=data.samples,
        held_out=sum(b.samples for b in data.judge),
        refitted=refitted,
        kept=len(work.layers) - refitted,
        left=work.left,
        uncompensated=plain_drift(before),
        outputs=plain_drift(after),
    )
    return copy, report, tuple(notes)


def _damage(drift: tuple[OutputDrift, ...]) -> float:
    return float(np.mean([o.relative for o in drift])) if drift else 0.0


def plain_drift(drift: tuple[OutputDrift, ...]) -> tuple[dict[str, object], ...]:
    """Plain data; no infinity, which JSON does not have."""
    plain = []
    for output in drift:
        entry = asdict(output)
        for key in ("max_abs", "relative"):
            entry[key] = entry[key] if np.isfinite(entry[key]) else None
        plain.append(entry)
    return tuple(plain)
