"""Attributes that `forward` uses where no call is seen, guessed by their value.

A loop over heads, a size that goes through a float or into a cache: nothing is recorded of it. Where a
module holds an integer that equals one of its sizes, and that size has changed to one other number,
the attribute is a candidate. What is right is found by running it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from graphprune.cut import pruned_shape
from graphprune.plan import Plan
from graphprune.torch.attributes import Change, first_paths, owner
from graphprune.torch.capture import Captured
from graphprune.torch.recording import attributes
from graphprune.torch.shapes import dims_of
from graphprune.torch.slicing import parameter_cuts

#: How many sets of guesses are tried.
_MOST = 4


def guesses(
    captured: Captured, plan: Plan, done: frozenset[tuple[str, str]]
) -> Iterator[tuple[Change, ...]]:
    """Sets of attributes to change: all at once, then those of each name alone.

    Args:
        captured: The module, captured.
        plan: What is removed.
        done: (path, name) of attributes that are known already.
    """
    assert captured.module is not None
    sizes = _sizes(captured, plan)
    found: list[Change] = []
    for holder, path, name in attributes(captured.module):
        part = captured.module.get_submodule(path)
        if (path, name) in done or type(part).__module__.startswith("torch.nn"):
            continue
        value = holder[name.rpartition(".")[2]]
        if type(value) is not int or value < 2:
            continue
        new = sizes.get(path, {}).get(value, set())
        if len(new) == 1 and value not in new:
            found.append(Change(path, name, value, next(iter(new))))
    if not found:
        return
    yield tuple(found)
    names = list(dict.fromkeys(c.name for c in found))
    for name in names[: _MOST - 1] if len(names) > 1 else ():
        yield tuple(c for c in found if c.name == name)


def _sizes(captured: Captured, plan: Plan) -> dict[str, dict[int, set[int]]]:
    """Path of a module -> old size -> new sizes, of what it computes and of weights it holds."""
    assert isinstance(captured.module, nn.Module)
    first = first_paths(captured.module)
    result: dict[str, dict[int, set[int]]] = {}

    def add(path: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
        into = result.setdefault(path, {})
        for a, b in zip(old, new, strict=True):
            into.setdefault(a, set()).add(b)

    for node in captured.nodes:
        dims = dims_of(node.meta.get("val"))
        if node.op == "call_function" and dims is not None:
            path = owner(node)
            cuts = plan.tensors.get(node.name, ())
            changed = [
                (d, n) for d, n in zip(dims, pruned_shape(dims, cuts), strict=True) if d != n
            ]
            if changed:
                add(
                    first.get(path, path),
                    tuple(d for d, _ in changed),
                    tuple(n for _, n in changed),
                )
    for name, cuts in parameter_cuts(plan).items():
        shape = tuple(captured.weights.tensors[name].shape)
        new = pruned_shape(shape, cuts)
        for path in captured.weights.aliases[name]:
            holder = path.rpartition(".")[0]
            for place in (holder, holder.rpartition(".")[0]):  # the layer, and what holds it
                changed = [(d, n) for d, n in zip(shape, new, strict=True) if d != n]
                add(place, tuple(d for d, _ in changed), tuple(n for _, n in changed))
    return result
