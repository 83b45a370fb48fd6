"""What a case of the accuracy table is: a model, its calibration inputs, its metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], Mapping[str, Any]]
Scores = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A model and what is known of it.

    Attributes:
        name: On the command line.
        metric: Name of the first figure that `score` gives; higher is better.
        published: That figure of the unchanged model elsewhere (another draw of the same kind of
            data), None where there is none.
        path: The ONNX file.
        calibrate: (seed, count) -> feeds.
        score: What runs a model -> figures by name, the first is the metric.
        dims: Sizes at which MACs are counted.
        module: Builds the same network in torch and what Torch-Pruning has to know, if there is one.
    """

    name: str
    metric: str
    published: float | None
    path: Path
    calibrate: Callable[[int, int], list[Feeds]]
    score: Callable[[Run], Scores]
    dims: Mapping[str, int] = field(default_factory=dict)
    module: Callable[[], Any] | None = None


def stored(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from a file, made and written first where it is not there."""
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.part.npz")
        np.savez_compressed(unfinished, **make())
        unfinished.replace(path)
    with np.load(path) as archive:
        return dict(archive)


def in_batches(
    arrays: np.ndarray, name: str, make: Callable[[np.ndarray], np.ndarray]
) -> list[Feeds]:
    """Rows in feeds of eight, made into what the model takes."""
    return [{name: make(arrays[i : i + 8])} for i in range(0, len(arrays), 8)]


def joined(run: Run, feeds: Sequence[Feeds]) -> np.ndarray:
    """First outputs of all feeds, one after the other."""
    return np.concatenate([np.asarray(next(iter(run(f).values()))) for f in feeds])
