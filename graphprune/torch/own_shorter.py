"""The user's own class where layers leave it: first without them, then with the smaller widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from graphprune.errors import first_line
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, capture, named_tensors
from graphprune.torch.compare import Oracle
from graphprune.torch.own import Check, Kept, own_class
from graphprune.torch.rewrite import pruned_graph
from graphprune.torch.shorter import Check as Same
from graphprune.torch.shorter import Shorter, own_copy, shorter_class
from graphprune.torch.subject import TorchSubject
from graphprune.transfer import transfer


def own_without_layers(
    captured: Captured,
    base: Captured,
    plan: Plan,
    check: Same,
    *,
    dynamic_shapes: Any = None,
    seed: int = 0,
    fold: bool = True,
) -> Kept:
    """A smaller instance of the user's own class. The module that was captured is not changed.

    Args:
        captured: The whole module.
        base: It without the layers of the plan, as a graph.
        plan: What is removed.
        check: Given a candidate and its changed paths, why it differs from the masked original.
        dynamic_shapes: As the module was captured with.
        seed: Of the inputs by which candidates are tried.
        fold: As for `own_class`.
    """
    assert captured.module is not None
    oracle = Oracle(base, Plan(captured.sha256, (), {}, ()), seed, whole=captured)
    random: list[bool] = []

    def same(candidate: nn.Module, renamed: Mapping[str, str]) -> str:
        reason = oracle.difference(candidate, gradients=False, renamed=renamed).reason
        if reason or not captured.training:
            return reason
        found = oracle.difference(candidate, train=True, gradients=False, renamed=renamed)
        if found.reason and not random:
            assert captured.module is not None
            random.append(oracle.random(captured.module))
        return "" if random and random[0] else found.reason

    found = shorter_class(captured, plan.layers, same)
    if found.module is None:
        return Kept(None, found.why)
    if not plan.initializers:
        module = own_copy(captured, found.module)
        return Kept(module, found.why, _says(found), {}, found.surgery, found.renamed)
    try:
        kept = _with_widths(
            captured, found, plan, lambda m: check(m, found.renamed), dynamic_shapes, fold
        )
    except Exception as error:  # torch.export raises whatever the module or dynamo raises
        return Kept(None, f"its shorter class cannot be pruned ({first_line(error, 200)})")
    names = {path: name for name, paths in captured.weights.aliases.items() for path in paths}
    folded = {}
    for path, factor in kept.folded.items():
        old = found.renamed.get(path, path)
        folded[names.get(old, old)] = factor
    why = f"{found.why}; {kept.why}" if kept.module is not None else kept.why
    changed = (*_says(found), *kept.changed)
    return Kept(kept.module, why, changed, folded, found.surgery, found.renamed)


def _says(found: Shorter) -> tuple[str, ...]:
    return tuple(str(change) for change in found.surgery.changes)


def _with_widths(
    captured: Captured,
    found: Shorter,
    plan: Plan,
    check: Check,
    dynamic_shapes: Any,
    fold: bool,
) -> Kept:
    assert found.module is not None
    again = capture(found.module, captured.args, captured.kwargs, dynamic_shapes)
    widths = _renamed(captured, found, plan)
    aliases = {path: name for name, paths in again.weights.aliases.items() for path in paths}
    blocks = all(not cut.blocks for use in plan.initializers for cut in use.cuts)
    graph = TorchSubject(again).analyse(blocks=blocks)
    moved = transfer(widths, graph, source_sha256=again.sha256, aliases=aliases)
    _, edits = pruned_graph(again, moved)
    return own_class(again, moved, edits, check, fold=fold)


def _renamed(captured: Captured, found: Shorter, plan: Plan) -> Plan:
    """The plan of widths in the names of the shorter class."""
    assert found.module is not None
    now: dict[str, str] = {}
    for path, _ in named_tensors(found.module):
        now.setdefault(found.renamed.get(path, path), path)

    def name(old: str) -> str:
        paths = (old, *captured.weights.aliases.get(old, ()))
        return next((now[p] for p in paths if p in now), old)

    return replace(
        plan,
        layers=(),
        initializers=tuple(
            replace(use, initializer=name(use.initializer)) for use in plan.initializers
        ),
        groups=tuple(
            replace(g, members=tuple((name(n), axis) for n, axis in g.members)) for g in plan.groups
        ),
    )
