"""Fields of a configuration (transformers' `config`) that a pruned module no longer agrees with.

Which attributes a field decides is found by building the class once more, without memory, from a copy
of its configuration whose integers are tagged. A field is changed where everything that was computed
from it has become what one new value gives.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphprune.torch.attributes import Change
from graphprune.torch.provenance import Equation, Traced
from graphprune.torch.recording import attributes, quiet
from graphprune.torch.solve import solve
from graphprune.torch.tags import Attribute, Leaf, Origin, Tag, evaluate, leaves, origin_of

#: (path and name of an attribute, what it is computed from, old value, what it has become, whether that
#: is sure, since a layer of torch or a size in `forward` has it).
Computed = tuple[str, Origin, int, int, bool]


def configured(
    candidate: nn.Module, original: nn.Module, used: Collection[tuple[str, str]]
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Fields to change in the configurations of a pruned module, so that they say its sizes.

    Args:
        candidate: The pruned module.
        original: What it was made of.
        used: (path, name) of attributes that sizes in `forward` come from.

    Returns:
        The fields, and attributes that nothing was known of and that come from them.
    """
    changes: list[Change] = []
    others: list[Change] = []
    for path, part in roots(original):
        try:
            built, old = _rebuilt(part, {})
        except Exception:  # the class takes more than a configuration, or does not like tags
            continue
        found = list(_computed(built, candidate, path, used))
        evidence = tuple(Equation(o, new, n) for n, o, _, new, sure in found if sure)
        solution = solve(Traced(evidence, old, {}), {})
        values = {f: v for f, v in solution.values.items() if f not in solution.conflicts}
        values = _confirmed(part, found, values)
        changes += [Change(path, field.name, old[field], v) for field, v in values.items()]
        for place, origin, before, became, sure in found:
            known: dict[Leaf, int] = dict(old)
            known.update(values.items())
            value = evaluate(origin, known)
            name = place.rpartition(".")[2]
            owner = f"{path}.{place.rpartition('.')[0]}".strip(".")
            if not sure and value is not None and value not in (before, became):
                others.append(Change(owner, name, became, value))
    return tuple(changes), tuple(others)


def roots(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with a configuration of their own, not that of the module around them."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        config = part.__dict__.get("config")
        if config is None or isinstance(config, type | dict | str) or id(config) in seen:
            continue
        if isinstance(getattr(config, "__dict__", None), dict):
            seen.update(id(c) for c in [config, *config.__dict__.values()])
            yield path, part


def misleads(candidate: nn.Module, check: Callable[[nn.Module], str]) -> bool:
    """Whether a module built from a changed configuration loads the weights and computes something else.

    One that does not load is no danger: it says so.

    Args:
        candidate: The pruned module, its configuration changed.
        check: Runs a module; an empty text where it is right.
    """
    for path, part in roots(candidate):
        try:
            with warnings.catch_warnings(), quiet():
                warnings.simplefilter("ignore")
                built = type(part)(copy.deepcopy(part.__dict__["config"]))
            built.load_state_dict(part.state_dict())
        except Exception:  # it does not take these weights
            continue
        built.train(part.training)
        whole = built
        if path:
            whole = copy.copy(candidate)  # shares all but what is on the way to the part
            place = whole
            *owners, name = path.split(".")
            for step in (None, *owners):
                if step is not None:
                    inner = copy.copy(place._modules[step])
                    assert inner is not None
                    place._modules[step] = inner
                    place = inner
                place._modules = dict(place._modules)
            place._modules[name] = built
        try:
            if check(whole):
                return True
        except Exception:  # what a rebuilt class cannot even run misleads as well
            return True
    return False


def _confirmed(
    part: nn.Module, found: Sequence[Computed], values: Mapping[Attribute, int]
) -> dict[Attribute, int]:
    """Fields from which the class is built as it has become.

    Not every use of a field is seen (a size that went through a float has lost its tag): the class is
    built from the new values, and a field that decides a size which then differs is left.
    """
    left = dict(values)
    while left:
        built, _ = _rebuilt(part, left)
        parts = dict(built.named_modules())
        wrong: set[Leaf] = set()
        for place, origin, _, became, sure in found:
            path, _, name = place.rpartition(".")
            if sure and path in parts and parts[path].__dict__.get(name) != became:
                wrong.update(leaves(origin))
        kept = {f: v for f, v in left.items() if f not in wrong}
        if len(kept) == len(left):
            break
        left = kept
    return left


def _rebuilt(part: nn.Module, values: Mapping[Attribute, int]) -> tuple[nn.Module, dict[Leaf, int]]:
    """The class built from tagged fields, some changed, on the meta device; the fields' old values."""
    config: Any = copy.deepcopy(part.__dict__["config"])
    old: dict[Leaf, int] = {}
    for fields, name in _fields(config, "config", 2):
        key = name.rpartition(".")[2]
        if type(fields[key]) is int:
            leaf = Attribute("", name)
            old[leaf] = fields[key]
            fields[key] = Tag(values.get(leaf, fields[key]), leaf)
    with torch.device("meta"), warnings.catch_warnings(), quiet(), torch.no_grad():
        warnings.simplefilter("ignore")
        return type(part)(config), old


def _fields(config: Any, name: str, deep: int) -> Iterator[tuple[dict[str, Any], str]]:
    fields = getattr(config, "__dict__", None)
    if not isinstance(fields, dict) or not deep or isinstance(config, type):
        return
    for key, value in list(fields.items()):
        if not key.startswith("_"):
            yield fields, f"{name}.{key}"
            yield from _fields(value, f"{name}.{key}", deep - 1)


def _computed(
    built: nn.Module, candidate: nn.Module, path: str, used: Collection[tuple[str, str]]
) -> Iterator[Computed]:
    """Attributes of the rebuilt module that come from fields."""
    pruned = candidate.get_submodule(path)
    parts = dict(pruned.named_modules())
    for holder, place, name in attributes(built):
        value = holder.get(name)
        if not isinstance(value, Tag) or not any(leaves(value.origin)) or place not in parts:
            continue
        became = parts[place].__dict__.get(name)
        if isinstance(became, int):
            sure = (
                became != int(value)
                or type(parts[place]).__module__.startswith("torch.nn")
                or (f"{path}.{place}".strip("."), name) in used
            )
            where = f"{place}.{name}".removeprefix(".")
            yield where, origin_of(value), int(value), int(became), sure
