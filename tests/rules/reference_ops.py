"""Ops that onnxruntime runs on other devices only, written out in numpy for onnx's evaluator.

Source: onnxruntime docs/ContribOperators.md.
"""

from __future__ import annotations

import numpy as np
from onnx.reference.op_run import OpRun
from scipy.special import erf


def _group_norm(x, gamma, beta, activation, groups, channels_last, epsilon):
    x = x if channels_last else np.moveaxis(x, 1, -1)
    split = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups).astype(np.float64)
    mean = split.mean(axis=(1, 3), keepdims=True)
    variance = split.var(axis=(1, 3), keepdims=True)
    y = ((split - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * gamma + beta
    if activation:
        y = y / (1 + np.exp(-y))
    y = y.astype(x.dtype)
    return y if channels_last else np.moveaxis(y, -1, 1)


class GroupNorm(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, gamma, beta, activation=0, groups=1, channels_last=1, epsilon=1e-5):
        return (_group_norm(x, gamma, beta, activation, groups, channels_last, epsilon),)


class SkipGroupNorm(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, x, gamma, beta, skip, bias=None, activation=0, groups=1, channels_last=1, epsilon=1e-5
    ):
        if skip.ndim == 2:
            skip = skip.reshape(skip.shape[0], *[1] * (x.ndim - 2), skip.shape[1])
        total = x + skip if bias is None else x + skip + bias
        y = _group_norm(total, gamma, beta, activation, groups, channels_last, epsilon)
        return (y, total)


class BiasSplitGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, bias):
        left, right = np.split(x + bias, 2, axis=-1)
        gelu = 0.5 * right * (1 + erf(right.astype(np.float64) / np.sqrt(2)))
        return ((left * gelu).astype(x.dtype),)


class BiasAdd(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, bias, skip):
        return (x + bias + skip,)


OPS = [GroupNorm, SkipGroupNorm, BiasSplitGelu, BiasAdd]
