"""One trained model with the data that shows how good it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Feeds = dict[str, np.ndarray]
Arrays = Mapping[str, np.ndarray]
#: Runs a model on named inputs; gives its outputs in order, or by name.
Runner = Callable[[Feeds], Sequence[Any] | Mapping[str, Any]]

FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class ZooEntry:
    """A model that ships with graphprune.

    Attributes:
        name: What follows `zoo:`.
        title: One line for a list.
        description: Architecture, training and figures, a few sentences.
        metric: Name of the figure that `evaluate` computes; higher is better.
        baseline: That figure for the unpruned model.
        licence: Of the model.
        source: Where the model and the data come from.
        model: File name of the ONNX file.
        data: File name of the labelled evaluation set.
        unlabelled: File name of the calibration set.
        batches: Arrays of a data file -> inputs of the model, batch by batch.
        calibration_batches: The same for the calibration set; None: `batches`.
        score: First outputs of all batches, joined, and the arrays of the evaluation set -> metric.
    """

    name: str
    title: str
    description: str
    metric: str
    baseline: float
    licence: str
    source: str
    model: str
    data: str
    unlabelled: str
    batches: Callable[[Arrays], list[Feeds]]
    score: Callable[[np.ndarray, Arrays], float]
    calibration_batches: Callable[[Arrays], list[Feeds]] | None = None

    @property
    def path(self) -> Path:
        """The ONNX file."""
        return FOLDER / self.model

    def evaluation(self) -> Arrays:
        """The labelled evaluation set as stored (never used in training)."""
        return _read(FOLDER / self.data)

    def calibration(self) -> list[Feeds]:
        """Unlabelled inputs, apart from the evaluation set: one dict of model inputs per batch."""
        batches = self.calibration_batches or self.batches
        return batches(_read(FOLDER / self.unlabelled))

    def evaluate(self, run: Runner, data: Arrays | None = None) -> float:
        """The metric of the model that `run` executes, on `data` or the evaluation set."""
        data = self.evaluation() if data is None else data
        outputs = [_first(run(feeds)) for feeds in self.batches(data)]
        return self.score(np.concatenate(outputs), data)

    def evaluate_file(self, path: Path | str | None = None, *, threads: int = 1) -> float:
        """The metric of an ONNX file with this entry's inputs, executed by onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            str(self.path if path is None else path), options, providers=["CPUExecutionProvider"]
        )
        return self.evaluate(lambda feeds: session.run(None, feeds))


def _read(path: Path) -> Arrays:
    with np.load(path) as archive:
        return dict(archive)


def _first(outputs: Sequence[Any] | Mapping[str, Any]) -> np.ndarray:
    if isinstance(outputs, Mapping):
        return np.asarray(next(iter(outputs.values())))
    return np.asarray(outputs[0])
