"""What stands under the kernel of a convolution, plain or transposed, for single output positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.onnx.operands import attribute

Array = np.ndarray[Any, Any]


def patches(node: ir.Node, x: Array, space: Sequence[int], chosen: Array) -> Array:
    """`(rows, channels * taps)`, channels outermost; zeros where there is padding.

    Args:
        node: A Conv or ConvTranspose with a weight that is known.
        x: What it reads, `(batch, channels, *sizes)`.
        space: The sizes of its output behind the channels.
        chosen: Positions of the output, counted over batch and space.
    """
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    kernel = tuple(int(k) for k in weight.const_value.shape.numpy()[2:])
    strides = list(attribute(node, "strides") or [1] * len(kernel))
    dilations = list(attribute(node, "dilations") or [1] * len(kernel))
    batch, *places = np.unravel_index(chosen, (len(x), *space))
    transposed = node.op_type == "ConvTranspose"
    if transposed:
        before = list(attribute(node, "pads") or [0] * len(kernel))[: len(kernel)]
        if attribute(node, "auto_pad", "NOTSET") == "VALID":
            before = [0] * len(kernel)
    else:
        pads = _pads(node, x.shape[2:], tuple(space), kernel, strides, dilations)
        x = np.pad(x, [(0, 0), (0, 0), *pads])
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        if not transposed:
            steps = zip(places, strides, tap, dilations, strict=True)
            index = [p * s + t * d for p, s, t, d in steps]
            taps.append(x[(batch, slice(None), *index)])
            continue
        meets = np.ones(len(chosen), bool)
        index = []
        for p, s, t, d, b, n in zip(
            places, strides, tap, dilations, before, x.shape[2:], strict=True
        ):
            offset = p + b - t * d
            meets &= (offset % s == 0) & (offset >= 0) & (offset < n * s)
            index.append(np.clip(offset // s, 0, n - 1))
        taps.append(x[(batch, slice(None), *index)] * meets[:, None].astype(x.dtype))
    found = np.stack(taps, axis=-1)
    return found.reshape(len(chosen), -1)


def can_unfold(node: ir.Node) -> bool:
    """Whether the padding of a transposed convolution is known without its sizes."""
    return node.op_type == "Conv" or (
        attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "", "VALID")
        and attribute(node, "output_shape") is None
    )


def _pads(
    node: ir.Node,
    size: tuple[int, ...],
    out: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: list[int],
    dilations: list[int],
) -> list[tuple[int, int]]:
    auto = attribute(node, "auto_pad", "NOTSET")
    rank = len(kernel)
    if auto in ("NOTSET", "", "VALID"):
        given = attribute(node, "pads") if auto != "VALID" else None
        given = list(given) if given is not None else [0] * (2 * rank)
        return [(int(given[i]), int(given[i + rank])) for i in range(rank)]
    pads = []
    for n, o, k, s, d in zip(size, out, kernel, strides, dilations, strict=True):
        total = max((o - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, math.ceil(total / 2)
        pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return pads
