"""Windows over positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.conv import pad, paddings
from graphprune.distill.ops.registry import Call, torch_op

_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Window:
    """Sizes of a pool: kernel, strides, dilations, padding, and what `ceil_mode` adds behind."""

    def __init__(self, call: Call, x: Tensor) -> None:
        self.kernel = [int(k) for k in call.attr("kernel_shape")]
        count = len(self.kernel)
        if count not in _MAX:
            raise call.refusal(f"{count} spatial dimensions")
        self.strides: list[int] = list(call.attr("strides") or [1] * count)
        self.dilations: list[int] = list(call.attr("dilations") or [1] * count)
        self.begin, self.end = paddings(
            call, x.shape[2:], self.kernel, self.strides, self.dilations
        )
        self.overhang = [0] * count
        if call.attr("ceil_mode", 0):
            self.overhang = [self._overhang(i, size) for i, size in enumerate(x.shape[2:])]

    def _overhang(self, i: int, size: int) -> int:
        """How far the last window stands out behind the padding; it must begin before the end."""
        span = self.dilations[i] * (self.kernel[i] - 1) + 1
        length = size + self.begin[i] + self.end[i]
        steps = -(-(length - span) // self.strides[i])
        if steps * self.strides[i] >= size + self.begin[i]:
            steps -= 1
        return max(0, steps * self.strides[i] + span - length)

    @property
    def all_end(self) -> list[int]:
        return [e + o for e, o in zip(self.end, self.overhang, strict=True)]

    @property
    def plain(self) -> bool:
        return not any((*self.begin, *self.end, *self.overhang))


@torch_op("MaxPool")
def max_pool(call: Call) -> Tensor:
    if call.wants(1):
        raise call.refusal("it gives the positions of the maxima")
    x = call.x(0)
    w = _Window(call, x)
    if not w.plain:
        lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        x = pad(x, w.begin, w.all_end, lowest)
    return _MAX[len(w.kernel)](x, w.kernel, w.strides, 0, w.dilations)


@torch_op("AveragePool")
def average_pool(call: Call) -> Tensor:
    x = call.x(0)
    w = _Window(call, x)
    if any(d != 1 for d in w.dilations):
        raise call.refusal("dilations")
    pool = _AVERAGE[len(w.kernel)]
    if w.plain:
        return pool(x, w.kernel, w.strides)
    counted = torch.ones_like(x[:1, :1])
    if call.attr("count_include_pad", 0):
        counted = pad(pad(counted, w.begin, w.end, 1.0), [0] * len(w.kernel), w.overhang)
    else:
        counted = pad(counted, w.begin, w.all_end)
    sums = pool(pad(x, w.begin, w.all_end), w.kernel, w.strides)
    return sums / pool(counted, w.kernel, w.strides)


@torch_op("LpPool")
def lp_pool(call: Call) -> Tensor:
    x = call.x(0)
    p: int = call.attr("p", 2)
    w = _Window(call, x)
    if any(d != 1 for d in w.dilations):
        raise call.refusal("dilations")
    size = 1
    for k in w.kernel:
        size *= k
    powers = pad(x.abs() ** p, w.begin, w.all_end)
    return (_AVERAGE[len(w.kernel)](powers, w.kernel, w.strides) * size) ** (1 / p)


def _places(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


@torch_op("GlobalAveragePool")
def global_average(call: Call) -> Tensor:
    x = call.x(0)
    return x.mean(_places(x), keepdim=True)


@torch_op("GlobalMaxPool")
def global_max(call: Call) -> Tensor:
    x = call.x(0)
    return x.amax(_places(x), keepdim=True)


@torch_op("GlobalLpPool")
def global_lp(call: Call) -> Tensor:
    x = call.x(0)
    p: int = call.attr("p", 2)
    return (x.abs() ** p).sum(_places(x), keepdim=True) ** (1 / p)
