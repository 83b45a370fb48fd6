"""How two modules differ: inputs to run both on, what they give, and what that says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.torch.capture import Captured
from graphprune.torch.twin import convert

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

TOLERANCE = 1e-9
GRADIENT_TOLERANCE = 1e-7
LITTLE = 1e-6
"""Of the largest value: what is less hardly varies."""


@dataclass(frozen=True)
class Difference:
    """What comparing found.

    Attributes:
        reason: Empty where nothing differs; else one line.
        abs_error: Largest absolute error of an output.
        rel_error: The same relative to the output's largest magnitude.
        gradient_error: Largest relative error of a gradient.
        weak: What proves little, one sentence each.
        checked: Outputs, gradients and buffers that were compared.
    """

    reason: str = ""
    abs_error: float = 0.0
    rel_error: float = 0.0
    gradient_error: float = 0.0
    weak: tuple[str, ...] = ()
    checked: int = 0


def examples(captured: Captured, seed: int = 0) -> Iterator[Inputs]:
    """The example inputs in double precision, and others of another batch size where that varies."""
    given = captured.args, dict(captured.kwargs)
    if not captured.dynamic:
        yield pytree.tree_map(_as_double, given)
        return
    given = pytree.tree_map(_two_rows, given)
    yield pytree.tree_map(_as_double, given)
    generator = torch.Generator().manual_seed(seed)

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.ndim or not leaf.numel():
            return leaf
        leaf = leaf.detach()
        rows = torch.cat([leaf, leaf[:1]])
        order = torch.randperm(len(rows), generator=generator)
        rows = rows[order]
        if not rows.is_floating_point():
            return rows
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        spread = float(rows.double().std()) if rows.numel() > 1 else 1.0
        return rows.double() + spread * noise.to(rows.device)

    yield pytree.tree_map(other, given)


def _two_rows(leaf: Any) -> Any:
    """Two rows are enough, and are what a small example is made to have."""
    if not isinstance(leaf, torch.Tensor) or not leaf.ndim:
        return leaf
    return leaf[:2] if len(leaf) > 1 else torch.cat([leaf, leaf])


def _as_double(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach()
        return leaf.double() if leaf.is_floating_point() else leaf
    return leaf


def doubled(module: nn.Module) -> nn.Module:
    """A copy in double precision."""
    double = copy.deepcopy(module)
    convert(double, torch.float64)
    return double


def ran(
    call: Callable[[], Any], module: nn.Module, gradients: bool
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Floating-point outputs, and gradients of a fixed random sum of them."""
    parameters = dict(module.named_parameters())
    for parameter in parameters.values():
        parameter.grad = None
    with torch.set_grad_enabled(gradients):
        outputs = [t for t in pytree.tree_leaves(call()) if isinstance(t, torch.Tensor)]
        floats = [t for t in outputs if t.is_floating_point()]
        if gradients and any(t.requires_grad for t in floats):
            loss = torch.zeros((), dtype=torch.float64)
            for i, t in enumerate(floats):
                generator = torch.Generator().manual_seed(i)
                weight = torch.randn(t.shape, generator=generator, dtype=torch.float64)
                loss = loss + (t.double() * weight.to(t.device)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
    own = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return [t.detach() for t in outputs], own


def compared(
    wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor], tolerance: float
) -> Difference:
    """How some tensors differ from those that are wanted, in order."""
    if len(wanted) != len(got):
        return Difference(f"it gives {len(got)} tensors, the original {len(wanted)}")
    found = Difference()
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        if a.shape != b.shape:
            return Difference(f"output {i} has shape {tuple(b.shape)}, not {tuple(a.shape)}")
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return Difference(f"output {i} differs")
            continue
        a, b = a.double(), b.double()
        error = float((a - b).abs().max()) if a.numel() else 0.0
        size = float(a.abs().max()) if a.numel() else 0.0
        relative = error / size if size else error
        weak: tuple[str, ...] = ()
        if a.numel() > 1 and float(a.std()) <= LITTLE * max(size, 1e-300):
            weak = (f"output {i} hardly varies: equality proves little",)
        if not relative <= tolerance:
            return Difference(f"output {i} differs by {relative:.1e} of its largest value")
        found = merged(found, Difference("", error, relative, 0.0, weak, 1))
    return found


def merged(a: Difference, b: Difference) -> Difference:
    """The worse of two, in each respect."""
    return Difference(
        a.reason or b.reason,
        max(a.abs_error, b.abs_error),
        max(a.rel_error, b.rel_error),
        max(a.gradient_error, b.gradient_error),
        tuple(dict.fromkeys((*a.weak, *b.weak))),
        a.checked + b.checked,
    )
