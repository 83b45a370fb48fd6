"""Resize and Upsample: one matrix an axis, which is exact for every mode that they have.

Coordinates and kernels: ONNX operator reference.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphprune.distill.ops.registry import Call, torch_op


@torch_op("Resize", fixed=(1, 2, 3))
def resize(call: Call) -> Tensor:
    x = call.x(0)
    place = 1 if call.version < 11 else 2
    given = call.at(place)
    scales = None if given is None or not given.numel() else [float(s) for s in given.tolist()]
    wanted = call.ints(3) if place == 2 and call.at(3) is not None else None
    axes = [int(a) % x.ndim for a in call.attr("axes") or range(x.ndim)]
    if call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise call.refusal("keep_aspect_ratio_policy")
    if call.attr("antialias", 0):
        raise call.refusal("antialias")
    old = "asymmetric" if call.version < 11 else "half_pixel"
    coordinates = call.attr("coordinate_transformation_mode", old)
    if coordinates == "tf_crop_and_resize":
        raise call.refusal("it crops (tf_crop_and_resize)")
    nearest = call.attr("nearest_mode", "floor" if call.version < 11 else "round_prefer_floor")
    mode = call.attr("mode", "nearest")
    for i, axis in enumerate(axes):
        size = x.shape[axis]
        if wanted:
            target, scale = wanted[i], wanted[i] / size
        elif scales:
            target, scale = int(np.floor(size * scales[i])), scales[i]
        else:
            raise call.refusal("neither scales nor sizes")
        x = _along(x, axis, target, scale, _Kernel(mode, coordinates, nearest, _cubic(call)))
    return x


def _cubic(call: Call) -> tuple[float, bool]:
    return float(call.attr("cubic_coeff_a", -0.75)), bool(call.attr("exclude_outside", 0))


@torch_op("Upsample", fixed=(1,))
def upsample(call: Call) -> Tensor:
    x = call.x(0)
    given = call.at(1)
    scales = call.attr("scales") if given is None else given.tolist()
    kernel = _Kernel(call.attr("mode", "nearest"), "asymmetric", "floor", (-0.75, False))
    for axis, scale in enumerate(scales):
        x = _along(x, axis, int(np.floor(x.shape[axis] * scale)), float(scale), kernel)
    return x


class _Kernel(NamedTuple):
    """How values between the old places are made."""

    mode: str
    coordinates: str
    nearest: str
    cubic: tuple[float, bool]
    """Coefficient, and whether taps outside are left out."""


def _along(x: Tensor, axis: int, target: int, scale: float, kernel: _Kernel) -> Tensor:
    size = x.shape[axis]
    if target == size and scale == 1.0:
        return x
    matrix = _matrix(size, target, scale, kernel)
    if kernel.mode == "nearest":
        index = torch.from_numpy(matrix.argmax(1))
        return x.index_select(axis, index.to(x.device))
    weights = torch.from_numpy(matrix.copy()).to(x.device, x.dtype)
    return torch.matmul(x.movedim(axis, -1), weights.T).movedim(-1, axis)


@functools.lru_cache(maxsize=64)
def _matrix(size: int, target: int, scale: float, kernel: _Kernel) -> np.ndarray:
    """Weights `(target, size)` of the old places in each new one."""
    mode, coordinates, nearest, (a, exclude) = kernel
    at = _positions(size, target, scale, coordinates)
    rows = np.arange(target)
    found = np.zeros((target, size))
    if mode == "nearest":
        rounded = {
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
        }[nearest]
        found[rows, np.clip(rounded, 0, size - 1).astype(int)] = 1
        return found
    if mode == "linear":
        at = np.clip(at, 0, size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        np.add.at(found, (rows, low), 1 - (at - low))
        np.add.at(found, (rows, high), at - low)
        return found
    low = np.floor(at).astype(int)
    for tap in range(-1, 3):
        places = low + tap
        weight = _keys(np.abs(at - places), a)
        if exclude:
            weight = np.where((places >= 0) & (places < size), weight, 0)
        np.add.at(found, (rows, np.clip(places, 0, size - 1)), weight)
    return np.asarray(found / found.sum(1, keepdims=True)) if exclude else found


def _positions(size: int, target: int, scale: float, coordinates: str) -> np.ndarray:
    new = np.arange(target, dtype=np.float64)
    if coordinates == "asymmetric":
        return new / scale
    if coordinates == "align_corners":
        return new * (size - 1) / (target - 1) if target > 1 else np.zeros(1)
    half = (new + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel" and target == 1:
        return np.zeros(1)
    if coordinates == "half_pixel_symmetric":
        adjusted = target / (scale * size)
        return size / 2 * (1 - adjusted) + half
    return half


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
