"""What others do without training, brought to the same share of multiply-adds.

Torch-Pruning 1.6.1 (group L2, one shot, local ratios) for networks that exist in torch, and onnxsim
0.8.1 (structured pruning and attention heads scored with calibration inputs, then its closed-form
ridge recovery). Neither has a budget in multiply-adds: the ratio is bisected, and the largest that
does not exceed the budget is kept.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_ir.passes.common import InlinePass

from graphprune.measure.cost import count_macs
from graphprune.onnx.bindings import default_bindings
from graphprune.onnx.load import load
from graphprune.onnx.shapes import infer_shapes

STEPS = 7
"""Of the bisection: the ratio is known to 1 / 128."""


class NotReached(Exception):
    """A peer that fails, or cannot prune as much; the message goes into the table."""


def macs(model: str | Path | onnx.ModelProto, dims: Mapping[str, int]) -> int:
    """Multiply-adds of one run, counted as graphprune does, for all methods alike."""
    graph = load(model).model
    InlinePass()(graph)
    binding = default_bindings(graph, dims)[0]
    return count_macs(graph, infer_shapes(graph, binding)).total


def _bisected(prune: Callable[[float], Any], cost: Callable[[Any], float], budget: float) -> Any:
    """The result of the smallest ratio pruned whose cost is within the budget (a share)."""
    low, high, best = 0.0, 1.0, None
    closest = 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        made = prune(middle)
        share = cost(made)
        closest = min(closest, share)
        if share <= budget:
            best, high = made, middle
        else:
            low = middle
    if best is None:
        raise NotReached(f"reaches {closest:.2f} of the MACs at most")
    return best


def torch_pruning(build: Callable[[], Any], budget: float, packages: Path) -> onnx.ModelProto:
    """Group L2 at one ratio, attention by head dimensions (its default), outputs' widths kept."""
    import torch

    sys.path.append(str(packages))
    import torch_pruning as tp

    torch.set_num_threads(1)
    whole = build()

    def prune(ratio: float) -> Any:
        made = copy.deepcopy(whole)
        tp.pruner.BasePruner(
            made.network,
            made.example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=list(made.fixed),
            num_heads=dict(made.heads),
        ).step()
        made.finish(made.network)
        return made

    full = _torch_macs(whole)
    found = _bisected(prune, lambda made: _torch_macs(made) / full, budget)
    return found.to_onnx()


def _torch_macs(made: Any) -> int:
    """Of convolutions and linear layers, and of attention's two products."""
    import torch
    from torch import nn

    total = 0

    def count(layer: Any, _: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    layers = [m for m in made.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        made.network(**made.example)
    for hook in hooks:
        hook.remove()
    if made.heads:
        batch, length = next(iter(made.example.values())).shape
        widths = [p.out_features for i, p in enumerate(made.heads) if i % 3]
        total += sum(batch * length * length * w for w in widths)
    return total


def onnxsim(
    path: Path,
    feeds: Sequence[Mapping[str, np.ndarray]],
    budget: float,
    dims: Mapping[str, int],
    packages: Path,
) -> onnx.ModelProto:
    """Its simplifier, calibrated structured pruning and head pruning, `apply_pruning_finetune`.

    Where what it simplified does not run, the model goes on as it was.

    Raises:
        NotReached: It raises itself, or does not find enough to prune.
    """
    sys.path.append(str(packages))
    import onnxsim as peer

    original = _simplified(onnx.load(path), feeds[0], peer)
    data = [dict(feed) for feed in feeds]

    def prune(ratio: float) -> onnx.ModelProto:
        made = peer.apply_structured_wanda_pruning_cpp(
            original, calibration_data=data, sparsity=ratio
        )
        return peer.apply_attention_head_wanda_pruning_cpp(
            made, calibration_data=data, sparsity=ratio
        )

    full = macs(path, dims)
    try:
        most = prune(0.99)
        if macs(most, dims) > budget * full:
            raise NotReached(f"reaches {macs(most, dims) / full:.2f} of the MACs at most")
        pruned = _bisected(prune, lambda made: macs(made, dims) / full, budget)
        return peer.apply_pruning_finetune(original, pruned, calibration_data=data)
    except NotReached:
        raise
    except Exception as error:  # whatever it raises is what it does
        line = " ".join(str(error).split())[:160]
        raise NotReached(f"{type(error).__name__}: {line}") from error


def _simplified(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], peer: Any) -> Any:
    from graphprune.errors import GraphpruneError
    from graphprune.onnx.runtime import Session

    try:
        simple, _ = peer.simplify(model)
        with Session(load(simple).model) as session:
            session.run(dict(feed))
    except (GraphpruneError, RuntimeError, ValueError):
        return model
    return simple
