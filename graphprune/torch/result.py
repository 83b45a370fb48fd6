"""What pruning a module gives, and putting it in the place of the original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from graphprune.cut import Cut
from graphprune.plan import Plan
from graphprune.report.model import Report
from graphprune.torch.capture import Captured
from graphprune.torch.slicing import parameter_cuts

Kind = Literal["module", "graph"]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned module, what was decided, and what that did.

    Attributes:
        module: The user's own class, or an `fx.GraphModule` where its code forbids other sizes.
        kind: `module` or `graph`.
        why: One line: how the class was kept, or why it could not be.
        plan: What was removed.
        report: As of `graphprune.compile`; latencies are of torch.
        captured: The original, as it was traced.
        pairs: Parameter of the original -> that of the result, and the cuts between them.
        scaled: Weights that a factor was folded into: a scale of attention that `forward` computes.
        renamed: Path of a weight -> its path in the original, where layers left in front of it.
    """

    module: nn.Module
    kind: Kind
    why: str
    plan: Plan
    report: Report
    captured: Captured
    pairs: Mapping[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]]
    scaled: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


def parameter_pairs(
    captured: Captured,
    plan: Plan,
    result: nn.Module,
    renamed: Mapping[str, str] | None = None,
) -> dict[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]]:
    """Every parameter of the original that stays, with that of the result and the cuts between them.

    Args:
        captured: The original.
        plan: What was removed.
        result: What is left.
        renamed: Path of a weight of it -> its path in the original, where they differ.
    """
    before = renamed or {}
    source = captured.module or captured.graph_module
    cuts = parameter_cuts(plan)
    names = {p: n for n, paths in captured.weights.aliases.items() for p in paths}
    named = result.named_parameters(remove_duplicate=False)
    made = {before.get(path, path): parameter for path, parameter in named}
    pairs: dict[nn.Parameter, tuple[nn.Parameter, Sequence[Cut]]] = {}
    for path, parameter in source.named_parameters(remove_duplicate=False):
        if parameter not in pairs and path in made:
            pairs[parameter] = made[path], cuts.get(names.get(path, path), ())
    return pairs


def transplant(source: nn.Module, target: nn.Module) -> None:
    """Give every part of `target` the parameters, buffers and attributes of its twin in `source`.

    Hooks and everything else that `target` alone has stays.
    """
    parts = dict(target.named_modules())
    for path, new in source.named_modules():
        old = parts[path]
        old.__class__ = type(new)
        for name, value in vars(new).items():
            if name in ("_parameters", "_buffers"):
                getattr(old, name).update(value)
            elif name == "_flat_weights" or not name.startswith("_"):
                old.__dict__[name] = value


@contextmanager
def all_or_nothing(optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Put the optimizer back as it was where something fails after it was changed."""
    if optimizer is None:
        yield
        return
    groups = [list(g["params"]) for g in optimizer.param_groups]
    state = dict(optimizer.state)
    try:
        yield
    except BaseException:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"][:] = parameters
        optimizer.state.clear()
        optimizer.state.update(state)
        raise
