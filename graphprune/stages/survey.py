"""Measuring what the decision needs to know: damage of single groups, time of single nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from graphprune.errors import UsageError
from graphprune.stages.choose import scores_for
from graphprune.stages.work import Work


def survey_stage(work: Work) -> Work:
    """Damage curves for `--scope sensitivity` and `--ratios-from`, a table for `--latency`."""
    if work.given is not None:
        return work
    options = work.options
    if options.ratios_from is not None:
        work = _given_curves(work)
    elif options.scope == "sensitivity":
        work = _measured_curves(work)
    if options.latency is not None or options.latency_ms is not None:
        work = _table(work)
    return work


def _given_curves(work: Work) -> Work:
    from graphprune.damage.result import Sensitivity

    assert work.loaded is not None
    assert work.options.ratios_from is not None
    found = Sensitivity.load(work.options.ratios_from)
    if found.source_sha256 != work.loaded.sha256:
        raise UsageError(
            f"{work.options.ratios_from} was measured on another model (its source_sha256 differs)"
        )
    return replace(work, curves=found.curves())


def _measured_curves(work: Work) -> Work:
    from graphprune.damage.run import FRACTIONS, sensitivity

    assert work.loaded is not None
    assert work.calibration is not None  # the options see to it
    found = sensitivity(
        work.base_model,
        work.base_sizes,
        work.options,
        work.calibration,
        source_sha256=work.loaded.sha256,
        scores=scores_for(work),
        known=work.collected,
        fractions=FRACTIONS,
        both=False,
        progress=lambda share: work.progress("sensitivity", share),
    )
    return replace(work, curves=found.curves())


def _table(work: Work) -> Work:
    from graphprune.latency.build import made_for, measure_table, predictor
    from graphprune.latency.table import LatencyTable

    assert work.loaded is not None
    options = work.options
    if work.timed is None:
        raise UsageError("the model is too large to be timed: give --params or --macs instead")
    fits = made_for(work.loaded.sha256, options, work.timed.binding)
    file = None if options.latency_table is None else Path(options.latency_table)
    if file is not None and not file.parent.is_dir():
        raise UsageError(f"--latency-table: the folder {file.parent} does not exist")
    if file is not None and file.exists():
        table = LatencyTable.load(file, fits)
    else:
        table = measure_table(
            work.base_model,
            work.base_sizes,
            options,
            work.timed.feeds,
            fits,
            progress=lambda share: work.progress("latency table", share),
        )
        if file is not None:
            table.save(file)
    return replace(work, predict=predictor(work.base_model, work.base_sizes, options, table))
