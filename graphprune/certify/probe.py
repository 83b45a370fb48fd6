"""Does what was removed matter at all? A mask that changes nothing proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphprune.certify.compare import deviation
from graphprune.certify.masks import fitting, joint, masks
from graphprune.certify.pieces import Piece, Runner, Values
from graphprune.certify.sides import Sides


class Probe:
    """The original without masks, run beside: does what was removed matter at all?

    Attributes:
        moved: Graph output -> change by the masks, relative to its largest magnitude.
        silent: Tensors whose removed entries were zero (or nearly) already.
        seen: Tensors whose removed entries were looked at.
    """

    def __init__(self, sides: Sides, pieces: Sequence[Piece], runner: Runner) -> None:
        self._sides = sides
        self._pieces = pieces
        self._runner = runner
        self._values: dict[str, Any] = {}
        self._outputs = {v.name for v in sides.original.graph.outputs}
        self._last_use = {n: k for k, piece in enumerate(pieces) for n in piece.inputs}
        self.moved: dict[str, float] = {}
        self.silent: set[str] = set()
        self.seen: set[str] = set()

    def start(self, feeds: Values) -> None:
        """Take the inputs."""
        self._values = dict(feeds)

    def step(self, k: int, masked: Values, planned: bool) -> None:
        """Run piece `k` and look at what it defines, beside the masked original's values."""
        fresh = self._runner.run(self._pieces[k], self._values)
        self._values.update(fresh)
        for name, value in fresh.items():
            if not isinstance(value, np.ndarray) or not value.size:
                continue
            if name in self._outputs and name in masked:
                self.moved[name] = _change(value, masked[name])
            if self._sides.cuts.get(name) and value.dtype.kind == "f":
                self._look(name, value, planned)
        for name in [n for n in self._values if self._last_use.get(n, -1) <= k]:
            del self._values[name]

    def _look(self, name: str, value: np.ndarray[Any, Any], planned: bool) -> None:
        held, _ = fitting(self._sides.cuts[name], value.shape, planned)
        parts = masks(held, value.shape)
        if not parts:
            return
        mask = np.broadcast_to(joint(parts), value.shape)
        magnitude = np.abs(value)
        largest = float(magnitude.max(initial=0.0))
        removed = float(magnitude.max(where=~mask, initial=0.0))
        self.seen.add(name)
        if not removed > 1e-6 * largest:
            self.silent.add(name)


def _change(before: Any, after: Any) -> float:
    found = deviation(before, after)
    return float("inf") if found.flaw else found.max_rel
