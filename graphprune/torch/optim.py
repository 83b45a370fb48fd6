"""An optimizer follows its parameters: state is sliced as they were, groups and settings stay.

Steps after pruning are those of training the masked original on, because what is removed gets no
gradient there and every supported optimizer updates element by element. The optimizer object is
edited in place: learning-rate schedulers, loggers and a GradScaler that hold it go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from graphprune.cut import Cut, pruned_shape
from graphprune.errors import UsageError
from graphprune.torch.slicing import slice_tensor

Pairs = Mapping[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]]
"""Parameter of the original -> the one that takes its place, and how it was cut."""

_NOT_ELEMENTWISE = {
    "Adafactor": "it scales a tensor's step by the size of the whole tensor",
    "LBFGS": "it keeps the history of all parameters as one vector",
    "Muon": "its step depends on the shape of the whole matrix",
    "Lamb": "it scales a tensor's step by the norm of the whole tensor",
    "LARS": "it scales a tensor's step by the norm of the whole tensor",
    "Shampoo": "it keeps statistics of whole rows and columns",
    "SOAP": "it keeps statistics of whole rows and columns",
}
_REMEDY = "make a new one from the pruned module's parameters"


@dataclass(frozen=True, eq=False)
class _Move:
    """What becomes of one parameter of the optimizer."""

    new: nn.Parameter
    state: dict[Any, Any] | None
    grad: torch.Tensor | None


def carry_over(optimizer: Optimizer, pairs: Pairs, gone: Sequence[nn.Parameter] = ()) -> None:
    """Let an optimizer of the original train the pruned module on.

    `optimizer.param_groups[i]["params"]` then holds the new parameters in the places of the old;
    per-parameter state of the parameter's shape (momentum, moments) is sliced like it, numbers
    (`step`) stay. A gradient that the old parameter holds is sliced as well, so that accumulation
    goes on.

    SGD, Adam, AdamW (amsgrad too), NAdam, RAdam, Adamax, RMSprop, Adagrad, Adadelta, ASGD, Rprop
    and SparseAdam are known to go on as masked training would; so does any other class that
    updates element by element.

    Args:
        optimizer: Changed in place, or not at all where an error is raised. A wrapper that holds
            the real one as `.optimizer` (accelerate's) is seen through.
        pairs: All parameters of the module. What the optimizer holds beyond (of another module that
            is trained along: a loss with weights, a head) is left as it is.
        gone: Parameters of layers that left: they leave their groups, with their state.

    Raises:
        UsageError: The optimizer holds no parameter of the module, its step does not work element
            by element, or it has state of another shape than the parameter.
    """
    moves = _moves(optimizer, pairs)
    optimizer = innermost(optimizer)
    left = set(gone)
    for group in optimizer.param_groups:
        stays = [p for p in group["params"] if p not in left]
        group["params"][:] = [moves[p].new if p in moves else p for p in stays]
    for parameter in left:
        optimizer.state.pop(parameter, None)
    for old, move in moves.items():
        optimizer.state.pop(old, None)
        if move.state is not None:
            optimizer.state[move.new] = move.state
        if move.new is not old:
            move.new.grad = move.grad


def check_optimizer(optimizer: Optimizer, pairs: Pairs) -> None:
    """Raises UsageError where `carry_over` would; changes nothing."""
    _moves(optimizer, pairs)


def _moves(optimizer: Optimizer, pairs: Pairs) -> dict[nn.Parameter, _Move]:
    """What becomes of every parameter of the module that the optimizer holds."""
    optimizer = innermost(optimizer)
    kind = type(optimizer).__name__
    for ancestor in type(optimizer).__mro__:
        reason = _NOT_ELEMENTWISE.get(ancestor.__name__)
        if reason is not None:
            raise UsageError(f"{kind} cannot be carried over, {reason}: {_REMEDY}")
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(p in pairs for p in held):
        raise UsageError(
            f"this {kind} holds no parameter of the module that is pruned: give the optimizer that "
            "trains it"
        )
    moves = {p: _move(kind, optimizer.state.get(p), p, *pairs[p]) for p in held if p in pairs}
    if len({id(m.new) for m in moves.values()}) < len(moves):
        raise UsageError(
            f"this {kind} holds two parameters that share memory and are one in the pruned module: "
            f"{_REMEDY}"
        )
    return moves


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside wrappers."""
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    return optimizer


def _move(
    kind: str,
    state: Mapping[Any, Any] | None,
    old: nn.Parameter,
    new: nn.Parameter,
    cuts: Sequence[Cut],
) -> _Move:
    if tuple(new.shape) != pruned_shape(old.shape, cuts):
        raise UsageError(
            f"a parameter of shape {tuple(old.shape)} was to become {tuple(new.shape)}, which its "
            "cuts do not make of it: the plan is of another module"
        )
    grad = old.grad
    if grad is not None and cuts:
        grad = None if grad.layout != torch.strided else _like(new, grad, cuts)
    if not state:
        return _Move(new, None if state is None else dict(state), grad)
    moved = {key: _sliced(kind, str(key), value, old, new, cuts) for key, value in state.items()}
    return _Move(new, moved, grad)


def _sliced(
    kind: str, key: str, value: Any, old: nn.Parameter, new: nn.Parameter, cuts: Sequence[Cut]
) -> Any:
    """One entry of a parameter's state."""
    if isinstance(value, torch.Tensor):
        if value.shape == old.shape:
            return _like(new, value, cuts) if cuts else value
        if value.numel() == 1:
            return value
        found = f"shape {tuple(value.shape)} beside a parameter of shape {tuple(old.shape)}"
    elif value is None or isinstance(value, bool | int | float | str):
        return value
    else:
        found = f"type {type(value).__name__}"
    raise UsageError(f"{kind} cannot be carried over, its state '{key}' is of {found}: {_REMEDY}")


def _like(new: nn.Parameter, value: torch.Tensor, cuts: Sequence[Cut]) -> torch.Tensor:
    """A sliced tensor in the memory format of the parameter: fused optimizers want it."""
    made = torch.empty_like(new, dtype=value.dtype, device=value.device, requires_grad=False)
    return made.copy_(slice_tensor(value.detach(), cuts))
