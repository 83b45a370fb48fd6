"""What the original says: values to be matched, kept in memory as far as there is room."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from graphprune.distill.matches import Match
from graphprune.distill.module import OnnxModule
from graphprune.distill.samples import Group
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.runtime import Session
from graphprune.plan import take

MEMORY = 1 << 30
"""Bytes of the original's values that are kept."""

_LEAST = 1e-12


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
        self._left = memory
        self._kept: dict[Hashable, dict[str, Tensor]] = {}
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
        if key in self._kept:
            return {n: t.to(self._device) for n, t in self._kept[key].items()}
        try:
            values = self._run(group.feeds)
        except UnsupportedModelError as error:
            raise UsageError(
                f"the model does not run on the calibration inputs: {error}"
            ) from error
        found = {
            m.name: torch.from_numpy(np.ascontiguousarray(take(values[m.name], m.cuts)))
            for m in self._matches
        }
        size = sum(t.nbytes for t in found.values())
        if size <= self._left:
            self._left -= size
            self._kept[key] = found
        return {n: t.to(self._device) for n, t in found.items()}

    def forget(self) -> None:
        """Let go of what is kept."""
        self._left += sum(t.nbytes for found in self._kept.values() for t in found.values())
        self._kept.clear()

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
