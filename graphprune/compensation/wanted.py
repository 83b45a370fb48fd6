"""What the original makes at the places that its layers are compared by, ahead of the refits.

The original does not wait for what is refitted: it runs in larger pieces than the pruned model, a
piece for several layers, while those before are refitted. Only the chosen rows stay. In front of a
global maximum as many again are those where channels are largest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.compensation.frontier import Frontier
from graphprune.compensation.linear import Linear, output_rows
from graphprune.compensation.targets import Target, rows_per_sample
from graphprune.cut import take
from graphprune.data.room import batch_sizes
from graphprune.scoring.statistics import chosen_rows
from graphprune.threads import ahead

Array = np.ndarray[Any, Any]

MEMORY = 48 << 20
"""Bytes of chosen rows of one piece, and of what one batch gives at its layers; at most, except where
one layer alone has more."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What a layer should give for one batch.

    Attributes:
        shape: Of the whole value, as it is cut.
        chosen: Which of its rows are looked at.
        rows: These, `(rows, channels)`.
    """

    shape: tuple[int, ...]
    chosen: Array
    rows: Array


class Reference:
    """What the original makes of the inputs; a context.

    Args:
        original: Canonical.
        targets: In the order of the graph.
        feeds: Batches of inputs.
        sizes: Samples in each batch.
        dims: Shapes of the original's values at any binding, to bound memory.
        threads: Of onnxruntime.
        seed: Of the choice of rows.
    """

    def __init__(
        self,
        original: ir.Model,
        targets: Sequence[Target],
        feeds: Sequence[Mapping[str, Array]],
        sizes: Sequence[int],
        dims: Mapping[str, Sequence[int]],
        *,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self._targets, self._sizes, self._seed = targets, sizes, seed
        self._pieces = list(_pieces(targets, sum(sizes), batch_sizes(original, feeds, dims)))
        stops = [[targets[i].value for i in piece] for piece in self._pieces]
        self._frontier = Frontier(
            original, feeds, [*stops, made_outputs(original)], threads=threads
        )
        self._context = ExitStack()

    def __enter__(self) -> Reference:
        self._context.enter_context(self._frontier)
        pieces = self._context.enter_context(ahead(self._made()))
        self.layers: Iterator[list[Wanted]] = (layer for piece in pieces for layer in piece)
        """For one target after the other, batch by batch, what its layer should give.

        Raises UnsupportedModelError, when a layer is asked for, where the model does not run.
        """
        return self

    def __exit__(self, *error: object) -> None:
        self._context.close()

    def outputs(self, first: int) -> list[dict[str, Array]]:
        """The outputs for the batches from `first` on; when all layers were taken."""
        return list(self._frontier.advance(len(self._pieces), first))

    def _made(self) -> Iterator[list[list[Wanted]]]:
        for stop, piece in enumerate(self._pieces):
            found: list[list[Wanted]] = [[] for _ in piece]
            for b, values in enumerate(self._frontier.advance(stop)):
                for of, i in zip(found, piece, strict=True):
                    of.append(self._rows(i, b, values[self._targets[i].value]))
            yield found

    def _rows(self, index: int, batch: int, value: Array) -> Wanted:
        target = self._targets[index]
        y = take(value, target.cuts)
        count = y.size // math.prod(y.shape[a] for a in target.layer.axes)
        wanted = rows_per_sample(target, sum(self._sizes)) * self._sizes[batch]
        chosen = chosen_rows(count, wanted, (self._seed, index, batch))
        if target.peaks and len(chosen) < count:
            chosen = np.union1d(chosen, _peaks(target.layer, y, count // len(y), wanted // len(y)))
        return Wanted(y.shape, chosen, output_rows(target.layer, y, chosen))


def _peaks(layer: Linear, value: Array, places: int, most: int) -> Array:
    """Rows of `value` in which channels are largest: of each sample at most so many, the fullest first."""
    found = []
    for i in range(len(value)):
        largest = output_rows(layer, value[i : i + 1], np.arange(places)).argmax(0)
        counts = np.bincount(largest, minlength=places)
        fullest = np.argsort(-counts, kind="stable")[:most]
        found.append(places * i + fullest[counts[fullest] > 0])
    return np.concatenate(found)


def made_outputs(model: ir.Model) -> list[str]:
    """Names of the outputs that a node makes."""
    return [v.name or "" for v in model.graph.outputs if v.producer() is not None]


def _pieces(
    targets: Sequence[Target], samples: int, elements: Mapping[str, int]
) -> Iterator[list[int]]:
    """Which targets are run for together, by number. The first is alone: it is waited for."""
    piece: list[int] = []
    kept = given = 0
    for i, target in enumerate(targets):
        rows = 4 * samples * rows_per_sample(target, samples) * target.scale.size
        rows *= 2 if target.peaks else 1
        value = 4 * elements.get(target.value, MEMORY)
        if piece and (i == 1 or max(kept + rows, given + value) > MEMORY):
            yield piece
            piece, kept, given = [], 0, 0
        piece.append(i)
        kept, given = kept + rows, given + value
    if piece:
        yield piece
