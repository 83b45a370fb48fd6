"""Whether calibration inputs are anything to the model, though nothing says what it was trained on.

Fitted to noise, a model becomes good at noise. Two signs together give it away: neighbouring elements
of the inputs are unrelated, as nowhere in images, sound or spectra, or no token comes more often than
others, as in no language; and to the model all inputs are alike, its outputs hardly vary. Either alone
is common: features in a table are unrelated, and a detector's boxes hardly vary. Where a model does tell
random tokens or pixels apart, it is fitted to them, with gain (docs/results/off-distribution.md), and
they are only warned about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.feeds import Calibration
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.runtime import Session

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Array]]

UNRELATED = 0.05
"""Correlation of neighbours below which elements are unrelated."""

ALIKE = 0.1
"""Share of the outputs' energy that varies between inputs, below which they are alike."""

_LEAST = 8
"""Elements along an axis, to speak of neighbours."""

_IMAGE = 4
"""Axes of images: elsewhere neighbours may well be unrelated, as features are."""

_VOCABULARY = 64
"""Ids from which on whole numbers are tokens, and not flags or kinds."""

_USUAL = 3
"""Tokens that come often even where the others are noise: padding, and both ends."""

_EVEN = 5.0
"""Two random tokens of an even distribution are the same this many times as often at most."""


NOISE = (
    "the calibration inputs look like noise to the model (its outputs hardly vary): as without inputs, "
    "units are ranked by weights alone and nothing is refitted; give inputs of the kind that it will see"
)
TOKENS = (
    "the tokens of the calibration inputs look drawn at random (none comes more often than others): "
    "with texts of the kind that the model will see more of its accuracy is kept"
)
PIXELS = (
    "neighbouring pixels of the calibration inputs are unrelated, as in noise: with images of the kind "
    "that the model will see more of its accuracy is kept"
)


def looked_at(model: ir.Model, data: Calibration, *, threads: int = 1) -> Calibration:
    """The same inputs with what there is to say of them; taken for made up where they are noise.

    Args:
        model: The original.
        data: Calibration inputs.
        threads: Of onnxruntime.

    Raises:
        UsageError: The model does not run on the inputs.
    """
    feeds = [batch.feeds for batch in data.choose]
    if data.random:
        return data
    tokens, related = even_tokens(feeds), neighbours(feeds)
    unrelated = related is not None and related < UNRELATED
    if tokens or unrelated:
        try:
            with Session(model, threads=threads) as session:
                alike = variation([session.run(feed) for feed in feeds]) < ALIKE
        except UnsupportedModelError as error:
            raise UsageError(
                f"the model does not run on the calibration inputs: {error}"
            ) from error
        if alike:
            return replace(data, random=True, warnings=(*data.warnings, NOISE))
    if tokens:
        return replace(data, warnings=(*data.warnings, TOKENS))
    if unrelated and any(a.dtype.kind == "f" and a.ndim == _IMAGE for a in feeds[0].values()):
        return replace(data, warnings=(*data.warnings, PIXELS))
    return data


def neighbours(feeds: Feeds) -> float | None:
    """Largest correlation of neighbours along any long axis of the floating-point inputs.

    Spectra may be related in time only, frames in frequency only. None where no input that varies has
    such an axis.
    """
    best = None
    for name in feeds[0] if feeds else ():
        arrays = [f[name] for f in feeds]
        if any(x.dtype.kind != "f" or x.ndim != arrays[0].ndim for x in arrays):
            continue
        mean = np.mean([np.mean(x, dtype=np.float64) for x in arrays])
        for axis in range(1, arrays[0].ndim):
            if min(x.shape[axis] for x in arrays) < _LEAST:
                continue
            products = squares = 0.0
            for array in arrays:
                x = np.moveaxis(array, axis, -1).astype(np.float64) - mean
                products += float((x[..., 1:] * x[..., :-1]).sum())
                squares += float((x[..., 1:] ** 2).sum())
            if squares > 0:
                best = max(best or 0.0, abs(products) / squares)
    return best


def even_tokens(feeds: Feeds) -> bool:
    """Whether an input is sequences of tokens none of which comes more often than others.

    That is measured by how often two of them are the same: in texts far more often than one over the
    size of the vocabulary.
    """
    for name in feeds[0] if feeds else ():
        arrays = [f[name] for f in feeds]
        if any(a.dtype.kind not in "iu" or a.ndim < 2 or max(a.shape[1:]) < _LEAST for a in arrays):
            continue
        ids, counts = np.unique(np.concatenate([a.ravel() for a in arrays]), return_counts=True)
        kinds = int(ids.max()) - int(ids.min()) + 1
        rest = np.sort(counts)[:-_USUAL].astype(np.float64)
        total = float(rest.sum())
        if kinds > _VOCABULARY and total * total > 2 * kinds:  # else no two are expected to agree
            same = float((rest * (rest - 1)).sum()) / (total * (total - 1))
            if same < _EVEN / kinds:
                return True
    return False


def variation(outputs: Sequence[Mapping[str, Array]]) -> float:
    """Share of the energy that differs between samples, the median of the outputs.

    Outputs that are no floating-point arrays of one shape per sample do not count (of texts of several
    lengths, what each token has); 1 where none does.
    """
    shares = []
    for name in outputs[0] if outputs else ():
        arrays = [np.asarray(o[name]) for o in outputs]
        if any(a.dtype.kind != "f" or a.ndim == 0 for a in arrays):
            continue
        if len({a.shape[1:] for a in arrays}) > 1:
            continue
        rows = sum(len(a) for a in arrays)
        total = np.sum([a.sum(0, dtype=np.float64) for a in arrays], axis=0)
        energy = float(sum((a.astype(np.float64) ** 2).sum() for a in arrays))
        if energy > 0:
            shares.append(1 - float((total**2).sum()) / rows / energy)
    return float(np.median(shares)) if shares else 1.0
