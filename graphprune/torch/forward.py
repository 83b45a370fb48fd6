"""A subclass of the user's class in whose methods some sizes are written out.

`x.reshape(B, N, C)`, where C is the width of the input, holds no longer when heads are removed: the
heads that are left are narrower than the input. No attribute can say that; the expression must change.
The method is compiled again from its source with the new number in its place. An instance goes on
being one of the user's class; it pickles as the class and the list of what was written.
"""

from __future__ import annotations

import ast
import copy
import linecache
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphprune.errors import UsageError
from graphprune.torch.provenance import Traced
from graphprune.torch.sites import Place, call_at, expression, function_of, tree_of
from graphprune.torch.tags import Leaf, evaluate, leaves

Number = int | tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """A number that is written in place of an expression.

    Attributes:
        place: Where; its module is not used.
        old: The expression, as text.
        new: The number, or a list of numbers.
        function: Name that the called function gets; empty: the one it has.
    """

    place: Place
    old: str
    new: Number
    function: str = ""


def written(module: nn.Module, place: Place, new: Number) -> Written | None:
    """What has to be written so that an argument is `new`; None where that is not possible."""
    found = function_of(type(module), place.method)
    tree = tree_of(found[1].__code__) if found is not None else None
    call = call_at(tree, place.position) if tree is not None else None
    if call is None:
        return None
    function = ""
    if isinstance(new, tuple):
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in ("chunk", "split"):
            return None
        function = "split"
    here = Place("", place.method, place.position, place.argument, place.entry)
    old = expression(call, here)
    if old is None:
        old = call.args[0]
    return Written(here, ast.unparse(old), new, function)


_made: dict[tuple[int, tuple[Written, ...]], type[nn.Module]] = {}


def subclass(cls: type[nn.Module], changes: tuple[Written, ...]) -> type[nn.Module]:
    """A subclass of `cls` in whose methods numbers are written; the same for the same numbers.

    Raises:
        UsageError: The source of `cls` is not available, or not the one the changes are for.
    """
    key = id(cls), changes
    if key not in _made:
        _made[key] = _subclass(cls, changes)
    return _made[key]


def _subclass(cls: type[nn.Module], changes: tuple[Written, ...]) -> type[nn.Module]:
    methods: dict[str, Any] = {}
    for name in dict.fromkeys(c.place.method for c in changes):
        mine = [c for c in changes if c.place.method == name]
        methods[name] = _method(cls, name, mine)
    root, before = getattr(cls, "_graphprune_written", (cls, ()))
    body = {
        **methods,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": _reduce,
        "_graphprune_written": (root, (*before, changes)),
    }
    return type(cls.__name__, (cls,), body)


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    root, changes = type(self)._graphprune_written  # type: ignore[attr-defined]
    state = self.__getstate__()  # type: ignore[no-untyped-call]
    return instance, (root, changes), state


def instance(root: type[nn.Module], changes: Sequence[tuple[Written, ...]]) -> nn.Module:
    """A bare instance, for unpickling."""
    cls = root
    for some in changes:
        cls = subclass(cls, some)
    return cls.__new__(cls)


def _method(cls: type, name: str, changes: Sequence[Written]) -> Callable[..., Any]:
    """A method compiled from its source with numbers written in."""
    found = function_of(cls, name)
    tree = tree_of(found[1].__code__) if found is not None else None
    if found is None or tree is None:
        raise UsageError(f"the source of {cls.__name__}.{name} is not available")
    owner, function = found
    if set(function.__code__.co_freevars) - {"__class__"}:
        raise UsageError(f"{cls.__name__}.{name} is a closure: its sizes cannot be written")
    tree = copy.deepcopy(tree)
    for change in changes:
        call = call_at(tree, change.place.position)
        if call is None or not _write(call, change):
            raise UsageError(f"the source of {cls.__name__}.{name} is not that which was pruned")
    maker = ast.parse("def _make(__class__, _entries):\n    return None").body[0]
    assert isinstance(maker, ast.FunctionDef)
    ast.increment_lineno(tree, 2 - min([tree.lineno, *(d.lineno for d in tree.decorator_list)]))
    maker.body = [tree, ast.Return(ast.Name(tree.name, ast.Load()))]
    source = ast.unparse(ast.fix_missing_locations(ast.Module([maker], [])))
    file = f"<{cls.__module__}.{cls.__qualname__}.{name}, resized {abs(hash(tuple(changes))):x}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    made: dict[str, Any] = {}
    exec(compile(source, file, "exec", dont_inherit=True), function.__globals__, made)
    method = made["_make"](owner, _entries)
    inner = method
    while not isinstance(inner, types.FunctionType) or hasattr(inner, "__wrapped__"):
        inner = getattr(inner, "__wrapped__")  # noqa: B009
    inner.__defaults__, inner.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return method  # type: ignore[no-any-return]


