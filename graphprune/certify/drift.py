"""Comparing two models without a plan: the same interface, and how far the outputs moved.

This proves nothing about how the second was made from the first; it says how different they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.structural import check_interface
from graphprune.onnx.feeds import random_feeds
from graphprune.onnx.runtime import Session, find_trials
from graphprune.threads import at_once, in_order

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class OutputDrift:
    """How far one output moved, over all runs.

    Attributes:
        name: The output.
        max_abs: Largest absolute difference; inf where shape or type differ, or one is not finite.
        relative: Norm of the difference / norm of the original's output.
        cosine: Cosine between the two outputs seen as vectors; 1 is unchanged.
        flaw: Why they cannot be compared (shape, type), else empty.
    """

    name: str
    max_abs: float
    relative: float
    cosine: float
    flaw: str = ""


@dataclass(frozen=True)
class Drift:
    """What two models have in common.

    Attributes:
        differences: In the interface (inputs, outputs, opsets, metadata); empty where it is equal.
        outputs: One entry for each output of the original.
        bindings: Sizes of dynamic dimensions that were run.
    """

    differences: tuple[str, ...]
    outputs: tuple[OutputDrift, ...]
    bindings: tuple[Mapping[str, int], ...]

    @property
    def same_interface(self) -> bool:
        """Whether one can stand in for the other."""
        return not self.differences and not any(o.flaw for o in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "differences": list(self.differences),
            "outputs": [asdict(o) for o in self.outputs],
            "bindings": [dict(b) for b in self.bindings],
        }


def compare_io(
    original: ir.Model,
    pruned: ir.Model,
    bindings: Sequence[Mapping[str, int]] | None = None,
    seed: int = 0,
) -> Drift:
    """Run both models on the same random inputs and compare what comes out.

    Args:
        original: The model before.
        pruned: The model after.
        bindings: Sizes of dynamic dimensions; None for two at which the original runs.
        seed: Of the random inputs.

    Raises:
        UnsupportedModelError: One of the models does not run.
    """
    differences = check_interface(original, pruned)
    runs: list[tuple[Mapping[str, int], dict[str, Array]]] = []
    with Session(original) as first, Session(pruned) as second:
        if bindings is None:
            runs = [(t.binding, t.feeds) for t in find_trials(original, seed=seed, session=first)]
        else:
            runs = [(b, random_feeds(original, b, seed + i)) for i, b in enumerate(bindings)]
        before, after = ([s.run(feeds) for _, feeds in runs] for s in (first, second))
    names = [v.name or "" for v in original.graph.outputs]
    return Drift(
        tuple(differences),
        between(names, before, after),
        tuple(dict(b) for b, _ in runs),
    )


def compare_on(
    original: ir.Model,
    pruned: ir.Model,
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
) -> tuple[OutputDrift, ...]:
    """How far each output moved on given inputs.

    Args:
        original: The model before.
        pruned: The model after.
        feeds: Inputs, batch by batch.
        threads: Of onnxruntime.

    Raises:
        UnsupportedModelError: One of the models does not run on them.
    """
    return compare_each(original, [pruned], feeds, threads=threads)[0]


def compare_each(
    original: ir.Model,
    others: Sequence[ir.Model],
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
) -> list[tuple[OutputDrift, ...]]:
    """The same for several models; the original runs once."""
    names = [v.name or "" for v in original.graph.outputs]
    wanted = outputs_on(original, feeds, threads=threads)
    return [between(names, wanted, outputs_on(m, feeds, threads=threads)) for m in others]


def outputs_on(
    model: ir.Model, feeds: Sequence[Mapping[str, Array]], *, threads: int = 1
) -> list[dict[str, Array]]:
    """All outputs for each batch. Raises UnsupportedModelError where the model does not run."""
    with Session(model, threads=threads, arena=True) as session:
        return list(in_order(session.run, feeds, at_once(threads)))


def between(
    names: Sequence[str],
    before: Sequence[Mapping[str, Array]],
    after: Sequence[Mapping[str, Array]],
) -> tuple[OutputDrift, ...]:
    """How far outputs moved, from what was found for each batch."""
    pairs = list(zip(before, after, strict=True))
    return tuple(_drift(name, pairs) for name in names)


def _drift(name: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> OutputDrift:
    largest = squares = error = dot = others = 0.0
    for before, after in pairs:
        if name not in after:
            return OutputDrift(name, np.inf, np.inf, 0.0, "missing")
        a, b = np.asarray(before[name]), np.asarray(after[name])
        if a.shape != b.shape or a.dtype != b.dtype:
            flaw = f"{b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
            return OutputDrift(name, np.inf, np.inf, 0.0, flaw)
        if a.dtype.kind not in "biuf" and not np.issubdtype(a.dtype, np.floating):
            same = bool(np.array_equal(a, b))
            largest, error = max(largest, float(not same)), error + float(not same)
            continue
        x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
        usable = np.isfinite(x) & np.isfinite(y)
        if not np.array_equal(x[~usable], y[~usable], equal_nan=True):
            largest = np.inf
        x, y = x[usable], y[usable]
        largest = max(largest, float(np.abs(x - y).max(initial=0.0)))
        squares, others = squares + float(x @ x), others + float(y @ y)
        error, dot = error + float((x - y) @ (x - y)), dot + float(x @ y)
    relative = (error / squares) ** 0.5 if squares else (0.0 if error == 0.0 else np.inf)
    norms = (squares * others) ** 0.5
    cosine = dot / norms if norms else float(error == 0.0)
    return OutputDrift(name, largest, float(relative), min(cosine, 1.0))
