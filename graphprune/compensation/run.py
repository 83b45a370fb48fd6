"""Compensate a pruned model, and say what that was worth on inputs that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.drift import OutputDrift, between, compare_each, outputs_on
from graphprune.compensation.report import DriftReport
from graphprune.compensation.rotation import rotate
from graphprune.compensation.states import fold_states
from graphprune.data.feeds import Calibration
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.shapes import Shapes
from graphprune.passes.compensate import CompensatePass
from graphprune.plan import Plan

Array = np.ndarray[Any, Any]

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

    What left the states of recurrent layers is taken in first, then layers are refitted. There are up
    to two refitted copies, one with the dims inside heads mixed before. That is taken whose outputs are
    closest to the original's on the inputs that regularisers are chosen by, or `pruned` itself; the
    drift is measured on others.

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
    notes: list[str] = []
    done: list[tuple[ir.Model, CompensatePass]] = []

    def refit(copy: ir.Model, mixed: Mapping[str, Array], first: float, share: float) -> None:
        work = CompensatePass(
            plan,
            original,
            dims,
            fit,
            choose,
            threads=threads,
            seed=seed,
            progress=None if progress is None else lambda part: progress(first + share * part),
            mixed=mixed,
        )
        work(copy)
        done.append((copy, work))

    try:
        folded = pruned.clone()
        fold_states(folded, plan, original, dims, fit, threads=threads, seed=seed)
        copy = folded.clone()
        mixed = rotate(copy, plan, original, dims, fit, threads=threads, seed=seed)
        share = 0.5 if mixed else 1.0
        refit(folded, {}, 0.0, share)
        if mixed:
            refit(copy, mixed, share, share)
        wanted = done[0][1].outputs[0]
        plain = outputs_on(pruned, choose, threads=threads)
        tried = [(pruned, plain), *((m, w.outputs[1]) for m, w in done)]
        model = min(tried, key=lambda t: _damage(between(list(wanted[0]), wanted, t[1])))[0]
        if model is pruned:
            notes.append("compensation did not bring held-out outputs closer: the weights stay")
        before, after = compare_each(original, [pruned, model], judge, threads=threads)
    except (UnsupportedModelError, ir.passes.PassError) as error:
        cause = error.__cause__ if isinstance(error, ir.passes.PassError) else error
        if not isinstance(cause, UnsupportedModelError):
            raise
        raise UsageError(f"the model does not run on the calibration inputs: {cause}") from error
    layers, left = next(((w.layers, w.left) for m, w in done if m is model), ((), ()))
    refitted = sum(fitted.lam is not None for fitted in layers)
    if model is not pruned:
        model.metadata_props[REFITTED] = str(refitted)
    report = DriftReport(
        samples=data.samples,
        held_out=sum(b.samples for b in data.judge),
        refitted=refitted,
        kept=len(layers) - refitted,
        left=left,
        uncompensated=plain_drift(before),
        outputs=plain_drift(after),
    )
    return model, report, tuple(notes)


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
