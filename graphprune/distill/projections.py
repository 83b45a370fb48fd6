"""Random projections of a model's outputs: scalars whose gradients say what the outputs depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphprune.data.feeds import Batch
from graphprune.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from graphprune.distill.module import OnnxModule

Array = np.ndarray[Any, Any]

_SCALED_BY = 128
"""Samples by which outputs are normalised."""


def samples_of(model: ir.Model, feeds: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
    """One sample a call, padding taken off, as far as the model's batch is open."""
    from graphprune.data.padding import find_padding
    from graphprune.distill.samples import make_steps

    batches = [
        Batch(dict(f), max((len(a) for a in f.values() if a.ndim), default=1)) for f in feeds
    ]
    padding = find_padding(model, [b.feeds for b in batches])
    return [g.feeds for step in make_steps(model, batches, 1, padding, ordered=True) for g in step]


def outputs_of(model: ir.Model) -> list[str]:
    """The outputs that have gradients, in front of a closing softmax or sigmoid."""
    from graphprune.onnx.saturation import before_saturation

    found = [before_saturation(v) for v in model.graph.outputs]
    return list(dict.fromkeys(v.name or "" for v in found if v.producer() is not None))


def scale_of(
    module: OnnxModule, outputs: Sequence[str], samples: Sequence[Mapping[str, Array]]
) -> dict[str, float]:
    """One over the standard deviation of each floating-point output.

    Raises:
        UsageError: None of them varies and is finite.
    """
    import torch

    from graphprune.distill.teacher import tensors

    device = next(module.parameters()).device
    seen: dict[str, list[Tensor]] = {name: [] for name in outputs}
    with torch.no_grad():
        for feeds in samples[:_SCALED_BY]:
            for name, value in module(tensors(feeds, device), outputs).items():
                if value.is_floating_point():
                    seen[name].append(value.double().reshape(-1))
    deviations = {n: float(torch.cat(v).std(correction=0)) for n, v in seen.items() if v}
    found = {n: 1 / d for n, d in deviations.items() if d > 0}  # not NaN either
    if not found:
        raise UsageError(
            "gradient criteria: on these inputs there is no output that varies and is finite"
        )
    return found


def projected(values: Mapping[str, Tensor], scale: Mapping[str, float], signs: Any) -> Tensor:
    """Random signs times the normalised outputs, over the root of their number."""
    import torch

    total = torch.zeros(())
    for name, value in values.items():
        if name not in scale:
            continue
        drawn = torch.randint(0, 2, value.shape, generator=signs).to(value.device, value.dtype)
        factor = scale[name] / value.numel() ** 0.5
        total = total.to(value.device) + factor * ((2 * drawn - 1) * value).sum()
    return total
