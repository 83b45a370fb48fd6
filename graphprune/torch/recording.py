"""Running a module with tagged attributes, and seeing every call of a torch function.

Integer attributes of the module become tagged integers. A mode sees each call with its tagged arguments
and numbers it; torch.export keeps that number on the nodes that the call became.
"""

from __future__ import annotations

import logging
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from graphprune.torch.capture import Captured, _two_rows, mode
from graphprune.torch.shapes import dims_of
from graphprune.torch.sites import Place, Sites
from graphprune.torch.tags import Attribute, Leaf, Size, Tag, numbers, plain

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]
MARK = "graphprune_call"
_LONGEST = 8


@dataclass
class Recorded:
    """The integers that a call was given, and where they stand in the source."""

    numbers: list[int]
    places: list[Place | None]


class Recorder(TorchFunctionMode):
    """Sees calls of torch functions; sizes that are read come back tagged.

    Attributes:
        calls: Number of a call -> the numbers it was given, of calls that were given a tagged one.
        made: id of a tensor -> the call that gave it (or the path of a parameter), which result.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.sites = Sites(module)
        self.calls: dict[int, Recorded] = {}
        self.count = 0
        self.made: dict[int, tuple[int | str, int]] = {}
        self._alive: list[Any] = []

    def know(self, module: nn.Module) -> None:
        """Tell parameters and buffers apart, as they are while the module runs."""
        for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self.made[id(tensor)] = path, 0
            self._alive.append(tensor)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.count += 1
        call = self.count
        given = list(numbers((args, kwargs)))
        if given:
            places = self.sites.places(_outside(), args, kwargs)
            self.calls[call] = Recorded(given, places)
        if any(isinstance(n, Tag) for n in given):
            args, kwargs = plain(args), plain(kwargs)
        with torch.fx.traceback.annotate({MARK: call}):
            result = func(*args, **kwargs)
        if func == _SHAPE or func is torch.Tensor.size:
            return self._tagged(args, kwargs, result)
        if isinstance(result, torch.Tensor):
            self._keep(result, call, 0)
        elif isinstance(result, list | tuple):
            for i, one in enumerate(result):
                if isinstance(one, torch.Tensor):
                    self._keep(one, call, i)
        return result

    def _keep(self, tensor: torch.Tensor, call: int, result: int) -> None:
        self.made[id(tensor)] = call, result
        self._alive.append(tensor)

    def _tagged(self, args: Any, kwargs: Any, result: Any) -> Any:
        source = self.made.get(id(args[0]))
        if source is None:
            return result
        if isinstance(result, tuple):
            return torch.Size(
                [Tag(n, Size(*source, a)) if type(n) is int else n for a, n in enumerate(result)]
            )
        axis = args[1] if len(args) > 1 else kwargs.get("dim")
        if type(result) is int and isinstance(axis, int):
            return Tag(result, Size(*source, axis % args[0].dim()))
        return result


def _outside() -> types.FrameType | None:
    """The innermost frame that is not torch's or this file's."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name != __name__ and name.partition(".")[0] != "torch":
            return frame
        frame = frame.f_back
    return None


def attributes(module: nn.Module) -> Iterator[tuple[Any, str, str]]:
    """(holder, path of the module, dotted name) of what may be an integer attribute.

    A holder is the dict of a module, or of an object with settings that a module has (a
    configuration); such an object that several modules share comes once.
    """
    seen: set[int] = set()
    for path, part in module.named_modules():
        for name, value in list(part.__dict__.items()):
            yield part.__dict__, path, name
            yield from _settings(value, path, name, seen, 2)


def _settings(
    value: Any, path: str, name: str, seen: set[int], deep: int
) -> Iterator[tuple[Any, str, str]]:
    own = type(value).__module__.partition(".")[0]
    if isinstance(value, nn.Module | torch.Tensor | type) or callable(value) or id(value) in seen:
        return
    if own in ("torch", "builtins", "collections", "functools", "typing") or not deep:
        return
    fields = getattr(value, "__dict__", None)
    if not isinstance(fields, dict):
        return
    seen.add(id(value))
    for inner, entry in list(fields.items()):
        yield fields, path, f"{name}.{inner}"
        yield from _settings(entry, path, f"{name}.{inner}", seen, deep - 1)


def tag(holder: dict[str, Any], path: str, name: str, old: dict[Leaf, int]) -> None:
    """Tag an attribute that is an integer, or a short list of some; `old` takes their values."""
    key = name.rpartition(".")[2]
    value = holder[key]
    if type(value) is int:
        leaf = Attribute(path, name)
        old[leaf], holder[key] = value, Tag(value, leaf)
    elif type(value) in (tuple, list, torch.Size) and 0 < len(value) <= _LONGEST:
        if any(type(n) is not int for n in value):
            return
        found = [Attribute(path, name, i) for i in range(len(value))]
        old.update(zip(found, value, strict=True))
        holder[key] = type(value)([Tag(n, a) for n, a in zip(value, found, strict=True)])


def exported(captured: Captured, module: nn.Module, recorder: Recorder) -> fx.Graph:
    """The graph of a module, calls numbered."""
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        recorder.know(module)
        with recorder:
            return forward(*args, **kwargs)

    module.__dict__["forward"] = watched
    args, kwargs = example(captured)
    with mode(module, captured.training), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        with torch.fx.traceback.preserve_node_meta():
            program = torch.export.export(module, args, kwargs or None, strict=False)
    made = program.module(check_guards=False)
    assert isinstance(made, fx.GraphModule)
    return made.graph


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch logs of a module that it does not get through."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def example(captured: Captured) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of the sizes at which the module was captured."""
    given = captured.args, dict(captured.kwargs)
    twice = _two_rows(given)
    nodes = [n for n in captured.nodes if n.op == "placeholder"]
    wanted = [dims_of(n.meta.get("val")) for n in nodes]

    def shapes(inputs: Any) -> list[Any]:
        leaves = pytree.tree_leaves(inputs)
        return sorted(tuple(t.shape) for t in leaves if isinstance(t, torch.Tensor))

    chosen = twice if shapes(twice) == sorted(w for w in wanted if w is not None) else given
    return chosen[0], chosen[1]
