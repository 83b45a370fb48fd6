"""Proof that a shortened graph is the original whose layers give what they get."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from graphprune.errors import CertificateError
from graphprune.plan import LayerCut
from graphprune.torch.capture import Captured, mode
from graphprune.torch.differences import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    compared,
    doubled,
    examples,
    ran,
)
from graphprune.torch.twin import flat_inputs


def check_shortened(
    captured: Captured, base: Captured, layers: Sequence[LayerCut], seed: int = 0
) -> None:
    """Compare outputs (at two batch sizes) and gradients in double precision and eval mode.

    The original runs whole, and where the output of a layer is made its input is given on.

    Args:
        captured: The original.
        base: It without `layers` (`graphprune.torch.shorten.shortened`).
        layers: What left.
        seed: Of the inputs.

    Raises:
        CertificateError: They differ.
    """
    whole, short = doubled(captured.graph_module), doubled(base.graph_module)
    assert isinstance(whole, fx.GraphModule)
    bypassed = _Bypassed(whole, layers)
    with mode(whole, False), mode(short, False):
        for number, (args, kwargs) in enumerate(examples(captured, seed)):
            grad = not number  # at one input they are enough
            wanted = ran(partial(bypassed.call, *args, **kwargs), whole, grad)
            got = ran(partial(short, *args, **kwargs), short, grad)
            reason = compared(wanted[0], got[0], TOLERANCE).reason or _gradients(
                _named(captured, wanted[1]), _named(base, got[1])
            )
            if reason:
                raise CertificateError(
                    "the module without layers is not the original with their inputs in place of "
                    f"their outputs: {reason}; it was not changed"
                )


class _Bypassed(fx.Interpreter):
    """A graph in which layers give what they get."""

    def __init__(self, graph_module: fx.GraphModule, layers: Sequence[LayerCut]) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.sources = {c.source for c in layers}
        self.stands = {c.output: c.source for c in layers}
        self.kept: dict[str, Any] = {}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        codegen: Any = self.graph_module.graph._codegen
        flat = flat_inputs(self.graph_module, args, kwargs)
        return codegen.process_outputs(self.run(*flat, enable_io_processing=False))

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.stands:
            result = self.kept[self.stands[n.name]]
        if n.name in self.sources:
            self.kept[n.name] = result.clone()  # something may write into what comes in
        return result


def _named(captured: Captured, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients by the names of weights: graphs may hold tied ones at other paths."""
    names = {path: n for n, paths in captured.weights.aliases.items() for path in paths}
    return {names.get(path, path): g for path, g in gradients.items()}


def _gradients(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> str:
    for name in (*wanted, *got):
        if (name in wanted) != (name in got):
            return f"one of both has no gradient of '{name}'"
    largest = max([float(g.abs().max()) for g in wanted.values() if g.numel()] or [0.0])
    for name, gradient in wanted.items():
        off = float((gradient - got[name]).abs().max()) if gradient.numel() else 0.0
        if not off <= GRADIENT_TOLERANCE * max(largest, 1e-300):
            return f"the gradient of '{name}' differs by {off:.1e}"
    return ""
