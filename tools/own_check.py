"""A module against the masked original, in float64 and eval mode, at two batch sizes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.plan import Plan
from graphprune.torch.capture import Captured
from graphprune.torch.twin import Twin, convert


class Against:
    """Called with a module: an empty text where it computes what the masked original does.

    Attributes:
        tried: How many modules were compared.
    """

    def __init__(self, captured: Captured, plan: Plan, tolerance: float = 1e-6) -> None:
        self.tolerance = tolerance
        self.tried = 0
        double = (captured.args, dict(captured.kwargs))
        double = pytree.tree_map(
            lambda t: t.double() if torch.is_tensor(t) and t.is_floating_point() else t, double
        )
        self.inputs = [_rows(double, [0]), _rows(double, [1, 0])] if captured.dynamic else [double]
        twin = Twin(captured, plan, dtype=torch.float64)
        with torch.no_grad():
            self.expected = [_leaves(twin(*args, **kwargs)) for args, kwargs in self.inputs]

    def __call__(self, module: nn.Module) -> str:
        """Why `module` differs; empty where it does not."""
        self.tried += 1
        module = copy.deepcopy(module)
        convert(module, torch.float64)
        if not isinstance(module, torch.fx.GraphModule):
            module.eval()
        for (args, kwargs), expected in zip(self.inputs, self.expected, strict=True):
            with torch.no_grad():
                found = _leaves(module(*args, **kwargs))
            for a, b in zip(found, expected, strict=True):
                if a.shape != b.shape:
                    return f"an output has shape {list(a.shape)}, not {list(b.shape)}"
                error = float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
                if not error < self.tolerance:
                    return f"outputs differ by {error:.1e}"
        return ""


def _rows(inputs: Any, rows: list[int]) -> Any:
    def take(t: Any) -> Any:
        return t[[min(r, len(t) - 1) for r in rows]] if torch.is_tensor(t) and t.ndim else t

    return pytree.tree_map(take, inputs)


def _leaves(outputs: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [t for t in leaves if isinstance(t, torch.Tensor) and t.is_floating_point()]
