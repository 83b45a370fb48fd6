"""How much a batch takes: of a model with large activations, batches of fewer samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.feeds import Batch, Calibration, divisible
from graphprune.onnx.bindings import real_inputs

Array = np.ndarray[Any, Any]

ROOM = 640 << 20
"""Bytes of all activations of one batch together, at most, as long as it has several samples."""


def batch_sizes(
    model: ir.Model, feeds: Sequence[Mapping[str, Array]], dims: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """About how many elements each value has in the largest batch.

    Args:
        model: In memory.
        feeds: Batches of inputs.
        dims: Shapes of its values, at any binding.
    """
    inputs = [v.name or "" for v in model.graph.inputs if v.name in dims]
    known = sum(int(np.prod(dims[n], dtype=np.int64)) for n in inputs) or 1
    fed = max((sum(a.size for n, a in f.items() if n in inputs) for f in feeds), default=known)
    factor = fed / known
    return {n: int(factor * int(np.prod(d, dtype=np.int64))) for n, d in dims.items()}


def with_room(
    data: Calibration, model: ir.Model, dims: Mapping[ir.Value, Sequence[int]], room: int = ROOM
) -> Calibration:
    """The same inputs in the same roles, in batches whose activations have room.

    What looks at them then runs two at a time in the memory of one. Batches that cannot be divided
    stay as they are.

    Args:
        data: Calibration inputs.
        model: In memory.
        dims: Shapes of its values, at any binding.
        room: Bytes.
    """
    inputs = {v.name or "": v for v in real_inputs(model)}
    every = [b.feeds for b in (*data.fit, *data.choose, *data.judge)]
    if not all(divisible(feeds, inputs) for feeds in every):
        return data
    made = {v.name: d for v, d in dims.items() if v.name and (v.producer() or v.is_graph_input())}
    sizes = batch_sizes(model, every, made)
    parts = max(1, -(-4 * sum(sizes.values()) // room))  # of float32; rounded up

    def divided(batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
        return tuple(small for b in batches for small in _divided(b, parts))

    return replace(
        data, fit=divided(data.fit), choose=divided(data.choose), judge=divided(data.judge)
    )


def _divided(batch: Batch, parts: int) -> list[Batch]:
    count = min(parts, batch.samples)
    ends = [batch.samples * i // count for i in range(count + 1)]
    return [
        Batch({n: a[start:end] for n, a in batch.feeds.items()}, end - start)
        for start, end in pairwise(ends)
    ]
