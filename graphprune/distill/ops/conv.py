"""Convolutions in one to three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from graphprune.distill.ops.registry import Call, torch_op

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@torch_op("Conv", weights=(1, 2))
def conv(call: Call) -> Tensor:
    return convolve(call, call.x(0), call.x(1), call.at(2))


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A Conv with the attributes of the node."""
    spatial = weight.ndim - 2
    if spatial not in _CONV:
        raise call.refusal(f"{spatial} spatial dimensions")
    strides = list(call.attr("strides") or [1] * spatial)
    dilations = list(call.attr("dilations") or [1] * spatial)
    begin, end = paddings(call, x.shape[2:], weight.shape[2:], strides, dilations)
    if begin != end:
        x, begin = pad(x, begin, end), [0] * spatial
    groups = call.attr("group", 1)
    if spatial == 2 and x.shape[3] == weight.shape[3] == 1 and not begin[1]:
        # a column, on which torch's 2-D kernels are slow
        parts = x[..., 0], weight[..., 0], bias, strides[:1], begin[:1], dilations[:1], groups
        return F.conv1d(*parts)[..., None]
    return _CONV[spatial](x, weight, bias, strides, begin, dilations, groups)


def pad(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Spatial padding; negative amounts crop."""
    pairs = [n for b, e in zip(reversed(begin), reversed(end), strict=True) for n in (b, e)]
    return F.pad(x, pairs, value=value)


def paddings(
    call: Call,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Padding before and behind each spatial axis, `auto_pad` worked out."""
    count = len(kernel)
    mode = call.attr("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = [], []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
            small, large = total // 2, total - total // 2
            begin.append(small if mode == "SAME_UPPER" else large)
            end.append(large if mode == "SAME_UPPER" else small)
        return begin, end
    if mode == "VALID":
        return [0] * count, [0] * count
    given = [int(p) for p in call.attr("pads") or [0] * (2 * count)]
    return given[:count], given[count:]


@torch_op("ConvTranspose", weights=(1, 2))
def conv_transpose(call: Call) -> Tensor:
    """Made without padding, then cropped or extended: ends may differ, and so may overhangs."""
    x, weight, bias = call.x(0), call.x(1), call.at(2)
    spatial = weight.ndim - 2
    if spatial not in _TRANSPOSED:
        raise call.refusal(f"{spatial} spatial dimensions")
    strides = list(call.attr("strides") or [1] * spatial)
    dilations = list(call.attr("dilations") or [1] * spatial)
    overhang = [int(n) for n in call.attr("output_padding") or [0] * spatial]
    found = _TRANSPOSED[spatial](x, weight, None, strides, 0, 0, call.attr("group", 1), dilations)
    shape = call.attr("output_shape")
    mode = call.attr("auto_pad", "NOTSET")
    given = [int(p) for p in call.attr("pads") or [0] * (2 * spatial)]
    begin, end = given[:spatial], given[spatial:]
    if shape is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [int(s) for s in shape[-spatial:]] if shape is not None else None
        for i in range(spatial):
            target = x.shape[2 + i] * strides[i] if wanted is None else wanted[i]
            total = found.shape[2 + i] + overhang[i] - target
            least = max(total, 0)
            half = least // 2 if mode == "SAME_UPPER" else least - least // 2
            begin[i], end[i] = half, total - half
    elif mode == "VALID":
        begin, end = [0] * spatial, [0] * spatial
    found = pad(found, [-b for b in begin], [o - e for o, e in zip(overhang, end, strict=True)])
    return found if bias is None else found + bias.reshape(-1, *[1] * spatial)
