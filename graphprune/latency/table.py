"""A latency table: the time of each node as a function of how much it works.

The model is pruned evenly to several widths on the grid, and each result is profiled. That gives
every node a few points (work, milliseconds); between them time is a straight line, below the least
one it falls towards the fixed cost that the line through the lowest two leaves. The time of any
allocation is the sum over nodes at the work that it leaves them. What is fused or reordered
differently at other widths is not seen: the sum ranks allocations, and a result is always timed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import UsageError
from graphprune.files import write_atomically

FORMAT = 1


@dataclass(frozen=True)
class Line:
    """Time of one node.

    Attributes:
        work: Multiply-adds or elements, ascending.
        ms: Milliseconds at each.
    """

    work: tuple[float, ...]
    ms: tuple[float, ...]

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """From (work, milliseconds); several at the same work are averaged, and time never falls.

        Raises:
            ValueError: There is no point.
        """
        if not points:
            raise ValueError("a line needs a point")
        by_work: dict[float, list[float]] = {}
        for work, ms in points:
            by_work.setdefault(float(work), []).append(float(ms))
        pairs = sorted((w, float(np.mean(ms))) for w, ms in by_work.items())
        times = np.maximum.accumulate([ms for _, ms in pairs])
        return cls(tuple(w for w, _ in pairs), tuple(float(t) for t in times))

    def at(self, work: float) -> float:
        """Milliseconds."""
        if work >= self.work[0] or self.work[0] <= 0:
            return float(np.interp(work, self.work, self.ms))
        base = 0.0
        if len(self.work) > 1:
            slope = (self.ms[1] - self.ms[0]) / (self.work[1] - self.work[0])
            base = min(max(self.ms[0] - slope * self.work[0], 0.0), self.ms[0])
        return base + (self.ms[0] - base) * work / self.work[0]


@dataclass(frozen=True)
class LatencyTable:
    """Lines of all nodes, and what they hold for.

    Attributes:
        made_for: Model, runtime, threads, provider and sizes; a table fits nothing else.
        lines: By node name.
    """

    made_for: Mapping[str, Any]
    lines: Mapping[str, Line]

    def total(self, work: Mapping[str, float]) -> float:
        """Milliseconds of the model whose nodes work so much."""
        return sum(line.at(work.get(name, line.work[-1])) for name, line in self.lines.items())

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        data = {
            "format": FORMAT,
            "made_for": dict(self.made_for),
            "nodes": {n: {"work": x.work, "ms": x.ms} for n, x in self.lines.items()},
        }
        text = json.dumps(data, indent=1) + "\n"
        write_atomically(Path(path), lambda f: f.write(text.encode()))

    @classmethod
    def load(cls, path: str | PathLike[str], made_for: Mapping[str, Any]) -> LatencyTable:
        """Read one. Raises UsageError where it is damaged, or made for something else."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise UsageError(f"{path} has format {data['format']}, this version reads {FORMAT}")
            lines = {
                str(name): Line.through(list(zip(x["work"], x["ms"], strict=True)))
                for name, x in data["nodes"].items()
            }
            found = cls(dict(data["made_for"]), lines)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is no latency table of graphprune") from error
        differing = [n for n, v in made_for.items() if found.made_for.get(n) != v]
        if differing:
            raise UsageError(
                f"the latency table {path} was made for another {differing[0].replace('_', ' ')}: "
                "name another file, or remove it to measure anew"
            )
        return found
