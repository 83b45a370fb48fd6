"""The user's own class, kept: a smaller instance of it, where its attributes can say all sizes.

What works is found by running it. Each rung of a ladder is tried only where those before it do not
compute what the masked original computes:

1. sliced weights, and the attributes of torch's own layers that follow from them;
2. attributes that the sizes in `forward` can be traced to (`torch/provenance.py`);
3. attributes of equal value in modules that hold a size that changed (`torch/guesses.py`);
4. sizes that no attribute can say, written into methods of a subclass (`torch/forward.py`);
5. a scale of attention that `forward` computes from a size that changed, folded into the weights
   that make the queries (`torch/scales.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn.utils import parametrize

from graphprune.errors import named_line
from graphprune.plan import Plan
from graphprune.torch.attributes import Change, Standard, put
from graphprune.torch.capture import Captured
from graphprune.torch.configuration import configured, misleads, roots
from graphprune.torch.copying import Copies
from graphprune.torch.forward import Written, subclass, to_write
from graphprune.torch.guesses import guesses
from graphprune.torch.provenance import Traced, trace
from graphprune.torch.recording import attributes
from graphprune.torch.rewrite import Edit
from graphprune.torch.scales import folded, missing
from graphprune.torch.shorter import Surgery
from graphprune.torch.solve import Solution, changes, solve
from graphprune.torch.tags import Attribute, Leaf, leaves

#: Values that are tried for attributes that would have to be several numbers.
_VARIANTS = 3

#: Candidates that are traced for the scales of their attention, the last ones first.
_FOLDS = 3

Check = Callable[[nn.Module], str]


@dataclass(frozen=True, eq=False)
class Kept:
    """What became of the user's own class.

    Attributes:
        module: A new instance of it, sliced; None where that is not possible.
        why: One line: how, or why not.
        changed: Everything that differs: `path.attribute: old -> new`.
        folded: Name of a weight -> what it was multiplied with, of its old shape. Its gradient is that
            of the masked original divided by this.
        surgery: How layers left it (`torch/shorter.py`); None where none did.
        renamed: Path of a weight -> its path in the original, where layers left in front of it.
    """

    module: nn.Module | None
    why: str
    changed: tuple[str, ...] = ()
    folded: Mapping[str, torch.Tensor] = field(default_factory=dict)
    surgery: Surgery | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a candidate is made of the sliced copy.

    Attributes:
        how: In words.
        attributes: Attributes to set.
        texts: Path of a module -> what is written into its methods.
        scale: Name of a weight -> what it is multiplied with.
    """

    how: str
    attributes: tuple[Change, ...] = ()
    texts: Mapping[str, tuple[Written, ...]] = field(default_factory=dict)
    scale: Mapping[str, torch.Tensor] = field(default_factory=dict)


def own_class(
    captured: Captured,
    plan: Plan,
    edits: Sequence[Edit],
    check: Check,
    fold: bool = True,
    write: bool = True,
) -> Kept:
    """A smaller instance of the user's own class. The module that was captured is not changed.

    Args:
        captured: The module, captured.
        plan: What is removed.
        edits: What became of the literal sizes of its graph (`torch/rewrite.py`).
        check: Runs a candidate against the masked original: an empty text where they are equal,
            otherwise the reason. It must leave the candidate as it finds it.
        fold: Whether weights may be multiplied by a constant, so that attention keeps its scale.
        write: Whether sizes may be written into methods, in a subclass of the user's class.
    """
    if captured.module is None:
        return Kept(None, "only a graph was given, no module")
    try:
        ladder = _Ladder(captured, plan, edits, check)
    except Exception as error:
        return Kept(None, f"the module cannot be copied ({named_line(error)})")
    if ladder.copies.missing:
        return Kept(None, f"'{ladder.copies.missing[0]}' is no tensor that the module holds")
    try:
        return ladder.climb(fold, write)
    except Exception as error:  # a module unlike all others: there is always the graph
        return Kept(None, named_line(error))