def _write(call: ast.Call, change: Written) -> bool:
    """Put a number into a call; whether what it replaces is what was there."""
    place = change.place
    old = expression(call, place)
    starred = old is None and len(call.args) == 1 and isinstance(call.args[0], ast.Starred)
    target = call.args[0] if starred else old
    if target is None:
        return False
    new: ast.expr
    if isinstance(change.new, tuple):
        new = ast.List([ast.Constant(n) for n in change.new], ast.Load())
    else:
        new = ast.Constant(change.new)
    holder = _argument(call, place)
    if starred or (place.entry >= 0 and target is holder):
        # The argument is made elsewhere: one entry of it is replaced when it comes.
        inner = target.value if isinstance(target, ast.Starred) else target
        entries: ast.expr = ast.Call(
            ast.Name("_entries", ast.Load()), [inner, ast.Constant(place.entry), new], []
        )
        new = ast.Starred(entries, ast.Load()) if starred else entries
    elif ast.unparse(target) != change.old:
        return False
    _replace(call, target, new)
    if change.function and isinstance(call.func, ast.Attribute):
        call.func.attr = change.function
    ast.fix_missing_locations(call)
    return True


def _argument(call: ast.Call, place: Place) -> ast.expr | None:
    if isinstance(place.argument, int):
        return call.args[place.argument] if place.argument < len(call.args) else None
    return next((k.value for k in call.keywords if k.arg == place.argument), None)


def _replace(call: ast.Call, old: ast.expr, new: ast.expr) -> None:
    lists: list[list[ast.expr]] = [call.args]
    for value in [*call.args, *(k.value for k in call.keywords)]:
        if isinstance(value, ast.Tuple | ast.List):
            lists.append(value.elts)
    for entries in lists:
        for i, entry in enumerate(entries):
            if entry is old:
                entries[i] = new
    for keyword in call.keywords:
        if keyword.value is old:
            keyword.value = new


def _entries(sizes: Sequence[int], at: int, size: int) -> tuple[int, ...]:
    """Sizes with one of them replaced."""
    return tuple(size if i == at else n for i, n in enumerate(sizes))


def to_write(
    module: nn.Module, traced: Traced, values: Mapping[Leaf, int]
) -> dict[str, tuple[Written, ...]]:
    """Path of a module -> what must be written into its methods, so that all sizes are right.

    Args:
        module: The original.
        traced: Uses of numbers as sizes.
        values: What attributes and sizes will be.
    """
    wanted: dict[Place, set[Number]] = {}
    wrong: set[Place] = set()
    for use in traced.equations:
        if use.place is None or use.value is None or use.value == -1:
            continue
        if any(leaf not in values for leaf in leaves(use.origin)):
            continue
        wanted.setdefault(use.place, set()).add(use.value)
        if evaluate(use.origin, values) != use.value:
            wrong.add(use.place)
    result: dict[str, list[Written]] = {}
    for place in sorted(wrong, key=str):
        if len(wanted[place]) > 1:
            continue  # one expression is several numbers
        text = written(module.get_submodule(place.module), place, wanted[place].pop())
        if text is not None:
            result.setdefault(place.module, []).append(text)
    return {path: tuple(texts) for path, texts in result.items()}
