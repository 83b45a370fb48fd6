"""Sequences that are padded to share a batch: how a model is told, and how to need little of it.

What a model makes of padding reaches no output that counts, but it would count in every statistic of
activations and in every layer that is fitted. So samples of about the same length share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir

from graphprune.onnx.bindings import dim_names, real_inputs

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]
T = TypeVar("T")

TURN = 8
"""Batches over which lengths go up, or down: as many as the roles of `graphprune.data.feeds` go round."""


@dataclass(frozen=True, eq=False)
class Padding:
    """How a model is told of padding.

    Attributes:
        mask: The input that holds 1 for what counts.
        inputs: All inputs that have its length as second axis.
    """

    mask: str
    inputs: frozenset[str]


def find_padding(model: ir.Model, feeds: Sequence[Feed]) -> Padding | None:
    """The input that masks padding: two axes, of 0 and 1, with "mask" in its name."""
    dims = {v.name or "": dim_names(v) for v in real_inputs(model)}
    for name, own in dims.items():
        if "mask" not in name.lower() or own is None or len(own) != 2 or isinstance(own[1], int):
            continue
        arrays = [f[name] for f in feeds if name in f]
        if all(((a == 0) | (a == 1)).all() and (a[:, 0] == 1).all() for a in arrays):
            shapes = [{n: a.shape[:2] for n, a in f.items() if a.ndim == 2} for f in feeds]
            alike = {n for n in dims if all(s.get(n) == s[name] for s in shapes)}
            return Padding(name, frozenset(alike))
    return None


def trimmed(sample: Feed, padding: Padding | None) -> dict[str, Array]:
    """One sample without the padding behind it."""
    if padding is None:
        return dict(sample)
    length = int(np.flatnonzero(sample[padding.mask][0])[-1]) + 1
    return {n: a[:, :length] if n in padding.inputs else a for n, a in sample.items()}


def stacks_with(sample: Feed, padding: Padding | None) -> tuple[Any, ...]:
    """What must be equal for two samples to be stacked."""
    free = padding.inputs if padding is not None else frozenset[str]()
    return tuple((n, a.shape[2:] if n in free else a.shape[1:]) for n, a in sample.items())


def stacked(samples: Sequence[Feed], padding: Padding | None) -> dict[str, Array]:
    """One batch of samples, padded to the longest."""
    feeds: dict[str, Array] = {}
    for name in samples[0]:
        arrays = [s[name] for s in samples]
        if padding is not None and name in padding.inputs:
            longest = max(a.shape[1] for a in arrays)
            arrays = [np.pad(a, ((0, 0), (0, longest - a.shape[1]))) for a in arrays]
        feeds[name] = np.concatenate(arrays)
    return feeds


def in_turns(items: Iterable[T], length: Callable[[T], int], step: int) -> list[list[T]]:
    """Batches of `step` items of about the same length.

    Lengths go up over `TURN` batches, down over the next `TURN`, and so on, so that roles that are
    dealt out in turns get batches of all lengths alike.
    """
    ordered = sorted(items, key=length)
    batches = [ordered[i : i + step] for i in range(0, len(ordered), step)]
    turns = [batches[i : i + TURN] for i in range(0, len(batches), TURN)]
    return [b for i, turn in enumerate(turns) for b in (reversed(turn) if i % 2 else turn)]


def evened(model: ir.Model, feeds: Sequence[Feed], step: int) -> list[dict[str, Array]] | None:
    """The samples of all feeds in batches of about the same length, with no more padding than that
    takes; None where there is none behind them, or nothing that tells of it.

    Args:
        model: Its inputs say which one is the mask.
        feeds: Of which the first axis of every array counts samples.
        step: Samples in one batch.
    """
    padding = find_padding(model, feeds)
    if padding is None or all(f[padding.mask][:, -1].all() for f in feeds):
        return None
    samples = [
        trimmed({n: a[i : i + 1] for n, a in f.items()}, padding)
        for f in feeds
        for i in range(len(f[padding.mask]))
    ]
    if len({stacks_with(s, padding) for s in samples}) > 1:
        return None
    batches = in_turns(samples, lambda s: s[padding.mask].shape[1], step)
    return [stacked(b, padding) for b in batches]
