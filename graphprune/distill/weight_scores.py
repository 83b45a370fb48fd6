"""Gradient scores of single weights of an ONNX model, without labels.

The same derivatives as those of coupled units (`graphprune.distill.scores`), of one weight w at a
time: removal is the step from w to 0, and to first order an output y moves by w * dy/dw. With s the
product of w and the gradient, on one sample, of outputs projected on random signs:

- `fisher`: mean s^2, the diagonal of the Gauss-Newton matrix times w^2: the relative squared error
  of the outputs without this weight, to second order (Theis et al., 2018; the diagonal Hessian of
  LeCun et al., NeurIPS'89, is the same at a minimum).
- `taylor`: mean |s|, where single samples that a weight matters much to count less (Molchanov et
  al., ICLR'17).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphprune.distill.need import need_torch
from graphprune.distill.projections import outputs_of, projected, samples_of, scale_of
from graphprune.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["weight_scores"]

Array = np.ndarray[Any, Any]


def weight_scores(
    model: ir.Model,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    kind: str,
    seed: int = 0,
    *,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Array]:
    """Initializer name -> score of each element, float32, shape that of the weight; larger stays.

    A name is missing where the weight has no gradient here: constants that only look like weights
    (masks, operands that an op takes as they are), and what no output depends on.

    Args:
        model: With weights in single precision; not changed.
        names: Initializers to score.
        feeds: Batches of inputs; each sample takes a forward and a backward pass.
        kind: `fisher` or `taylor`.
        seed: Of the random signs.
        threads: Of torch.
        progress: Called with the share that is done.

    Raises:
        UsageError: torch is missing, no output that varies, or gradients that are not finite.
        UnsupportedModelError: An op that cannot be differentiated here, or half-precision weights,
            by name.
    """
    need_torch(f"criterion '{kind}'")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        totals = _totals(model, names, feeds, kind, seed, progress)
    finally:
        torch.set_num_threads(before)
    if not all(bool(torch.isfinite(t).all()) for t in totals.values()):
        raise UsageError(f"criterion '{kind}': gradients on these inputs are not finite")
    return {name: total.cpu().numpy() for name, total in totals.items()}


def _totals(
    model: ir.Model,
    names: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    kind: str,
    seed: int,
    progress: Callable[[float], None] | None,
) -> dict[str, Tensor]:
    import torch

    from graphprune.distill.module import OnnxModule
    from graphprune.distill.teacher import tensors

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = OnnxModule(model).to(device).requires_grad_(False)
    wanted = {n: module.weights[n].requires_grad_() for n in names if n in module.weights}
    if not wanted:
        return {}
    samples = samples_of(model, feeds)
    outputs = outputs_of(model)
    scale = scale_of(module, outputs, samples)
    signs = torch.Generator().manual_seed(seed)
    totals: dict[str, Tensor] = {}
    for count, sample in enumerate(samples):
        values = module(tensors(sample, device), outputs)
        gradients = torch.autograd.grad(
            projected(values, scale, signs), list(wanted.values()), allow_unused=True
        )
        for (name, weight), gradient in zip(wanted.items(), gradients, strict=True):
            if gradient is None:
                continue
            product = (weight.detach() * gradient).float()
            part = product.abs() if kind == "taylor" else product.square()
            totals[name] = totals[name] + part if name in totals else part
        if progress is not None:
            progress((count + 1) / len(samples))
    return {name: total / len(samples) for name, total in totals.items()}
