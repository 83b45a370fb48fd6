"""What the original says: values to be matched, kept in memory as far as there is room."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from graphprune.cut import take
from graphprune.distill.matches import Match
from graphprune.distill.module import OnnxModule
from graphprune.distill.samples import Group
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.runtime import Session

MEMORY = 1 << 30
"""Bytes of the original's values that are kept."""

Array = np.ndarray[Any, Any]

_BLOCK = 64 << 20
"""Bytes that are asked for at a time: of so many glibc makes a mapping of its own."""

_ALIGNED = 64
"""Bytes from which to which arrays start."""

_LEAST = 1e-12

_Place = tuple[int, int, tuple[int, ...], str]
"""Block, first byte, shape and type."""


class Room:
    """Memory for arrays that stay, in large blocks of their own, and nothing else of them.

    What stays among the large arrays that each step makes and frees, be it a tensor's few bytes, leaves
    holes in which the next ones do not fit: a process becomes many times as large as what it keeps.

    Args:
        size: Bytes in all.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.clear()

    def clear(self) -> None:
        """Start anew."""
        self._left, self._used = self._size, 0
        self._blocks: list[Array] = []
        self._places: dict[Hashable, list[_Place]] = {}

    def keep(self, key: Hashable, arrays: Sequence[Array]) -> None:
        """Copy all of them, as far as there is room."""
        sizes = [-(-a.nbytes // _ALIGNED) * _ALIGNED for a in arrays]
        if sum(sizes) > self._left:
            return
        self._left -= sum(sizes)
        self._places[key] = [self._copied(a, n) for a, n in zip(arrays, sizes, strict=True)]

    def find(self, key: Hashable) -> list[Array] | None:
        """What was kept under a key, not to be changed."""
        places = self._places.get(key)
        return None if places is None else [self._at(*place) for place in places]

    def _copied(self, array: Array, size: int) -> _Place:
        if not self._blocks or self._used + size > self._blocks[-1].size:
            self._blocks.append(np.empty(max(_BLOCK, size), np.uint8))
            self._used = 0
        place = len(self._blocks) - 1, self._used, array.shape, array.dtype.str
        self._at(*place)[...] = array
        self._used += size
        return place

    def _at(self, block: int, start: int, shape: tuple[int, ...], dtype: str) -> Array:
        count = math.prod(shape)
        return np.frombuffer(self._blocks[block], dtype, count, start).reshape(shape)


class Teacher:
    """Runs the original, in onnxruntime on a CPU and in torch on a GPU.

    Args:
        model: The original, canonical.
        matches: What is asked for.
        device: Where the student is.
        threads: Of onnxruntime.
        memory: Bytes of values that are kept; what is beyond is computed again.
    """

    def __init__(
        self,
        model: ir.Model,
        matches: Sequence[Match],
        device: torch.device,
        *,
        threads: int = 1,
        memory: int = MEMORY,
    ) -> None:
        self._matches = matches
        self._device = device
        self._room = Room(memory)
        names = [m.name for m in matches]
        self._session: Session | None = None
        self._run: Callable[[Mapping[str, Any]], Mapping[str, Any]]
        if device.type == "cpu":
            self._session = Session(model, threads=threads, outputs=names)
            self._run = self._session.run
        else:
            module = OnnxModule(model).to(device).requires_grad_(False)
            self._run = lambda feeds: {
                n: v.cpu().numpy() for n, v in module(tensors(feeds, device), names).items()
            }

    def targets(self, key: Hashable, group: Group) -> dict[str, Tensor]:
        """The values of one group, restricted to what is kept, as the student has them.

        Raises:
            UsageError: The original does not run on these inputs.
        """
        names = [m.name for m in self._matches]
        if (kept := self._room.find(key)) is not None:
            return self._tensors(names, kept)
        try:
            values = self._run(group.feeds)
        except UnsupportedModelError as error:
            raise UsageError(
                f"the model does not run on the calibration inputs: {error}"
            ) from error
        found = [np.ascontiguousarray(take(values[m.name], m.cuts)) for m in self._matches]
        self._room.keep(key, found)
        return self._tensors(names, found)

    def _tensors(self, names: Sequence[str], arrays: Sequence[Array]) -> dict[str, Tensor]:
        pairs = zip(names, arrays, strict=True)
        return {n: torch.from_numpy(a).to(self._device) for n, a in pairs}

    def forget(self) -> None:
        """Let go of what is kept."""
        self._room.clear()

    def close(self) -> None:
        """Let go of onnxruntime and of what is kept."""
        self.forget()
        if self._session is not None:
            self._session.close()


def tensors(feeds: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Arrays as tensors; of at most one element they stay on the CPU, as sizes do."""
    return {
        n: torch.from_numpy(np.ascontiguousarray(a).reshape(a.shape)).to(
            device if a.size > 1 else "cpu"
        )
        for n, a in feeds.items()
    }


def spread(
    teacher: Teacher, matches: Sequence[Match], groups: Sequence[tuple[Hashable, Group]]
) -> dict[str, float]:
    """The centred variance of each value: its squared distance from the mean of its channel."""
    sums: dict[str, list[Tensor]] = {}
    for key, group in groups:
        found = teacher.targets(key, group)
        for match in matches:
            rows = _rows(found[match.name], match.axis, group.mask)
            part = [torch.tensor(float(len(rows))), rows.sum(0), rows.square().sum(0)]
            known = sums.get(match.name)
            sums[match.name] = part if known is None else _added(known, part)
    result = {}
    for name, (count, first, second) in sums.items():
        mean = first / count
        variance = float((second / count - mean.square()).clamp_min(0).mean())
        result[name] = max(variance, _LEAST, 1e-6 * float(mean.square().mean()))
    return result


def _added(one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    """Sums of both; over all channels where these are not the same ones (a length, after all)."""
    if one[1].shape != other[1].shape:
        one, other = (
            [count * max(first.numel(), 1) if first.ndim else count, first.sum(), second.sum()]
            for count, first, second in (one, other)
        )
    return [a + b for a, b in zip(one, other, strict=True)]


def _rows(x: Tensor, axis: int, mask: Any) -> Tensor:
    """`(places, channels)` in double precision, without padding."""
    moved = x.detach().cpu().double().movedim(axis, -1)
    if is_masked(x, mask):
        moved = moved[torch.from_numpy(mask) > 0] if axis == x.ndim - 1 else moved
    return moved.reshape(-1, moved.shape[-1])


def is_masked(x: Tensor, mask: Any) -> bool:
    """Whether the first two axes of a value are those of the padding mask."""
    return mask is not None and x.ndim >= 3 and tuple(x.shape[:2]) == tuple(mask.shape)
