"""How far a model's outputs are from the original's, before what saturates.

The damage of an output is its squared error over its variance in the original, so that a constant
offset that all samples share counts for nothing as signal; the damage of a model is the mean over its
outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import part
from graphprune.damage.prefix import Prefix
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.runtime import Session
from graphprune.onnx.saturation import before_saturation

Array = np.ndarray[Any, Any]


class Judge:
    """Compares models with an original on fixed inputs.

    Args:
        original: Canonical.
        feeds: Inputs, batch by batch; nothing may have been fitted to them.
        threads: Of onnxruntime.

    Raises:
        UnsupportedModelError: The original does not run on them.
    """

    def __init__(
        self, original: ir.Model, feeds: Sequence[Mapping[str, Array]], threads: int = 1
    ) -> None:
        self.feeds = feeds
        self._threads = threads
        names = [before_saturation(v).name or "" for v in original.graph.outputs]
        self._taps = tuple(dict.fromkeys(names))
        with Session(original, threads=threads, outputs=self._taps) as session:
            runs = [session.run(feed) for feed in feeds]
        self._wanted = [{n: run[n] for n in self._taps} for run in runs]
        self._prefix = Prefix(original, feeds, threads)
        self._scales = {n: variance([run[n] for run in self._wanted]) for n in self._taps}

    def damage(self, model: ir.Model) -> float:
        """Mean over outputs of the relative squared error; inf where one is not finite.

        Raises:
            UnsupportedModelError: The model does not run, or lacks a value that is compared.
        """
        return error(self._wanted, self._outputs(model), self._scales)

    def each(self, model: ir.Model) -> Array:
        """The same of every batch alone, `(batches,)`: what a difference is to be seen against."""
        pairs = zip(self._wanted, self._outputs(model), strict=True)
        return np.array([error([a], [b], self._scales) for a, b in pairs])

    def _outputs(self, model: ir.Model) -> list[dict[str, Array]]:
        """What is compared, run from where the model differs from the original."""
        made = {v.name for v in model.graph.inputs}
        made |= {v.name for node in model.graph for v in node.outputs}
        for name in self._taps:
            if name not in made:
                raise UnsupportedModelError(f"'{name}', which is compared, left the model")
        known = self._prefix.of(model, self._taps)
        asked = [n for n in self._taps if n not in known[0]]
        if not asked:
            return [{n: values[n] for n in self._taps} for values in known]
        found = []
        given = {**self.feeds[0], **known[0]}
        with Session(part(model, given, asked), threads=self._threads) as session:
            for feed, values in zip(self.feeds, known, strict=True):
                given = {**feed, **values}
                run = session.run({n: given[n] for n in session.input_names})
                found.append({n: run[n] if n in run else values[n] for n in self._taps})
        return found


def error(
    wanted: Sequence[Mapping[str, Array]],
    found: Sequence[Mapping[str, Array]],
    scales: Mapping[str, float],
) -> float:
    """Mean over outputs of the squared error, relative to `scales`; inf where one is not finite.

    Args:
        wanted: Outputs of the original by name, batch by batch.
        found: Those of another model.
        scales: Variance of each output.
    """
    total = 0.0
    for name, scale in scales.items():
        squares = count = 0.0
        for one, other in zip(wanted, found, strict=True):
            if other[name].shape != one[name].shape:
                return float("inf")
            known = np.isfinite(one[name])  # a mask's -inf says nothing
            difference = other[name][known].astype(np.float64) - one[name][known]
            squares += float((difference * difference).sum())
            count += difference.size
        total += (squares / count) / scale if count else 0.0
    damage = total / max(len(scales), 1)
    return damage if np.isfinite(damage) else float("inf")


def surely_less(one: Array, other: Array) -> bool:
    """Whether `one` is less than `other` by more than two standard errors of their difference.

    Args:
        one: Damage of each batch, `(batches,)`.
        other: Of another model on the same batches.
    """
    difference = other - one
    if len(difference) < 2 or not np.isfinite(difference).all():
        return bool(one.mean() < other.mean())
    return bool(difference.mean() > 2 * difference.std(ddof=1) / len(difference) ** 0.5)


def variance(batches: Sequence[Array]) -> float:
    """Of one output around the means along its last axis; 1 where it is constant or no number.

    Where that axis is not always as long (it counts tokens), around one mean of all.
    """
    arrays = [batch.astype(np.float64) for batch in batches]
    widths = {a.shape[-1] if a.ndim > 1 else 1 for a in arrays}
    width = max(widths.pop(), 1) if len(widths) == 1 else 1
    rows = np.concatenate([a.reshape(-1, width) for a in arrays])
    rows = np.where(np.isfinite(rows), rows, 0.0)
    if rows.size == 0:
        return 1.0
    energy = float((rows * rows).mean())
    found = energy - float((rows.mean(0) ** 2).mean())
    return found if found > 1e-12 * max(energy, 1e-30) else max(energy, 1.0)
