"""The user's own class, kept: a smaller instance of it, where its attributes can say all sizes.

What works is found by running it. Each rung of a ladder is tried only where the one before it does
not compute what the masked original computes:

1. sliced weights, and the attributes of torch's own layers that follow from them;
2. attributes that the sizes in `forward` can be traced to (`torch/provenance.py`);
3. attributes of equal value in modules that hold a size that changed (`torch/guesses.py`);
4. a scale of attention that `forward` computes from a size that changed, folded into the weights
   that make the queries (`torch/scales.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graphprune.plan import Plan
from graphprune.torch.attributes import Change, Standard, put
from graphprune.torch.capture import Captured
from graphprune.torch.copying import Copies
from graphprune.torch.provenance import Traced, attributes, trace
from graphprune.torch.rewrite import Edit
from graphprune.torch.scales import folded, missing
from graphprune.torch.solve import Solution, changes, solve
from graphprune.torch.tags import Attribute

#: Values that are tried for attributes that would have to be several numbers.
_VARIANTS = 3

Check = Callable[[nn.Module], str]


@dataclass(frozen=True, eq=False)
class Kept:
    """What became of the user's own class.

    Attributes:
        module: A new instance of it, sliced; None where that is not possible.
        why: One line: how, or why not.
        changed: Every attribute that differs: `path.attribute: old -> new`.
    """

    module: nn.Module | None
    why: str
    changed: tuple[str, ...] = ()


def own_class(
    captured: Captured, plan: Plan, edits: Sequence[Edit], check: Check, fold: bool = True
) -> Kept:
    """A smaller instance of the user's own class. The module that was captured is not changed.

    Args:
        captured: The module, captured.
        plan: What is removed.
        edits: What became of the literal sizes of its graph (`torch.rewrite`).
        check: Runs a candidate against the masked original: an empty text where they are equal,
            otherwise the reason. It must leave the candidate as it finds it.
        fold: Whether weights may be multiplied by a constant, so that attention keeps its scale.
    """
    if captured.module is None:
        return Kept(None, "only a graph was given, no module")
    try:
        ladder = _Ladder(captured, plan, edits, check)
    except Exception as error:
        return Kept(None, f"the module cannot be copied ({_line(error)})")
    return ladder.climb(fold)


class _Ladder:
    def __init__(self, captured: Captured, plan: Plan, edits: Sequence[Edit], check: Check) -> None:
        self.captured = captured
        self.plan = plan
        self.edits = edits
        self.check = check
        self.copies = Copies(captured, plan)
        self.standard = Standard(captured, plan, edits)
        self.ran = False  # whether the last candidate did, with whatever result

    def climb(self, fold: bool) -> Kept:
        if self.copies.missing:
            return Kept(None, f"'{self.copies.missing[0]}' is no tensor that the module holds")
        kept = self.attempt((), "attributes of standard layers")
        if kept.module is not None:
            return kept
        traced = self.trace()
        differ: list[Sequence[Change]] = [()] if self.ran else []
        reason = kept.why
        if traced is not None:
            solution = solve(traced, self.known(traced))
            for values in _variants(solution):
                found = changes(values, traced.old)
                how = f"sizes of forward traced to attributes: {_few(found)}"
                kept = self.attempt(found, how)
                if kept.module is not None:
                    return kept
                reason = kept.why
                differ += [found] if self.ran else []
            reason = _conflict(solution) or reason
        if fold:
            kept = self.fold(differ)
            if kept.module is not None:
                return kept
        return Kept(None, reason)

    def trace(self) -> Traced | None:
        """Where sizes in `forward` come from; None where the copy cannot be traced."""
        try:
            return trace(self.captured, self.plan, self.copies.skeleton())
        except Exception:  # torch.export raises whatever the module or dynamo raises
            return None

    def fold(self, differ: Sequence[Sequence[Change]]) -> Kept:
        """Candidates that run but differ, with the scales of attention folded into weights."""
        for found in reversed(differ):
            try:
                scaled = missing(self.captured, self.candidate(found)[0])
                multipliers = folded(self.captured, scaled) if scaled else None
            except Exception:  # torch.export raises whatever the module or dynamo raises
                continue
            if not multipliers:
                continue
            factor = scaled[0].factor
            traced = f"sizes of forward traced to attributes: {_few(found)}; " if found else ""
            how = (
                f"{traced}the scale of attention that forward computes is folded into "
                f"'{next(iter(multipliers))}' (times {factor:.4g}) and others"
            )
            kept = self.attempt(found, how, multipliers)
            if kept.module is not None:
                return kept
        return Kept(None, "")

    def known(self, traced: Traced) -> dict[Attribute, int]:
        """Attributes of standard layers that follow from their weights."""
        assert self.captured.module is not None
        made = self.copies.make()
        self.standard.adapt(self.captured.module, made)
        now = {
            (path, name): holder[name] for holder, path, name in attributes(made) if name in holder
        }
        result: dict[Attribute, int] = {}
        for leaf, before in traced.old.items():
            if not isinstance(leaf, Attribute):
                continue
            value = now.get((leaf.path, leaf.name))
            if leaf.index >= 0 and isinstance(value, list | tuple):
                value = value[leaf.index] if leaf.index < len(value) else None
            if isinstance(value, int) and value != before:
                result[leaf] = value
        return result

    def candidate(
        self, found: Sequence[Change], scale: Mapping[str, torch.Tensor] | None = None
    ) -> tuple[nn.Module, tuple[Change, ...]]:
        """A copy with some attributes changed, and all attributes that differ."""
        assert self.captured.module is not None
        made = self.copies.make(scale)
        done = self.standard.adapt(self.captured.module, made)
        put(made, found)
        return made, (*done, *found)

    def attempt(
        self,
        found: Sequence[Change],
        how: str,
        scale: Mapping[str, torch.Tensor] | None = None,
    ) -> Kept:
        """A candidate, run against the masked original."""
        self.ran = False
        try:
            made, done = self.candidate(found, scale)
            why = self.check(made)
        except Exception as error:  # whatever the user's forward raises on sizes that do not fit
            return Kept(None, _line(error))
        self.ran = True
        if why:
            return Kept(None, why)
        return Kept(made, how, tuple(str(c) for c in done))


def _conflict(solution: Solution) -> str:
    """The first attribute that would have to be several numbers."""
    for attribute, wanted in solution.conflicts.items():
        several = " and ".join(str(n) for n in sorted(wanted)) or "more than one number"
        return f"'{attribute}' would have to be {several}"
    return ""


def _variants(solution: Solution) -> Iterator[Mapping[Attribute, int]]:
    """Attributes to try: where one would have to be several numbers, each of them."""
    yield solution.values
    most = max((len(n) for n in solution.conflicts.values()), default=0)
    for k in range(min(most, _VARIANTS)):
        more = {a: n[min(k, len(n) - 1)] for a, n in solution.conflicts.items() if n}
        yield {**solution.values, **more}


def _few(changes: Sequence[Change]) -> str:
    """The first of some changes, in words."""
    rest = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{changes[0]}{rest}" if changes else "none"


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
