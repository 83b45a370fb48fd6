"""What measures one group at one width, made ready once in each process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.damage.fold import Folder, reading_of
from graphprune.damage.judge import Judge
from graphprune.damage.probe import Point, Prober
from graphprune.damage.result import Measurement
from graphprune.data.metric import load_metric
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.shapes import shape_pair
from graphprune.options import Options
from graphprune.scoring.statistics import Statistics

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]
Collected = Mapping[str, Statistics]
"""Of what the layers read that are folded, by value."""

Scored = tuple[Point, Array]
"""What is measured, and the scores of the group's units."""


@dataclass(frozen=True, eq=False)
class Job:
    """All that is needed to measure one group at one width; it can be sent anywhere.

    Attributes:
        model: The canonical original, serialised.
        bindings: Two sizes of its dynamic dimensions.
        options: Which groups, at which alignment.
        judged: Inputs that damage is measured on.
        metric: The user's, where there is one: as text it is imported in every process.
        both: Measure as cut too, not only with compensation.
        key: Tells jobs apart within a process.
    """

    model: bytes
    bindings: tuple[Mapping[str, int], Mapping[str, int]]
    options: Options
    judged: Feeds
    metric: Any = None
    both: bool = True
    key: str = field(default_factory=lambda: uuid4().hex)


class Bench:
    """A job made ready in one process."""

    def __init__(self, job: Job) -> None:
        model = ir.from_proto(onnx.load_from_string(job.model))
        self.job = job
        threads = job.options.threads
        self._metric = None if job.metric is None else load_metric(job.metric, threads=threads)
        self.prober = Prober(model, shape_pair(model, *job.bindings), job.options)
        self._judge = Judge(model, job.judged, threads)
        self._model = model
        self.folder: Folder | None = None

    def compensate(self, known: Collected) -> None:
        """Fold what leaves from now on, by statistics of what the layers read."""
        self.folder = Folder(reading_of(self._model, self.prober.groups), known)

    def measure(self, scored: Scored) -> Measurement:
        """One group at one width, as cut and with compensation."""
        point, scores = scored
        found = Measurement(point.group, point.kept, point.counts)
        plan = self.prober.plan(point, scores)
        model = self.prober.model(plan)
        if model is None:
            return found
        if self.job.both or self.folder is None:
            damage, quality = self._judged(model)
            found = replace(found, damage=damage, quality=quality)
        if self.folder is not None:
            self.folder(model, plan)
            damage, quality = self._judged(model)
            found = replace(found, folded=damage, quality_folded=quality)
        return found

    def _judged(self, model: ir.Model) -> tuple[float | None, float | None]:
        try:
            damage = self._judge.damage(model)
        except UnsupportedModelError:  # an output that is compared went with the group
            return None, None
        return damage, None if self._metric is None else self._metric(model)
