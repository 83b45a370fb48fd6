"""The torch front end: modules pruned in place of files, with the same analysis, plans and proofs.

    import graphprune.torch as gpt
    result = gpt.prune(module, example, channels=0.5)
    result.module  # physically smaller, the user's own class wherever its code allows

Needs torch (`pip install graphprune[torch]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphprune.errors import UsageError

if TYPE_CHECKING:
    from graphprune.rules.aten.registry import user_rule as op_rule
    from graphprune.torch.ema import carry_ema
    from graphprune.torch.imp import Lottery, lottery
    from graphprune.torch.initial import (
        rate_point,
        reinitialise,
        rewind,
        rewind_rate,
        snapshot,
    )
    from graphprune.torch.masks import bake, masks_of, put_masks
    from graphprune.torch.onnx_export import Exported, export
    from graphprune.torch.optim import carry_over
    from graphprune.torch.pipeline import analyse, prune
    from graphprune.torch.regularise import GroupSparsity, Removal, penalty
    from graphprune.torch.result import Pruned
    from graphprune.torch.schedule import iterative
    from graphprune.torch.scores import GradientScores, scores_from
    from graphprune.torch.serial import from_pretrained, load, save, save_pretrained
    from graphprune.torch.unstructured import MaskReport, sparsify
    from graphprune.torch.vacant import empty_units
    from graphprune.torch.weight_scores import WeightScores

_WHERE = {
    "Exported": "torch.onnx_export",
    "GradientScores": "torch.scores",
    "GroupSparsity": "torch.regularise",
    "Lottery": "torch.imp",
    "MaskReport": "torch.unstructured",
    "Pruned": "torch.result",
    "Removal": "torch.regularise",
    "WeightScores": "torch.weight_scores",
    "analyse": "torch.pipeline",
    "bake": "torch.masks",
    "carry_ema": "torch.ema",
    "carry_over": "torch.optim",
    "empty_units": "torch.vacant",
    "export": "torch.onnx_export",
    "from_pretrained": "torch.serial",
    "iterative": "torch.schedule",
    "load": "torch.serial",
    "lottery": "torch.imp",
    "masks_of": "torch.masks",
    "op_rule": "rules.aten.registry",
    "penalty": "torch.regularise",
    "prune": "torch.pipeline",
    "put_masks": "torch.masks",
    "rate_point": "torch.initial",
    "reinitialise": "torch.initial",
    "rewind": "torch.initial",
    "rewind_rate": "torch.initial",
    "save": "torch.serial",
    "save_pretrained": "torch.serial",
    "scores_from": "torch.scores",
    "snapshot": "torch.initial",
    "sparsify": "torch.unstructured",
}
_CALLED = {"op_rule": "user_rule"}
__all__ = [
    "Exported",
    "GradientScores",
    "GroupSparsity",
    "Lottery",
    "MaskReport",
    "Pruned",
    "Removal",
    "WeightScores",
    "analyse",
    "bake",
    "carry_ema",
    "carry_over",
    "empty_units",
    "export",
    "from_pretrained",
    "iterative",
    "load",
    "lottery",
    "masks_of",
    "op_rule",
    "penalty",
    "prune",
    "put_masks",
    "rate_point",
    "reinitialise",
    "rewind",
    "rewind_rate",
    "save",
    "save_pretrained",
    "scores_from",
    "snapshot",
    "sparsify",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'graphprune.torch' has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"graphprune.{_WHERE[name]}")
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise UsageError(
            f"graphprune.torch.{name} needs {error.name}: pip install 'graphprune[torch]'"
        ) from error
    return getattr(module, _CALLED.get(name, name))
