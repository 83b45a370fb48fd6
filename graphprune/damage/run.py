"""The sensitivity analysis of a model: all groups alone, at several widths."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.damage.bench import Job
from graphprune.damage.fold import reading_of, statistics_of
from graphprune.damage.probe import Prober
from graphprune.damage.result import Measurement, Sensitivity
from graphprune.damage.work import workers
from graphprune.data.feeds import Calibration
from graphprune.data.metric import load_metric
from graphprune.decide import check_globs
from graphprune.errors import NothingGainedError, UsageError
from graphprune.onnx.shapes import Shapes
from graphprune.onnx.subject import OnnxSubject
from graphprune.options import Options
from graphprune.scoring.statistics import Known, Statistics
from graphprune.selection.criteria import scores as scored
from graphprune.threads import one_blas_thread

Array = np.ndarray[Any, Any]
Scores = Callable[[DependencyGraph, Sequence[str]], Mapping[str, Array]]

FRACTIONS = (0.125, 0.25, 0.5, 0.75)
"""Widths that `compile --scope sensitivity` measures."""

_TRAVELLING = ("align", "only", "exclude", "residual", "threads")
"""What a worker has to know of the options."""

JUDGED = 128
"""Samples that damage is measured on, at most: with half as many, what a group may keep still depended
on which ones they were (resnet-fashion-long of tools/accuracy_cases.py at 0.7: .9382, was .9371)."""


def sensitivity(
    model: ir.Model,
    shapes: tuple[Shapes, Shapes],
    options: Options,
    data: Calibration,
    *,
    source_sha256: str = "",
    scores: Scores | None = None,
    known: Known | None = None,
    metric: Any = None,
    fractions: Sequence[float] = FRACTIONS,
    compensate: bool = True,
    both: bool = True,
    jobs: int = 1,
    scheduler: str = "",
    checkpoint: str | PathLike[str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Sensitivity:
    """Measure what a model loses when one group alone keeps a fraction of its units.

    Args:
        model: Canonical.
        shapes: Its sizes at two bindings.
        options: Which groups, by what units are ranked, alignment, threads, seed.
        data: Calibration inputs: statistics from `fit`, damage on `choose`.
        source_sha256: Of the model's file.
        scores: Scores of units, in place of those of the criterion.
        known: Statistics of the model on `fit` from before (see `graphprune.scoring.statistics`).
        metric: The user's (see `graphprune.data.metric`): `module:callable`, or a callable.
        fractions: Of units that stay, rounded to the grid.
        compensate: Measure with compensation in closed form.
        both: Then also without.
        jobs: Processes that measure, and threads that collect statistics.
        scheduler: Address of a Dask scheduler that has workers.
        checkpoint: File that keeps what is measured; a later call with the same settings and data
            goes on from it. It stays, so that nothing is lost before the result is written.
        progress: Called with the share that is done.

    Raises:
        NothingGainedError: No group of the model can be pruned.
        UsageError: No such scheduler, a glob that names nothing, or the metric does not work.
        UnsupportedModelError: The model does not run on the inputs.
    """
    if metric is not None and (jobs > 1 or scheduler):
        _check_sendable(metric)
    with one_blas_thread(), workers(jobs, scheduler) as take_on:
        prober = Prober(model, shapes, options)
        subject = OnnxSubject(model, shapes, source_sha256)
        check_globs(subject, prober.graph, options)
        if not prober.groups:
            raise NothingGainedError(
                "no group of the model can be pruned: there is nothing to measure"
            )
        settings = {
            **_settings(options, data, fractions, compensate, both),
            "metric": None if metric is None else load_metric(metric).name,
        }
        sizes = {g.name: g.size for g in prober.groups}
        points = {(p.group, p.counts): p for p in prober.points(fractions)}
        found: dict[Any, Measurement] = {}
        empty = Sensitivity(source_sha256, sizes, (), settings=settings)
        for old in _resumed(checkpoint, empty):
            if (old.group, old.counts) in points:
                found[old.group, old.counts] = old
        left = [p for key, p in points.items() if key not in found]
        quality = None if metric is None else load_metric(metric, threads=options.threads)(model)
        report = progress or (lambda share: None)

        def result() -> Sensitivity:
            done = tuple(found[key] for key in points if key in found)
            return replace(empty, measurements=done, quality=quality)

        if left:
            job = Job(
                ir.to_proto(model).SerializeToString(),
                (dict(shapes[0].binding), dict(shapes[1].binding)),
                Options(**{name: getattr(options, name) for name in _TRAVELLING}),
                judged_feeds(data),
                metric,
                both,
            )
            measured = take_on(job)
            statistics = None
            if compensate:
                statistics = _statistics(model, shapes[0], prober, options, data, known, jobs)
            names = list(dict.fromkeys(p.group for p in left))
            if scores is not None:
                of = scores(prober.graph, names)
            else:
                groups = [prober.graph.by_name[n] for n in names]
                of = scored(groups, subject.weight, options.criterion, options.seed)
            for each in measured(((p, of[p.group]) for p in left), len(left), statistics):
                found[each.group, each.counts] = each
                report(len(found) / len(points))
                if checkpoint is not None:
                    result().save(checkpoint)
        return result()


def _statistics(
    model: ir.Model,
    shapes: Shapes,
    prober: Prober,
    options: Options,
    data: Calibration,
    known: Known | None,
    jobs: int,
) -> Mapping[str, Statistics]:
    """Of what all layers read that can take in what leaves."""
    return statistics_of(
        model,
        reading_of(model, prober.groups),
        [b.feeds for b in data.fit],
        dims={v.name: d for v, d in shapes.dims.items() if v.name},
        threads=options.threads,
        jobs=jobs,
        seed=options.seed,
        known=known,
    )


def judged_feeds(data: Calibration) -> list[Mapping[str, Array]]:
    """What damage is measured on: as many batches as hold `JUDGED` samples; at least one."""
    found: list[Mapping[str, Array]] = []
    total = 0
    for batch in data.choose:
        if found and total + batch.samples > JUDGED:
            break
        found.append(batch.feeds)
        total += batch.samples
    return found


def _settings(
    options: Options, data: Calibration, fractions: Sequence[float], compensate: bool, both: bool
) -> dict[str, Any]:
    names = ("align", "criterion", "exclude", "only", "residual", "seed")
    chosen = {n: getattr(options, n) for n in names}
    return {
        **{n: list(v) if isinstance(v, tuple) else v for n, v in chosen.items()},
        "fractions": list(fractions),
        "compensated": compensate,
        "uncompensated": both or not compensate,
        "samples": data.samples,
        "data_sha256": _digest(data),
    }


def _digest(data: Calibration) -> str:
    """Of all calibration inputs: what was measured on others is not to be mixed in."""
    found = hashlib.sha256()
    for batch in (*data.fit, *data.choose):
        for name, array in sorted(batch.feeds.items()):
            found.update(repr((name, array.dtype.str, array.shape)).encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _check_sendable(metric: Any) -> None:
    """Other processes get the metric by its name. Raises UsageError where it has none."""
    try:
        pickle.dumps(metric)
    except Exception as error:  # of many kinds, as the user's object likes
        raise UsageError(
            "other processes cannot be given this metric: give it as 'module:callable'"
        ) from error


def _resumed(checkpoint: str | PathLike[str] | None, wanted: Sensitivity) -> list[Measurement]:
    """What an interrupted run with the same settings has measured already."""
    if checkpoint is None or not Path(checkpoint).exists():
        return []
    old = Sensitivity.load(checkpoint)
    same = old.source_sha256 == wanted.source_sha256 and old.sizes == wanted.sizes
    return list(old.measurements) if same and old.settings == dict(wanted.settings) else []
