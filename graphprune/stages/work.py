"""What is known while a model is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphprune.analysis.dependency import DependencyGraph
from graphprune.onnx.load import Loaded
from graphprune.onnx.shapes import Shapes
from graphprune.options import Options
from graphprune.plan import LayerCut, Plan
from graphprune.selection.budget import Cost
from graphprune.selection.curves import Curves

if TYPE_CHECKING:
    from graphprune.certify.certificate import Certificate
    from graphprune.certify.copy_check import CopyCheck
    from graphprune.certify.shortened import Shortened
    from graphprune.compensation.report import DriftReport
    from graphprune.data.feeds import Calibration
    from graphprune.data.metric import Metric
    from graphprune.decide import Scores
    from graphprune.distill.report import DistillReport
    from graphprune.measure.latency import Latency
    from graphprune.onnx.runtime import Trial
    from graphprune.report.model import Report
    from graphprune.scoring.statistics import Known

Progress = Callable[..., None]


@dataclass(frozen=True)
class Try:
    """One model on the way to a goal: its budget as a fraction, and what was found.

    `found` is infinite where that budget makes no model, or one whose outputs are no numbers.
    """

    budget: float
    found: float


@dataclass(frozen=True)
class Search:
    """How a goal was reached.

    Attributes:
        goal: `latency`, `max_drop` or `max_divergence`.
        target: What was asked for.
        reached: What the model that was taken has.
        tries: In order.
    """

    goal: str
    target: float
    reached: float
    tries: tuple[Try, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the report; JSON has no infinity."""
        finite = [t.found if isfinite(t.found) else None for t in self.tries]
        tries = [{"budget": t.budget, "found": f} for t, f in zip(self.tries, finite, strict=True)]
        found = {"goal": self.goal, "target": self.target, "reached": self.reached}
        return {**found, "tries": tries}


@dataclass(frozen=True, eq=False)
class Recovered:
    """A refitted model, and the plan of which it is.

    Attributes:
        plan_sha256: Of what was cut: the same plan is not refitted again.
        model: With the weights that were fitted.
        drift: From the original.
        notes: For the user.
    """

    plan_sha256: str
    model: ir.Model
    drift: DriftReport
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Work:
    """What is known so far; every stage returns a copy that knows more."""

    source: Any
    options: Options
    progress: Progress
    given: Plan | None = None
    scores: Scores | None = None
    """The user's own, in place of those of a criterion."""
    loaded: Loaded | None = None
    original: ir.Model | None = None
    bindings: tuple[Mapping[str, int], ...] = ()
    shapes: tuple[Shapes, Shapes] | None = None
    layers: tuple[LayerCut, ...] = ()
    """Whole layers that left."""
    base: ir.Model | None = None
    """The original without them; None where all of them stay."""
    base_shapes: tuple[Shapes, Shapes] | None = None
    shortened: Shortened | None = None
    trials: tuple[Trial, ...] = ()
    timed: Trial | None = None
    graph: DependencyGraph | None = None
    curves: Curves | None = None
    predict: Callable[[DependencyGraph], Cost] | None = None
    asked: Options | None = None
    """What the user said, where a search has turned it into a budget."""
    search: Search | None = None
    recovered: Recovered | None = None
    plan: Plan | None = None
    pruned: ir.Model | None = None
    copied: CopyCheck | None = None
    certificate: Certificate | None = None
    latency: Latency | None = None
    calibration: Calibration | None = None
    drift: DriftReport | None = None
    distilled: DistillReport | None = None
    metric: Metric | None = None
    quality: tuple[float, ...] = ()
    """By `metric`: of the original, once it ran, and of the pruned model."""
    scored: dict[Any, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """Scores by what they are of, so that deciding again does not measure again."""
    collected: Known = field(default_factory=dict)
    """Statistics of the base model's activations, for all who ask for them."""
    report: Report | None = None
    warnings: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def known_model(self) -> ir.Model:
        """The canonical original, once it is loaded."""
        assert self.original is not None
        return self.original

    @property
    def known_plan(self) -> Plan:
        """What leaves, once it is decided."""
        assert self.plan is not None
        return self.plan

    @property
    def known_shapes(self) -> tuple[Shapes, Shapes]:
        """Of the original at two bindings, once it ran."""
        assert self.shapes is not None
        return self.shapes

    @property
    def base_model(self) -> ir.Model:
        """What widths are cut from: the original without the layers that left."""
        return self.known_model if self.base is None else self.base

    @property
    def base_sizes(self) -> tuple[Shapes, Shapes]:
        """Its sizes at two bindings."""
        return self.known_shapes if self.base_shapes is None else self.base_shapes

    @property
    def result(self) -> ir.Model:
        """The smaller graph, once it is made."""
        assert self.pruned is not None
        return self.pruned
