"""The report of a compile: what the JSON file of `--report` and `--json` holds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphprune.compensation.report import DriftReport
from graphprune.measure.latency import Latency
from graphprune.plan import LayerCut, Unpruned

FORMAT = 1


@dataclass(frozen=True)
class Side:
    """What one of the two models costs.

    Attributes:
        params: Elements of all weights (`graphprune.measure.size`).
        macs: Multiply-adds of one run at the report's first binding (`graphprune.measure.cost`).
        bytes: Size of the ONNX file with its external data.
        latency_ms: Median time of one run, None where it was not measured.
        latency_iqr_ms: Interquartile range of that time.
        peak_activation_bytes: Estimated memory for activations in one run, None where unknown.
    """

    params: int
    macs: int
    bytes: int
    latency_ms: float | None = None
    latency_iqr_ms: float | None = None
    peak_activation_bytes: int | None = None


@dataclass(frozen=True)
class GroupReport:
    """What happened to one group of coupled units.

    Attributes:
        name: As in the plan.
        kind: `channel`, `head`, `neuron`, ...
        before: Units in the original.
        after: Units that stayed.
        members: `(tensor or initializer, axis)` pairs the group runs through.
        kept: The units that stayed, in the original's numbering.
        params_saved: Weights that left with it. Where two groups cut the same weight the saving is
            divided between them, so that the groups' savings add up to the plan's.
    """

    name: str
    kind: str
    before: int
    after: int
    members: tuple[tuple[str, int], ...]
    kept: tuple[int, ...]
    params_saved: int = 0


@dataclass(frozen=True)
class Metric:
    """A labelled metric of both models, e.g. accuracy on a zoo model's held-out data.

    Attributes:
        name: What is measured.
        original: Of the original.
        pruned: Of the pruned model.
        examples: How many examples it was measured on, 0 where unknown.
    """

    name: str
    original: float
    pruned: float
    examples: int = 0


@dataclass(frozen=True, eq=False)
class Report:
    """What a compile did. `to_json` is the documented contract.

    Attributes:
        version: graphprune's.
        source: The model as the user named it.
        source_sha256: Hash of its file.
        plan_sha256: Hash of the plan; the pruned model carries it too.
        options: The options that were in force.
        original: Cost before.
        pruned: Cost after.
        latency: Both models timed against each other, None where that was switched off.
        certificate: `Certificate.to_json()`, None where verification was switched off.
        groups: Every group that was cut.
        unpruned: What was left, and why.
        timings_s: Seconds of each stage, in the order they ran.
        warnings: One line each.
        metric: Accuracy or the like before and after, where labelled data was at hand.
        drift: What compensation did, None without calibration inputs.
        distillation: `DistillReport.to_json()`, None where nothing was trained.
        layers: Whole layers that left: `name`, `source`, `output`, `linear`, `score`.
        search: How a goal (time, accuracy, divergence) was reached: `goal`, `target`,
            `reached` and `tries`.
    """

    version: str
    source: str
    source_sha256: str
    plan_sha256: str
    options: Mapping[str, Any]
    original: Side
    pruned: Side
    latency: Latency | None
    certificate: Mapping[str, Any] | None
    groups: tuple[GroupReport, ...]
    unpruned: tuple[Unpruned, ...]
    timings_s: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    metric: Metric | None = field(default=None)
    drift: DriftReport | None = None
    distillation: Mapping[str, Any] | None = None
    search: Mapping[str, Any] | None = None
    layers: tuple[LayerCut, ...] = ()

    @property
    def speedup(self) -> float | None:
        """Original / pruned latency; None where it was not measured or noise was too high."""
        return None if self.latency is None else self.latency.speedup

    def to_json(self) -> dict[str, Any]:
        """The report as plain data (docs/report-format.md)."""
        return {
            "format": FORMAT,
            "version": self.version,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "plan_sha256": self.plan_sha256,
            "options": dict(self.options),
            "original": asdict(self.original),
            "pruned": asdict(self.pruned),
            "speedup": self.speedup,
            "latency": None if self.latency is None else self.latency.to_json(),
            "certificate": None if self.certificate is None else dict(self.certificate),
            "layers": [cut.to_json() for cut in self.layers],
            "groups": [
                {
                    "name": g.name,
                    "kind": g.kind,
                    "size_before": g.before,
                    "size_after": g.after,
                    "params_saved": g.params_saved,
                    "members": [{"name": name, "axis": axis} for name, axis in g.members],
                    "kept": list(g.kept),
                }
                for g in self.groups
            ],
            "unpruned": [
                {"node": u.node, "reason": u.reason, "group": u.group} for u in self.unpruned
            ],
            "timings_s": {stage: round(s, 6) for stage, s in self.timings_s.items()},
            "warnings": list(self.warnings),
            "metric": None if self.metric is None else asdict(self.metric),
            "drift": None if self.drift is None else asdict(self.drift),
            "distillation": None if self.distillation is None else dict(self.distillation),
            "search": None if self.search is None else dict(self.search),
        }

    def dumps(self) -> str:
        """The report as JSON with sorted keys; equal reports give equal text."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False)
        # Kept indices on one line each: a newline never stands raw inside a JSON string.
        return re.sub(r"\[\n\s+([-\d,\s]+?)\n\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)

    def save(self, path: str | Path) -> None:
        """Write the JSON. Raises UsageError where the file cannot be written."""
        from graphprune.files import write_atomically

        write_atomically(Path(path), lambda file: file.write(self.dumps().encode() + b"\n"))
