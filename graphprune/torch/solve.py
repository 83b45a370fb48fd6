"""Values of attributes, from equations that say what numbers computed from them must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphprune.torch.attributes import Change
from graphprune.torch.provenance import Equation, Traced
from graphprune.torch.tags import Attribute, Leaf, evaluate, leaves

#: No attribute is looked for above this many times its old value.
_FACTOR = 2


@dataclass(frozen=True)
class Solution:
    """What was found.

    Attributes:
        values: Attributes that change -> their new value.
        conflicts: Attributes that would have to be several numbers -> these, most wanted first.
    """

    values: Mapping[Attribute, int]
    conflicts: Mapping[Attribute, tuple[int, ...]] = field(default_factory=dict)


def solve(traced: Traced, known: Mapping[Attribute, int]) -> Solution:
    """Values that satisfy as many equations as there are values for.

    Args:
        traced: The equations.
        known: Attributes that have their new value already.
    """
    values: dict[Leaf, int] = dict(traced.sizes)
    values.update(known.items())
    conflicts: dict[Attribute, tuple[int, ...]] = {}
    left = [e for e in traced.equations if _unknown(e, values) and _followed(e, values)]
    while left:
        progress = _round(left, values, traced.old, conflicts)
        if not progress:
            progress = _hold(left, values, traced.old)
        left = [e for e in left if _unknown(e, values)]
        if not progress:
            break
    changed = {
        leaf: n
        for leaf, n in values.items()
        if isinstance(leaf, Attribute) and leaf not in known and n != traced.old[leaf]
    }
    return Solution(changed, conflicts)


def _followed(equation: Equation, values: Mapping[Leaf, int]) -> bool:
    """Whether all sizes in an equation are those of tensors that the graph has."""
    return all(isinstance(x, Attribute) or x in values for x in leaves(equation.origin))


def _unknown(equation: Equation, values: Mapping[Leaf, int]) -> list[Attribute]:
    found = [
        leaf
        for leaf in leaves(equation.origin)
        if isinstance(leaf, Attribute) and leaf not in values
    ]
    return list(dict.fromkeys(found))


def _round(
    left: Sequence[Equation],
    values: dict[Leaf, int],
    old: Mapping[Leaf, int],
    conflicts: dict[Attribute, tuple[int, ...]],
) -> bool:
    """Give values to attributes that are the one unknown of an equation, simple ones first."""
    by_leaf: dict[Attribute, list[Equation]] = {}
    for equation in left:
        unknown = _unknown(equation, values)
        if len(unknown) == 1:
            by_leaf.setdefault(unknown[0], []).append(equation)
    direct = {leaf: es for leaf, es in by_leaf.items() if any(e.origin == leaf for e in es)}
    for leaf, equations in (direct or by_leaf).items():
        wanted = [set(_solutions(e, leaf, values, old[leaf])) for e in equations]
        common = set.intersection(*wanted)
        if common:
            values[leaf] = old[leaf] if old[leaf] in common else min(common)
            continue
        counts: dict[int, int] = {}
        for numbers in wanted:
            if len(numbers) == 1:
                n = next(iter(numbers))
                counts[n] = counts.get(n, 0) + 1
        conflicts[leaf] = tuple(sorted(counts, key=lambda n: (n == old[leaf], -counts[n])))
        values[leaf] = old[leaf]
    return bool(by_leaf)


def _solutions(
    equation: Equation, leaf: Attribute, values: Mapping[Leaf, int], old: int
) -> list[int]:
    """All values of one attribute that satisfy an equation."""
    if not isinstance(equation.value, int):
        return []
    if equation.origin == leaf:
        return [equation.value]
    tried = range(0, _FACTOR * max(old, 1) + 1)
    return [n for n in tried if evaluate(equation.origin, {**values, leaf: n}) == equation.value]


def _hold(left: Sequence[Equation], values: dict[Leaf, int], old: Mapping[Leaf, int]) -> bool:
    """Where an equation has several unknowns: one changes, if that can be, the others stay."""
    for equation in left:
        unknown = _unknown(equation, values)
        for leaf in unknown:
            others: dict[Leaf, int] = {u: old[u] for u in unknown if u != leaf}
            found = _solutions(equation, leaf, {**values, **others}, old[leaf])
            if found:
                values.update(others)
                values[leaf] = old[leaf] if old[leaf] in found else min(found)
                return True
    return False


def changes(values: Mapping[Attribute, int], old: Mapping[Leaf, int]) -> tuple[Change, ...]:
    """Attributes to set; of a tuple or list, all entries at once."""
    places = dict.fromkeys((a.path, a.name) for a in values)
    result: list[Change] = []
    for path, name in places:
        entries = [a for a in old if isinstance(a, Attribute) and (a.path, a.name) == (path, name)]
        before = [old[a] for a in entries]
        after = [values.get(a, old[a]) for a in entries]
        if entries[0].index < 0:
            result.append(Change(path, name, before[0], after[0]))
        else:
            result.append(Change(path, name, tuple(before), tuple(after)))
    return tuple(result)
