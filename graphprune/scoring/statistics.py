"""What activations are like on calibration inputs: one streamed pass, sums in float64.

Only the activations of one batch are in memory, and no more of them than `MEMORY`: with more, the
pass is made for one part of the values after the other. Of each value a seeded choice of positions
counts, `rows_of` in all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.errors import UsageError
from graphprune.freed import give_back
from graphprune.onnx.runtime import Session
from graphprune.threads import in_order

Array = np.ndarray[Any, Any]

ROWS = 32768
"""Vectors of each activation that are looked at, at most."""

LEAST_ROWS = 8192
"""Vectors of wide activations, whose products take longer."""

_PRODUCTS = 1 << 33
"""Of the channels of an activation in all vectors: with more, fewer vectors are looked at."""

WIDEST = 2048
"""Channels up to which covariances are taken; of wider activations variances only."""

MEMORY = 384 << 20
"""Bytes of activations that are handed out at a time, of all batches that run at once."""


class Statistics:
    """Of the channels of one activation.

    Attributes:
        count: Vectors that were counted in.
        mean: Of each channel, `(channels,)`, float64.
        squares: Sum of squared deviations from the mean, `(channels,)`.
        scatter: Sum of their products, `(channels, channels)`; None where only variances are kept.
        zeros: How often each channel was exactly zero, `(channels,)`.
    """

    def __init__(self, channels: int, *, full: bool = True) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)
        self.scatter: Array | None = np.zeros((channels, channels)) if full else None
        self.zeros = np.zeros(channels)

    def add(self, rows: Array) -> None:
        """Count in `rows` `(n, channels)`, merging means so that nothing cancels (Chan et al.).

        Products of deviations are taken in float32, half the time, and summed in float64.
        """
        n = len(rows)
        if n == 0:
            return
        rows = rows.astype(np.promote_types(rows.dtype, np.float32), copy=False)
        mean = rows.mean(0, dtype=np.float64)
        shift = mean - self.mean
        deviations = np.empty((n + 1, rows.shape[1]), np.float32)
        np.subtract(rows, mean.astype(rows.dtype), out=deviations[:-1], casting="same_kind")
        weight = self.count * n / (self.count + n)
        deviations[-1] = np.sqrt(weight) * shift  # one more row merges the means
        if self.scatter is not None:
            self.scatter += deviations.T @ deviations
        self.squares += np.einsum("nc,nc->c", deviations, deviations, dtype=np.float64)
        self.count += n
        self.mean += shift * n / self.count
        self.zeros += np.count_nonzero(rows == 0, axis=0)

    @property
    def full(self) -> bool:
        """Whether covariances are kept."""
        return self.scatter is not None

    @property
    def covariance(self) -> Array | None:
        """`(channels, channels)`; None where only variances are kept."""
        return None if self.scatter is None else self.scatter / max(self.count, 1)

    @property
    def variance(self) -> Array:
        """Of each channel."""
        return np.asarray(self.squares / max(self.count, 1))

    @property
    def power(self) -> Array:
        """Mean square of each channel."""
        return self.variance + self.mean**2

    @property
    def zero_share(self) -> Array:
        """How often each channel is exactly zero, 0 to 1."""
        return self.zeros / max(self.count, 1)


Axes = int | tuple[int, ...]
"""The axis of channels, or axes that count them together (heads and dims)."""

Known = dict[tuple[str, Axes], Statistics]
"""Statistics by the name of the value and its axis of channels."""


def collect(
    model: ir.Model,
    wanted: Iterable[tuple[str, Axes]],
    feeds: Sequence[Mapping[str, Array]],
    *,
    full: bool = True,
    sizes: Mapping[str, int] | None = None,
    threads: int = 1,
    jobs: int = 1,
    seed: int = 0,
    known: Known | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Statistics]:
    """Statistics of some values of `model`, each by its channels.

    Args:
        model: A graph in memory.
        wanted: Value names with their channel axes.
        feeds: Batches of inputs.
        full: Covariances too, of values of at most `WIDEST` channels.
        sizes: About how many elements each value has in one batch, to bound memory; a value that is
            not named is taken alone.
        threads: Of onnxruntime.
        jobs: Threads of this process, each with a batch (as far as memory allows) or a value: what is
            found does not depend on it.
        seed: Of the choice of positions.
        known: What was collected before from the same model and feeds, with the same seed: it is
            taken from there, and what is collected now is added.
        progress: Called with the share that is done.

    Raises:
        UnsupportedModelError: The model does not run on the inputs.
        UsageError: It runs, but gives values that are not finite.
    """
    known = {} if known is None else known
    everything = dict(wanted)
    values = [
        key
        for key in everything.items()
        if key not in known or (full and not known[key].full and len(known[key].mean) <= WIDEST)
    ]
    sizes = sizes or {}
    parts = list(_parts([name for name, _ in values], sizes))
    axes = dict(values)
    number = {name: i for i, (name, _) in enumerate(values)}
    found: dict[str, Statistics] = {}
    for p, part in enumerate(parts):
        with Session(model, threads=threads, outputs=part, arena=True) as session:

            def looked_at(
                batch: int, part: list[str] = part, run: Any = session.run
            ) -> list[Array]:
                results = run(feeds[batch])
                rows = []
                for name in part:
                    count, at = vectors(results[name], axes[name])
                    width = results[name].size // max(count, 1)
                    each = max(1, rows_of(width) // max(len(feeds), 1))
                    rows.append(at(chosen_rows(count, each, (seed, number[name], batch))))
                return rows

            runs = max(1, min(jobs, MEMORY // max(sum(_size(n, sizes) for n in part), 1)))
            for b, batch in enumerate(in_order(looked_at, range(len(feeds)), runs)):
                for name, rows in zip(part, batch, strict=True):
                    if not np.isfinite(rows).all():
                        raise UsageError(
                            f"'{name}' is not finite on the calibration inputs (batch {b}): are "
                            "they what the model takes?"
                        )
                    if name not in found:
                        width = rows.shape[-1]
                        found[name] = Statistics(width, full=full and width <= WIDEST)
                counted = zip((found[name] for name in part), batch, strict=True)
                deque(in_order(lambda pair: pair[0].add(pair[1]), counted, jobs), maxlen=0)
                if progress is not None:
                    progress((p + (b + 1) / len(feeds)) / len(parts))
        give_back()
    known.update({(name, axes[name]): statistics for name, statistics in found.items()})
    return {name: known[name, axis] for name, axis in everything.items() if (name, axis) in known}


def rows_of(width: int) -> int:
    """How many vectors of an activation of `width` channels are looked at, in all."""
    return min(ROWS, max(LEAST_ROWS, _PRODUCTS // max(width, 1) ** 2))


def vectors(array: Array, axes: Axes) -> tuple[int, Callable[[Array], Array]]:
    """How many vectors along `axes` an array has, and what gives those with some numbers.

    Only these are copied: an activation may be large, and few of its places looked at.
    """
    axes = (axes,) if isinstance(axes, int) else axes
    moved = np.moveaxis(array, axes, range(-len(axes), 0))
    places, width = moved.shape[: -len(axes)], moved.shape[-len(axes) :]

    def at(chosen: Array) -> Array:
        rows = moved[np.unravel_index(chosen, places)] if places else moved[None][chosen]
        return np.asarray(rows.reshape(len(chosen), math.prod(width)))

    return math.prod(places), at


def chosen_rows(count: int, wanted: int, seed: Sequence[int]) -> Array:
    """`wanted` of `count` rows, the same for the same seed, in order."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(list(seed)).choice(count, wanted, replace=False))


def _size(name: str, sizes: Mapping[str, int]) -> int:
    """Bytes of a value in one batch; as much as there may be where it is not known."""
    return 4 * sizes[name] if name in sizes else MEMORY


def _parts(names: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    part: list[str] = []
    total = 0
    for name in names:
        own = _size(name, sizes)
        if part and total + own > MEMORY:
            yield part
            part, total = [], 0
        part.append(name)
        total += own
    if part:
        yield part
