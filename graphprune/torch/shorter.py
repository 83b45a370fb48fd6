"""The user's own class without some of its layers.

Where a layer is an element of a list of modules it is deleted from the list, and what counts the
layers (attributes, fields of a configuration) says the new number. Elsewhere a module that hands its
input on stands in its place. What works is found by running it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from graphprune.errors import named_line
from graphprune.plan import LayerCut, Plan
from graphprune.torch.attributes import Change, put
from graphprune.torch.capture import Captured, mode, named_tensors
from graphprune.torch.configuration import misleads, roots
from graphprune.torch.copying import Copies
from graphprune.torch.modules import PassThrough
from graphprune.torch.recording import attributes, quiet

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
Check = Callable[[nn.Module, Mapping[str, str]], str]
"""Given a candidate and its changed paths (`Shorter.renamed`): empty where it computes the same."""


@dataclass(frozen=True)
class Surgery:
    """What is done to a module so that layers are gone.

    Attributes:
        deleted: Path of a list of modules -> keys of the elements that leave.
        passed: Path of a module -> how many outputs its place has (0: a tensor, else a tuple).
        changes: Attributes to set afterwards.
    """

    deleted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passed: Mapping[str, int] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()

    def apply(self, module: nn.Module) -> None:
        """Do it, in place."""
        for path, outputs in self.passed.items():
            owner, _, name = path.rpartition(".")
            holder = module.get_submodule(owner)
            holder._modules[name] = PassThrough.instead_of(module.get_submodule(path), outputs)
        for path, keys in self.deleted.items():
            holder = module.get_submodule(path)
            left = [(k, m) for k, m in holder._modules.items() if k not in keys]
            if all(k.isdigit() for k in holder._modules):
                left = [(str(i), m) for i, (_, m) in enumerate(left)]
            holder._modules = type(holder._modules)(left)
        put(module, self.changes)

    def __str__(self) -> str:
        parts = [f"{len(k)} of '{p}' deleted" for p, k in self.deleted.items()]
        parts += [f"'{p}' hands its input on" for p in self.passed]
        fields = [str(c) for c in self.changes if "." in c.name]
        parts += fields[:1]
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Shorter:
    """What became of the user's class.

    Attributes:
        module: Without the layers; shares all tensors with the original. None: not possible.
        why: How, or why not.
        surgery: What was done.
        renamed: Path of a parameter or buffer -> its path in the original, where they differ.
    """

    module: nn.Module | None
    why: str
    surgery: Surgery = field(default_factory=Surgery)
    renamed: Mapping[str, str] = field(default_factory=dict)


def shorter_class(captured: Captured, layers: Sequence[LayerCut], check: Check) -> Shorter:
    """The user's class without `layers`. The module that was captured is not changed.

    Args:
        captured: The module, captured.
        layers: That leave.
        check: Runs a candidate; it must leave it as it finds it.
    """
    assert captured.module is not None
    try:
        copies = Copies(captured, Plan(captured.sha256, (), {}, ()))
        paths = list(dict.fromkeys(_path(captured.module, cut) for cut in layers))
        if "" in paths:
            cut = next(c for c in layers if not _path(captured.module, c))
            return Shorter(None, f"the layer '{cut.name}' is no module of its own")
        found = _first_that_works(captured, copies, paths, check)
        if found.module is None:
            return found
        return _configured(captured.module, copies, found, check)
    except Exception as error:  # a module unlike all others: there is always the graph
        return Shorter(None, named_line(error))


def own_copy(captured: Captured, module: nn.Module) -> nn.Module:
    """A copy of a shorter module with tensors of its own."""
    made = replace(captured, module=module, graph_module=captured.graph_module)
    return Copies(made, Plan(captured.sha256, (), {}, ())).make()


def _first_that_works(
    captured: Captured, copies: Copies, paths: Sequence[str], check: Check
) -> Shorter:
    reason = ""
    assert captured.module is not None
    for surgery in _surgeries(captured, paths):
        try:
            made = _made(captured.module, copies, surgery)
            why = check(made.module, made.renamed) if made.module is not None else made.why
        except Exception as error:  # whatever forward raises without its layers
            why = named_line(error)
        if not why:
            return made
        reason = reason or why
    return Shorter(None, reason or "its layers are no modules that could leave")


def _made(module: nn.Module, copies: Copies, surgery: Surgery) -> Shorter:
    made = copies.skeleton()
    surgery.apply(made)
    before = {id(t): path for path, t in reversed(list(named_tensors(module)))}
    pairs = {path: before[id(t)] for path, t in named_tensors(made) if id(t) in before}
    renamed = {new: old for new, old in pairs.items() if new != old}
    return Shorter(made, f"layers left: {surgery}", surgery, renamed)


def _surgeries(captured: Captured, paths: Sequence[str]) -> Iterator[Surgery]:
    """What may work: the lists shortened, else modules that hand their input on."""
    module = captured.module
    assert module is not None
    deleted: dict[str, list[str]] = {}
    others: list[str] = []
    for path in paths:
        owner, _, name = path.rpartition(".")
        if isinstance(module.get_submodule(owner), _LISTS):
            deleted.setdefault(owner, []).append(name)
        else:
            others.append(path)
    outputs = _outputs(captured, paths)
    if deleted and all(p in outputs for p in others):
        lists = {p: tuple(keys) for p, keys in deleted.items()}
        plain = Surgery(lists, {p: outputs[p] for p in others})
        places = tuple(_places(module, lists))
        near = tuple(_counts(module, lists, nearest=True))
        every = tuple(_counts(module, lists, nearest=False))
        tried = [(*places, *near), places, (*places, *every)]
        for changes in dict.fromkeys(tried):
            yield replace(plain, changes=changes)
    if all(p in outputs for p in paths):
        yield Surgery({}, {p: outputs[p] for p in paths})


def _places(module: nn.Module, lists: Mapping[str, tuple[str, ...]]) -> Iterator[Change]:
    """Attributes that number the elements of a list, numbered anew."""
    for path, keys in lists.items():
        elements = dict(module.get_submodule(path)._modules)
        left = [k for k in elements if k not in keys]
        new = dict(zip(left, _new_keys(elements, left), strict=True))
        first = next(iter(elements.values()))
        assert first is not None
        for place, part in first.named_modules():
            for name, value in vars(part).items():
                if type(value) is not int or value != 0 or len(elements) < 2:
                    continue
                values = [_value(e, place, name) for e in elements.values()]
                if values != list(range(len(elements))):
                    continue
                for number, key in enumerate(left):
                    where = f"{path}.{new[key]}.{place}".strip(".")
                    old = list(elements).index(key)
                    if old != number:
                        yield Change(where, name, old, number)


def _new_keys(elements: Mapping[str, Any], left: Sequence[str]) -> list[str]:
    digits = all(k.isdigit() for k in elements)
    return [str(i) for i in range(len(left))] if digits else list(left)


def _value(element: nn.Module | None, place: str, name: str) -> Any:
    parts = dict(element.named_modules()) if element is not None else {}
    return vars(parts[place]).get(name) if place in parts else None


def _counts(
    module: nn.Module, lists: Mapping[str, tuple[str, ...]], *, nearest: bool
) -> Iterator[Change]:
    """Attributes of modules around a list that are as large as it was."""
    parts = dict(module.named_modules())
    for path, keys in lists.items():
        count = len(module.get_submodule(path)._modules)
        owner = path.rpartition(".")[0]
        while True:
            for name, value in vars(parts[owner]).items():
                if type(value) is int and value == count:
                    yield Change(owner, name, count, count - len(keys))
            if nearest or not owner:
                break
            owner = owner.rpartition(".")[0]


def _outputs(captured: Captured, paths: Sequence[str]) -> dict[str, int]:
    """Path of a module -> how many outputs it gives (0: a tensor), where the first is a tensor."""
    found: dict[str, int] = {}
    module = captured.module
    assert module is not None

    def noted(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            if isinstance(result, torch.Tensor):
                found[path] = 0
            elif type(result) is tuple and result and isinstance(result[0], torch.Tensor):
                found[path] = len(result)

        return hook

    handles = [module.get_submodule(p).register_forward_hook(noted(p)) for p in paths]
    try:
        with mode(module, False), torch.no_grad():
            module(*captured.args, **captured.kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _configured(module: nn.Module, copies: Copies, found: Shorter, check: Check) -> Shorter:
    """With fields of configurations that say the new numbers of layers, where such are found."""
    changes: list[Change] = []
    for path, keys in found.surgery.deleted.items():
        changes += _fields(module, path, keys, changes)
    if not changes:
        return found
    olds = {(c.path, c.name): c.old for c in reversed(changes)}
    news = {(c.path, c.name): c.new for c in changes}
    fields = [Change(*where, old, news[where]) for where, old in olds.items()]
    more = replace(found.surgery, changes=(*found.surgery.changes, *fields))
    try:
        made = _made(module, copies, more)
        assert made.module is not None
        right = not check(made.module, made.renamed)
        right = right and not misleads(made.module, lambda m: check(m, made.renamed))
    except Exception:  # forward reads the configuration for something else
        return found
    return made if right else found


def _fields(
    module: nn.Module, path: str, keys: Sequence[str], known: Sequence[Change]
) -> list[Change]:
    """Fields from which the class is built with a list of the new length."""
    elements = list(module.get_submodule(path)._modules)
    left = [i for i, k in enumerate(elements) if k not in keys]
    for root, part in roots(module):
        if not f"{path}.".startswith(f"{root}." if root else ""):
            continue
        inner = path[len(root) :].strip(".")
        before = {c.name: c.new for c in known if c.path == root}
        counts, lists = _candidates(part, root, len(elements), left, before)
        for several in (lists, []) if lists else ([],):
            for count in counts:
                changes = [count, *several]
                built = _built(part, {**before, **{c.name: c.new for c in changes}})
                if built is not None and _length(built, inner) == len(left):
                    return changes
    return []


def _candidates(
    part: nn.Module, root: str, count: int, left: Sequence[int], before: Mapping[str, Any]
) -> tuple[list[Change], list[Change]]:
    """Fields that may count the elements of a list, and lists with an entry for each of them."""
    counts: list[Change] = []
    lists: list[Change] = []
    for holder, path, name in attributes(part):
        if path or not name.startswith("config."):
            continue
        value = before.get(name, holder.get(name.rpartition(".")[2]))
        if type(value) is int and value == count:
            counts.append(Change(root, name, value, len(left)))
        elif isinstance(value, list | tuple):
            if len(value) == count:
                lists.append(Change(root, name, value, type(value)(value[i] for i in left)))
            for i, entry in enumerate(value):
                if type(entry) is int and entry == count:
                    new = type(value)([*value[:i], len(left), *value[i + 1 :]])
                    counts.append(Change(root, name, value, new))
    return counts, lists


def _built(part: nn.Module, values: Mapping[str, Any]) -> nn.Module | None:
    """The class built from a changed configuration, without memory; None where that fails."""
    holder = nn.Module()
    holder.__dict__["config"] = copy.deepcopy(part.__dict__["config"])
    put(holder, [Change("", name, None, value) for name, value in values.items()])
    try:
        with torch.device("meta"), warnings.catch_warnings(), quiet(), torch.no_grad():
            warnings.simplefilter("ignore")
            built: nn.Module = type(part)(holder.__dict__["config"])
    except Exception:  # the class takes more, or its fields must agree
        return None
    return built


def _length(module: nn.Module, path: str) -> int:
    try:
        return len(module.get_submodule(path)._modules)
    except AttributeError:
        return -1


def _path(module: nn.Module, cut: LayerCut) -> str:
    """The module that a layer is: the longest path that its name begins with."""
    name = cut.name.partition("#")[0]
    parts = dict(module.named_modules())
    while name and (name not in parts or isinstance(parts[name], nn.ModuleList | nn.ModuleDict)):
        name = name.rpartition(".")[0]  # lists that nothing calls belong to what holds them
    return name
