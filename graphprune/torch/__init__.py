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
    from graphprune.torch.onnx_export import Exported, export
    from graphprune.torch.optim import carry_over
    from graphprune.torch.pipeline import analyse, prune
    from graphprune.torch.regularise import GroupSparsity, Removal, penalty
    from graphprune.torch.result import Pruned
    from graphprune.torch.schedule import iterative
    from graphprune.torch.scores import GradientScores, scores_from
    from graphprune.torch.serial import from_pretrained, load, save, save_pretrained

_WHERE = {
    "Exported": "torch.onnx_export",
    "GradientScores": "torch.scores",
    "GroupSparsity": "torch.regularise",
    "Pruned": "torch.result",
    "Removal": "torch.regularise",
    "analyse": "torch.pipeline",
    "carry_ema": "torch.ema",
    "carry_over": "torch.optim",
    "export": "torch.onnx_export",
    "from_pretrained": "torch.serial",
    "iterative": "torch.schedule",
    "load": "torch.serial",
    "op_rule": "rules.aten.registry",
    "penalty": "torch.regularise",
    "prune": "torch.pipeline",
    "save": "torch.serial",
    "save_pretrained": "torch.serial",
    "scores_from": "torch.scores",
}
_CALLED = {"op_rule": "user_rule"}
__all__ = [
    "Exported",
    "GradientScores",
    "GroupSparsity",
    "Pruned",
    "Removal",
    "analyse",
    "carry_ema",
    "carry_over",
    "export",
    "from_pretrained",
    "iterative",
    "load",
    "op_rule",
    "penalty",
    "prune",
    "save",
    "save_pretrained",
    "scores_from",
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
