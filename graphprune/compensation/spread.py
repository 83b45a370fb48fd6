"""Whether calibration inputs are anything to the model, where nothing says what it was trained on.

Fitted to noise, a model becomes good at noise. Two signs together give it away: neighbouring elements
of the inputs are unrelated, as nowhere in images, sound or spectra; and to the model all inputs are
alike, its outputs hardly vary. Either alone is common: features in a table are unrelated, and a
detector's boxes hardly vary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.runtime import Session

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]

UNRELATED = 0.05
"""Correlation of neighbours below which elements are unrelated."""

ALIKE = 0.1
"""Share of the outputs' energy that varies between inputs, below which they are alike."""

_LEAST = 8
"""Elements along an axis, to speak of neighbours."""


def looks_like_noise(model: ir.Model, feeds: Feeds, *, threads: int = 1) -> bool:
    """Whether the inputs are noise that the model does not tell apart.

    Args:
        model: The original.
        feeds: Batches of inputs; the first axis counts samples.
        threads: Of onnxruntime.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
    """
    found = neighbours(feeds)
    if found is None or found >= UNRELATED:
        return False
    with Session(model, threads=threads) as session:
        return variation([session.run(feed) for feed in feeds]) < ALIKE


def neighbours(feeds: Feeds) -> float | None:
    """Largest correlation of neighbours along the longest axis of the floating-point inputs.

    None where no input that varies has such an axis.
    """
    best = None
    for name in feeds[0] if feeds else ():
        products = squares = 0.0
        mean = np.mean([np.mean(f[name], dtype=np.float64) for f in feeds])
        for feed in feeds:
            x = feed[name]
            if x.dtype.kind != "f" or x.ndim < 2 or max(x.shape[1:]) < _LEAST:
                break
            axis = 1 + int(np.argmax(x.shape[1:]))
            x = np.moveaxis(x, axis, -1).astype(np.float64) - mean
            products += float((x[..., 1:] * x[..., :-1]).sum())
            squares += float((x[..., 1:] ** 2).sum())
        else:
            if squares > 0:
                best = max(best or 0.0, abs(products) / squares)
    return best


def variation(outputs: Sequence[Mapping[str, Array]]) -> float:
    """Share of the energy that differs between samples, the median of the outputs.

    1 where outputs are no floating-point arrays of one shape per sample.
    """
    shares = []
    for name in outputs[0] if outputs else ():
        arrays = [np.asarray(o[name]) for o in outputs]
        if any(a.dtype.kind != "f" or a.ndim == 0 for a in arrays):
            return 1.0
        if len({a.shape[1:] for a in arrays}) > 1:
            return 1.0
        rows = sum(len(a) for a in arrays)
        total = np.sum([a.sum(0, dtype=np.float64) for a in arrays], axis=0)
        energy = float(sum((a.astype(np.float64) ** 2).sum() for a in arrays))
        if energy > 0:
            shares.append(1 - float((total**2).sum()) / rows / energy)
    return float(np.median(shares)) if shares else 1.0
