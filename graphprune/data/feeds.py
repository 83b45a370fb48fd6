"""From a calibration source to small batches that onnxruntime takes, with a role each.

Three roles keep judgements honest: weights are fitted on one part, the regulariser is chosen on
another, and what the user is told is measured on a third that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.noise import WARNING, is_random
from graphprune.data.padding import evened
from graphprune.data.source import Array, Feed, Reading, Stack, read_source
from graphprune.errors import UsageError
from graphprune.onnx.bindings import real_inputs

MICRO = 8
"""Samples in one batch, at most: all activations of so many are in memory at once."""

LEAST = 8
"""Batches without which no part can be held out."""

_ROLES = ("fit", "fit", "fit", "choose", "fit", "fit", "choose", "judge")


@dataclass(frozen=True, eq=False)
class Batch:
    """One call of the model.

    Attributes:
        feeds: Input name -> array.
        samples: How many samples it holds.
    """

    feeds: dict[str, Array]
    samples: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration inputs by what they are for.

    Attributes:
        fit: Weights are fitted on these.
        choose: The regulariser is chosen on these.
        judge: The drift that is reported is measured on these.
        random: Whether they are made up: nothing of real data can be learnt from them.
        warnings: What the user is to know of them, one line each.
    """

    fit: tuple[Batch, ...]
    choose: tuple[Batch, ...]
    judge: tuple[Batch, ...]
    random: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Of all parts."""
        return sum(b.samples for b in (*self.fit, *self.choose, *self.judge))


def read_calibration(
    source: Any,
    model: ir.Model,
    samples: int = 256,
    *,
    images: str | None = None,
    tokenizer: str | PathLike[str] | None = None,
    max_length: int | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
) -> Calibration:
    """Batches for `model`, checked, with as little padding as may be (`graphprune.data.padding`).

    Args:
        source: See `graphprune.data.source`.
        model: Its inputs say what is wanted.
        samples: As many at most.
        images: How images are preprocessed (`graphprune.data.images`).
        tokenizer: The tokenizer file of a text file (`graphprune.data.text`).
        max_length: Tokens of one text at most.
        seed: Of random inputs.
        dims: Sizes of dynamic dimensions, for random inputs.

    Raises:
        UsageError: What is wrong with the data, in one line.
    """
    if samples < LEAST:
        raise UsageError(f"calib_samples {samples} is out of range: at least {LEAST}")
    inputs = {v.name or "": v for v in real_inputs(model)}
    batches: list[Batch] = []
    left = samples
    size = max(1, min(MICRO, samples // LEAST))
    fixed = max((d for v in inputs.values() if isinstance(d := _first_dim(v), int)), default=1)
    reading = Reading(samples, max(size, fixed), images, tokenizer, max_length, seed, dims or {})
    for item in read_source(source, model, reading):
        for batch in _batches(item, inputs, left, size):
            batches.append(batch)
            left -= batch.samples
        if left <= 0:
            break
    if all(divisible(b.feeds, inputs) for b in batches):
        even = evened(model, [b.feeds for b in batches], size)
        if even is not None:
            batches = [Batch(f, len(next(iter(f.values())))) for f in even]
    if len(batches) < LEAST:  # few samples: one a batch, so that there is something to hold out
        batches = [single for batch in batches for single in _singles(batch, inputs)]
    if len(batches) < LEAST:
        raise UsageError(
            f"calibration needs at least {LEAST} samples or feeds, of which some are held out: "
            f"there are {len(batches)}"
        )
    by_role: dict[str, list[Batch]] = {"fit": [], "choose": [], "judge": []}
    for i, batch in enumerate(batches):
        by_role[_ROLES[i % len(_ROLES)]].append(batch)
    made_up = is_random(source)
    return Calibration(
        tuple(by_role["fit"]),
        tuple(by_role["choose"]),
        tuple(by_role["judge"]),
        random=made_up,
        warnings=(WARNING,) if made_up else (),
    )


def _batches(
    item: Stack | Feed, inputs: Mapping[str, ir.Value], left: int, size: int
) -> Iterator[Batch]:
    arrays = _named(item, inputs)
    whole = isinstance(item, Feed)
    ranks = {arrays[n].ndim - _rank(v) for n, v in inputs.items() if v.shape is not None}
    if not whole and ranks == {1}:  # the first axis counts calls of the model
        count = _count(arrays, item.name)
        for i in range(min(count, left)):
            feeds = {n: _checked(a[i], inputs[n], item.name) for n, a in arrays.items()}
            yield Batch(feeds, 1)
        return
    checked = {n: _checked(a, inputs[n], item.name, not whole) for n, a in arrays.items()}
    if whole and not divisible(checked, inputs):
        yield Batch(checked, 1)
        return
    count = min(_count(checked, item.name), left)
    fixed = [d for v in inputs.values() if isinstance(d := _first_dim(v), int)]
    step = fixed[0] if fixed else size
    if fixed and count < step:
        raise UsageError(f"{item.name} has {count} samples, the model takes {step} at a time")
    for start in range(0, count - (count % step if fixed else 0), step):
        part = {n: a[start : min(start + step, count)] for n, a in checked.items()}
        yield Batch(part, len(next(iter(part.values()))))


def _singles(batch: Batch, inputs: Mapping[str, ir.Value]) -> list[Batch]:
    if batch.samples == 1 or not divisible(batch.feeds, inputs):
        return [batch]
    return [
        Batch({n: a[i : i + 1] for n, a in batch.feeds.items()}, 1) for i in range(batch.samples)
    ]


def _named(item: Stack | Feed, inputs: Mapping[str, ir.Value]) -> dict[str, Array]:
    arrays = dict(item.arrays)
    wanted = ", ".join(f"'{n}'" for n in inputs)
    if len(inputs) == 1 and len(arrays) == 1:
        return {next(iter(inputs)): next(iter(arrays.values()))}
    if set(arrays) == {""}:
        raise UsageError(f"{item.name} is one array, but the model has inputs {wanted}")
    missing = [n for n in inputs if n not in arrays]
    if missing:
        raise UsageError(
            f"{item.name} has no array '{missing[0]}': the model's inputs are {wanted}"
        )
    unknown = [n for n in arrays if n not in inputs]
    if unknown:
        raise UsageError(f"{item.name} has '{unknown[0]}', but the model's inputs are {wanted}")
    return arrays


def _checked(array: Array, value: ir.Value, where: str, stacked: bool = False) -> Array:
    """The array in the input's type. Raises UsageError for another kind, shape, NaN or infinity."""
    assert value.dtype is not None
    wanted = np.dtype(value.dtype.numpy())
    kinds = {"i": "iu", "u": "iu"}.get(wanted.kind, wanted.kind)
    if array.dtype != wanted and array.dtype.kind not in kinds:
        raise UsageError(f"'{value.name}' in {where} is {array.dtype}, the model takes {wanted}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"'{value.name}' in {where} has NaN or infinite values")
    dims = None if value.shape is None else list(value.shape)
    if dims is not None:
        free = 1 if stacked and dims else 0
        fits = len(dims) == array.ndim and all(
            not isinstance(d, int) or d < 0 or d == n
            for d, n in zip(dims[free:], array.shape[free:], strict=True)
        )
        if not fits:
            shown = ", ".join(str(d) if isinstance(d, int) and d >= 0 else "?" for d in dims)
            raise UsageError(
                f"'{value.name}' in {where} has shape {list(array.shape)}, the model takes "
                f"[{shown}]"
            )
    if array.size == 0:
        raise UsageError(f"'{value.name}' in {where} is empty")
    return np.ascontiguousarray(array, dtype=wanted)


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _first_dim(value: ir.Value) -> int | str | None:
    if value.shape is None or len(value.shape) == 0:
        return None
    dim = value.shape[0]
    return dim if isinstance(dim, int) and dim >= 0 else "?"


def divisible(feeds: Mapping[str, Array], inputs: Mapping[str, ir.Value]) -> bool:
    """Whether the first axis counts samples in every input, by what the file says."""
    lengths = {a.shape[0] if a.ndim else 0 for a in feeds.values()}
    return len(lengths) == 1 and all(_first_dim(v) == "?" for v in inputs.values())


def _count(arrays: Mapping[str, Array], where: str) -> int:
    counts = {n: len(a) if a.ndim else 0 for n, a in arrays.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"'{n}' {c}" for n, c in counts.items())
        raise UsageError(f"the arrays of {where} have different numbers of samples: {shown}")
    return next(iter(counts.values()))
