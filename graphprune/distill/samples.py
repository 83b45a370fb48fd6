"""From calibration inputs to the batches of a training step.

Padding is taken off single samples and put back within a batch only, and samples of about the same
length share a batch. What cannot be stacked (a fixed batch, sequences with states) is run one by
one, and the gradients of several are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.feeds import Batch
from graphprune.data.padding import Padding, stacked, stacks_with, trimmed
from graphprune.onnx.bindings import dim_names, real_inputs

Array = np.ndarray[Any, Any]

ONE_BY_ONE = 4
"""Feeds in one step where they cannot be stacked."""


@dataclass(frozen=True, eq=False)
class Group:
    """One call of the models.

    Attributes:
        feeds: Input name -> array.
        mask: `(batch, length)`, 1 where there is something and 0 where there is padding; None
            where nothing is padded.
        samples: How many samples it holds.
    """

    feeds: Mapping[str, Array]
    mask: Array | None
    samples: int


Step = tuple[Group, ...]
"""What one step of training sees."""


def make_steps(
    model: ir.Model,
    batches: Sequence[Batch],
    size: int,
    padding: Padding | None,
    *,
    ordered: bool = False,
) -> list[Step]:
    """The inputs as steps of about `size` samples; the same for the same inputs.

    Args:
        model: Its inputs say whether samples can be stacked.
        batches: Calibration inputs.
        size: Samples in a step.
        padding: How the model is told of padding, if it is.
        ordered: Keep the order of samples (for `size` 1), instead of what has one shape together.
    """
    if not _stackable(model, batches):
        groups = [Group(b.feeds, _mask_of(b.feeds, padding), b.samples) for b in batches]
        return [tuple(groups[i : i + ONE_BY_ONE]) for i in range(0, len(groups), ONE_BY_ONE)]
    buckets: dict[tuple[Any, ...], list[dict[str, Array]]] = {}
    for batch in batches:
        for i in range(batch.samples):
            sample = {n: a[i : i + 1] for n, a in batch.feeds.items()}
            sample = trimmed(sample, padding)
            key = (len(buckets),) if ordered else stacks_with(sample, padding)
            buckets.setdefault(key, []).append(sample)
    steps: list[Step] = []
    for samples in buckets.values():
        if padding is not None:
            samples = sorted(samples, key=lambda s: s[padding.mask].shape[1])
        for i in range(0, len(samples), size):
            part = samples[i : i + size]
            feeds = stacked(part, padding)
            steps.append((Group(feeds, _mask_of(feeds, padding), len(part)),))
    return steps


def _stackable(model: ir.Model, batches: Sequence[Batch]) -> bool:
    """Whether the first axis of every input counts samples, by the file and by the data."""
    for value in real_inputs(model):
        dims = dim_names(value)
        if not dims or isinstance(dims[0], int):
            return False
    return all(a.ndim and len(a) == b.samples for b in batches for a in b.feeds.values())


def _mask_of(feeds: Mapping[str, Array], padding: Padding | None) -> Array | None:
    if padding is None or (feeds[padding.mask] == 1).all():
        return None
    return np.asarray(feeds[padding.mask], np.float32)
