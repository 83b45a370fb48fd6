"""Choosing whole layers to leave out, by what the model is without them.

`damage` is that of the outputs (`graphprune.damage.judge`). The layer whose removal does least leaves
first, and what the others then do is measured anew; a measurement from before is taken as a lower
bound, so that few are repeated (the lazy greedy of Minoux, 1978). `cosine` is one minus the cosine of
what comes into a layer and what goes out, mean over all places and inputs (Men et al. 2024,
"ShortGPT"): one run for all layers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import floor
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.damage.judge import Judge
from graphprune.onnx.channels import channels_first
from graphprune.onnx.runtime import Session
from graphprune.passes.drop_layers import DropLayersPass
from graphprune.plan import LayerCut

Feeds = Sequence[Mapping[str, np.ndarray[Any, Any]]]
Enough = Callable[[Sequence[LayerCut]], bool]
"""Whether the layers that leave so far are all that shall."""


def choose_layers(
    model: ir.Model,
    layers: Sequence[LayerCut],
    feeds: Feeds,
    enough: Enough,
    *,
    criterion: str = "damage",
    threads: int = 1,
    progress: Callable[[], None] | None = None,
) -> tuple[LayerCut, ...]:
    """Layers that leave, in the order in which they were chosen, each with its score.

    Args:
        model: Canonical; it is not changed.
        layers: All that may leave.
        feeds: Inputs, batch by batch.
        enough: Asked before each choice.
        criterion: `damage` or `cosine`.
        threads: Of onnxruntime.
        progress: Called after each measurement.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
    """
    if criterion == "cosine":
        return first(_by_cosine(model, layers, feeds, threads), enough)
    return _by_damage(Judge(model, feeds, threads), model, layers, enough, progress)


def first(ranked: Sequence[LayerCut], enough: Enough) -> tuple[LayerCut, ...]:
    """The first of ranked layers, until `enough`."""
    chosen: list[LayerCut] = []
    for cut in ranked:
        if enough(chosen):
            break
        chosen.append(cut)
    return tuple(chosen)


def greedy(
    layers: Sequence[LayerCut], damage: Callable[[Sequence[LayerCut]], float], enough: Enough
) -> tuple[LayerCut, ...]:
    """Layers in the order in which each adds least damage to those before it, until `enough`."""
    chosen: list[LayerCut] = []
    # damage, place, and how many layers were gone when it was measured (-1: not yet)
    heap = [(-np.inf, i, -1) for i in range(len(layers))]
    while heap and not enough(chosen):
        found, i, when = heapq.heappop(heap)
        if when == len(chosen):
            chosen.append(replace(layers[i], score=float(found)))
        else:
            heapq.heappush(heap, (damage([*chosen, layers[i]]), i, len(chosen)))
    return tuple(chosen)


def kept_count(share: float, count: int) -> int:
    """How many of `count` layers stay: a share of them, rounded, and one at least."""
    return max(1, floor(share * count + 0.5))


def ranked(layers: Sequence[LayerCut], scores: Sequence[float]) -> list[LayerCut]:
    """Layers by their scores, the smallest first."""
    order = np.argsort(np.asarray(scores), kind="stable")
    return [replace(layers[i], score=float(scores[i])) for i in order]


def _by_damage(
    judge: Judge,
    model: ir.Model,
    layers: Sequence[LayerCut],
    enough: Enough,
    progress: Callable[[], None] | None,
) -> tuple[LayerCut, ...]:
    def damage(cuts: Sequence[LayerCut]) -> float:
        shorter = model.clone()
        DropLayersPass(cuts)(shorter)
        found = judge.damage(shorter)
        if progress is not None:
            progress()
        return found

    return greedy(layers, damage, enough)


def _by_cosine(
    model: ir.Model, layers: Sequence[LayerCut], feeds: Feeds, threads: int
) -> list[LayerCut]:
    values = {v.name: v for node in model.graph for v in node.outputs}
    ends = [n for cut in layers for n in (cut.source, cut.output)]
    outputs = [n for n in dict.fromkeys(ends) if n in values]
    sums, counts = np.zeros(len(layers)), np.zeros(len(layers))
    with Session(model, threads=threads, outputs=outputs) as session:
        for feed in feeds:
            known = {**feed, **session.run(feed)}
            for i, cut in enumerate(layers):
                axis = 1 if channels_first(values[cut.output]) else -1
                found = cosines(known[cut.source], known[cut.output], axis)
                sums[i] += found.sum()
                counts[i] += found.size
    return ranked(layers, (1 - sums / np.maximum(counts, 1)).tolist())


def cosines(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """Of all vectors along an axis."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    lengths = np.linalg.norm(a, axis=axis) * np.linalg.norm(b, axis=axis)
    return np.asarray((a * b).sum(axis) / np.maximum(lengths, 1e-300))
