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
    from graphprune.torch.onnx_export import Exported, export
    from graphprune.torch.optim import carry_over
    from graphprune.torch.pipeline import analyse, prune
    from graphprune.torch.regularise import penalty
    from graphprune.torch.result import Pruned
    from graphprune.torch.schedule import iterative
    from graphprune.torch.scores import GradientScores
    from graphprune.torch.serial import from_pretrained, load, save, save_pretrained

_WHERE = {
    "Exported": "torch.onnx_export",
    "GradientScores": "torch.scores",
    "Pruned": "torch.result",
    "analyse": "torch.pipeline",
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
}
_CALLED = {"op_rule": "user_rule"}
__all__ = [
    "Exported",
    "GradientScores",
    "Pruned",
    "analyse",
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