class _Ladder:
    def __init__(self, captured: Captured, plan: Plan, edits: Sequence[Edit], check: Check) -> None:
        assert captured.module is not None
        self.captured = captured
        self.module: nn.Module = captured.module
        self.plan = plan
        self.check = check
        self.copies = Copies(captured, plan)
        self.standard = Standard(captured, plan, edits)
        self.differ: list[Recipe] = []  # those that ran, and gave something else
        self.reason = ""
        self.used: set[tuple[str, str]] = set()  # attributes that sizes in forward come from
        self._traced: Traced | None = None

    def climb(self, fold: bool, write: bool) -> Kept:
        for recipe in self.recipes(fold, write):
            try:
                made, done = self.candidate(recipe)
                why = self.check(made)
            except Exception as error:  # whatever forward raises on sizes that do not fit
                self.reason = self.reason or named_line(error)
                continue
            if not why:
                return self.configured(made, recipe, done)
            self.differ.append(recipe)
            self.reason = why
        return Kept(None, self.reason + self.remedy())

    def configured(self, made: nn.Module, recipe: Recipe, done: tuple[str, ...]) -> Kept:
        """The candidate, its configuration changed too where that is right."""
        if not any(roots(self.module)):
            return Kept(made, recipe.how, done, recipe.scale)
        try:
            self.trace()
            fields, others = configured(made, self.module, self.used)
        except Exception:  # the class cannot be built of other values
            return Kept(made, recipe.how, done, recipe.scale)
        for more in ((*fields, *others), fields) if fields else ():
            try:
                again, says = self.candidate(
                    replace(recipe, attributes=(*recipe.attributes, *more))
                )
                if not self.check(again) and not misleads(again, self.check):
                    return Kept(again, recipe.how, says, recipe.scale)
            except Exception:  # forward reads the configuration for something else
                continue
        return Kept(made, recipe.how, done, recipe.scale)

    def remedy(self) -> str:
        """What to do about weights that are computed from others, where some of them are cut."""
        for path, part in self.module.named_modules():
            if parametrize.is_parametrized(part):
                name = next(iter(part.parametrizations))
                return (
                    f"; '{path}.{name}' is parametrized: make it a plain weight first, with "
                    f"torch.nn.utils.parametrize.remove_parametrizations(module.{path}, '{name}')"
                )
            for hook in part._forward_pre_hooks.values():
                if type(hook).__name__ in ("WeightNorm", "SpectralNorm"):
                    kind = "weight_norm" if type(hook).__name__ == "WeightNorm" else "spectral_norm"
                    return (
                        f"; '{path}' has a {kind} hook: make it a plain weight first, with "
                        f"torch.nn.utils.remove_{kind}(module.{path})"
                    )
        return ""

    def recipes(self, fold: bool, write: bool) -> Iterator[Recipe]:
        yield Recipe("attributes of standard layers")
        traced = self.trace()
        known = self.known(traced)
        solution = solve(traced, known)
        sets = [changes(values, traced.old) for values in _variants(solution)]
        for found in sets:
            if found:
                yield Recipe(f"sizes of forward traced to attributes: {_few(found)}", found)
        done = frozenset((c.path, c.name) for c in sets[0])
        for more in guesses(self.captured, self.plan, done):
            yield Recipe(f"attributes of equal value: {_few(more)}", (*sets[0], *more))
        if write:
            for values, found in zip(_variants(solution), sets, strict=True):
                numbers: dict[Leaf, int] = {**traced.old, **traced.sizes}
                numbers.update(known.items())
                numbers.update(values.items())
                texts = to_write(self.module, traced, numbers)
                if texts:
                    how = f"sizes written into methods: {self.first_text(texts)}"
                    yield Recipe(how, found, texts)
        self.reason = _conflict(solution) or self.reason
        if fold:
            yield from self.folds()

    def trace(self) -> Traced:
        """Where sizes in `forward` come from; nothing where the module cannot be traced."""
        if self._traced is None:
            try:
                self._traced = trace(self.captured, self.plan, self.copies.skeleton())
            except Exception:  # torch.export raises whatever the module or dynamo raises
                self._traced = Traced((), {}, {})
            self.used = {
                (leaf.path, leaf.name)
                for equation in self._traced.equations
                for leaf in leaves(equation.origin)
                if isinstance(leaf, Attribute)
            }
        return self._traced

    def folds(self) -> Iterator[Recipe]:
        """Candidates that run but differ, with the scales of their attention folded into weights."""
        for recipe in self.differ[: -_FOLDS - 1 : -1]:
            try:
                scaled = missing(self.captured, self.candidate(recipe)[0])
                scale = folded(self.captured, scaled) if scaled else None
            except Exception:  # torch.export raises whatever the module or dynamo raises
                continue
            if scale:
                how = (
                    f"{recipe.how}; the scale of attention that forward computes is folded into "
                    f"'{next(iter(scale))}' (times {scaled[0].factor:.4g})"
                )
                yield replace(recipe, how=how, scale=scale)

    def candidate(self, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...]]:
        """A sliced copy, and everything in which it differs but for the shapes of weights."""
        made = self.copies.make(recipe.scale)
        done = self.standard.adapt(self.module, made)
        put(made, recipe.attributes)
        says = [str(c) for c in [*done, *recipe.attributes]]
        for path, texts in recipe.texts.items():
            part = made.get_submodule(path)
            says += [f"{path}.{t.place.method}: {t.old} -> {t.new}" for t in texts]
            part.__class__ = subclass(type(part), texts)
        says += [f"{name}: multiplied by a constant" for name in recipe.scale]
        return made, tuple(says)

    def known(self, traced: Traced) -> dict[Attribute, int]:
        """Attributes of standard layers that follow from their weights."""
        made = self.candidate(Recipe(""))[0]
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

    def first_text(self, texts: Mapping[str, tuple[Written, ...]]) -> str:
        """The first of what is written, in words."""
        path, found = next(iter(texts.items()))
        text = found[0]
        cls = type(self.module.get_submodule(path)).__name__
        more = sum(len(t) for t in texts.values()) - 1
        rest = f" and {more} more" if more else ""
        return f"{cls}.{text.place.method}: {text.old} -> {text.new}{rest}"


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
    return f"{changes[0]}{rest}"
