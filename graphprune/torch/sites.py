"""Where in the source of a module's methods a torch function is called, and with which expressions."""

from __future__ import annotations

import ast
import inspect
import itertools
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

Position = tuple[int, int, int, int]


@dataclass(frozen=True)
class Place:
    """An argument, or one entry of it, of a call in the source.

    Attributes:
        module: Path of the module whose method calls.
        method: Its name.
        position: First line (from that of the method on), last line, first and last column.
        argument: Number or name of the argument, as it is written.
        entry: Which entry, where the argument is a list or tuple; -1 where it is one number.
    """

    module: str
    method: str
    position: Position
    argument: int | str
    entry: int = -1


class Sites:
    """Finds the places of calls while a module runs.

    Args:
        module: The module that will run.
    """

    def __init__(self, module: nn.Module) -> None:
        # torch.export lets modules be seen through proxies, which share their dict.
        self._paths = {id(part.__dict__): path for path, part in module.named_modules()}

    def places(self, frame: types.FrameType | None, args: Any, kwargs: Any) -> list[Place | None]:
        """A place for every integer in `args` and `kwargs`, in order; None where it is not known.

        Args:
            frame: The innermost frame outside of torch.
            args: Arguments of the call, as torch sees them.
            kwargs: Those by name.
        """
        count = sum(1 for _ in _located(args, kwargs))
        found = self._call(frame) if frame is not None else None
        if found is None or frame is None:
            return [None] * count
        path, method, position, call = found
        first = 0 if _is_function(call, frame) else 1
        result: list[Place | None] = []
        for argument, entry in _located(args, kwargs):
            key: int | str = argument - first if isinstance(argument, int) else argument
            place = Place(path, method, position, key, entry)
            result.append(place if expression(call, place) is not None else None)
            if result[-1] is None and isinstance(key, int) and entry < 0:
                # view(*sizes) and view(sizes): torch sees one number an argument.
                result[-1] = _unpacked(call, path, method, position, key)
        return result

    def _call(self, frame: types.FrameType) -> tuple[str, str, Position, ast.Call] | None:
        code = frame.f_code
        module = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
        if not isinstance(module, nn.Module) or id(module.__dict__) not in self._paths:
            return None
        if function_of(type(module), code.co_name, code) is None:
            return None
        at = next(itertools.islice(code.co_positions(), frame.f_lasti // 2, None), None)
        if at is None or None in at:
            return None
        first, last, start, end = (int(n) for n in at if n is not None)
        line = code.co_firstlineno
        position = first - line, last - line, start, end
        tree = tree_of(code)
        call = call_at(tree, position) if tree is not None else None
        if call is None:
            return None
        return self._paths[id(module.__dict__)], code.co_name, position, call


def function_of(
    cls: type, name: str, code: types.CodeType | None = None
) -> tuple[type, types.FunctionType] | None:
    """The class that defines a method, and its function, unwrapped; where `code` is given, with it."""
    for base in cls.__mro__:
        found = base.__dict__.get(name)
        while found is not None and not isinstance(found, types.FunctionType):
            found = getattr(found, "__wrapped__", None) or getattr(found, "__func__", None)
        while isinstance(found, types.FunctionType):
            if code is None and not hasattr(found, "__wrapped__"):
                return base, found
            if found.__code__ is code:
                return base, found
            found = getattr(found, "__wrapped__", None)
        if code is None and name in base.__dict__:
            return None
    return None


@lru_cache(maxsize=512)
def tree_of(code: types.CodeType) -> ast.FunctionDef | None:
    """The syntax tree of a function; its first line is line 0, columns are those of the file."""
    try:
        lines, _ = inspect.getsourcelines(code)
        # Indented source stands in a block of its own, so that columns stay what they are.
        indented = lines[0][:1].isspace()
        tree = ast.parse(("if True:\n" if indented else "") + "".join(lines))
    except (OSError, SyntaxError, TypeError, ValueError, IndexError):
        return None
    ast.increment_lineno(tree, -2 if indented else -1)
    return next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), None)


def call_at(tree: ast.AST, position: Position) -> ast.Call | None:
    """The call at a position of a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and position == (
            node.lineno,
            node.end_lineno,
            node.col_offset,
            node.end_col_offset,
        ):
            return node
    return None


def expression(call: ast.Call, place: Place) -> ast.expr | None:
    """What stands at a place; the whole argument where an entry is not written out."""
    if isinstance(place.argument, int):
        if not 0 <= place.argument < len(call.args):
            return None
        if any(isinstance(a, ast.Starred) for a in call.args[: place.argument + 1]):
            return None
        found = call.args[place.argument]
    else:
        named = [k.value for k in call.keywords if k.arg == place.argument]
        if not named:
            return None
        found = named[0]
    if place.entry < 0:
        return None if isinstance(found, ast.Tuple | ast.List) else found
    if isinstance(found, ast.Tuple | ast.List):
        if any(isinstance(e, ast.Starred) for e in found.elts) or place.entry >= len(found.elts):
            return None
        return found.elts[place.entry]
    return found


def _unpacked(
    call: ast.Call, path: str, method: str, position: Position, number: int
) -> Place | None:
    """The place of number `number` of `view(sizes)` or `view(*sizes)`, a single argument."""
    if len(call.args) != 1:
        return None
    place = Place(path, method, position, 0, number)
    if isinstance(call.args[0], ast.Starred):
        return place if not isinstance(call.args[0].value, ast.Tuple | ast.List) else None
    return place if expression(call, place) is not None else None


def _located(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[int | str, int]]:
    """(argument, entry) of every integer, in the order of `tags.numbers`."""
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for key, value in given:
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield key, -1
        elif isinstance(value, list | tuple):
            for i, entry in enumerate(value):
                for _ in _inside(entry):
                    yield key, i
        elif isinstance(value, dict | slice):
            for _ in _inside(value):
                yield key, 1 << 30  # no place that could be written to


def _inside(value: Any) -> Iterator[None]:
    from graphprune.torch.tags import numbers

    for _ in numbers(value):
        yield None


def _is_function(call: ast.Call, frame: types.FrameType) -> bool:
    """Whether it is written `torch.f(x)` or `f(x)`, not `x.f()`."""
    if not isinstance(call.func, ast.Attribute):
        return True
    names: list[str] = []
    value: ast.expr = call.func.value
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        value = value.value
    if not isinstance(value, ast.Name):
        return False
    found = frame.f_locals.get(value.id, frame.f_globals.get(value.id))
    for name in reversed(names):
        found = getattr(found, name, None)
    return isinstance(found, types.ModuleType)
