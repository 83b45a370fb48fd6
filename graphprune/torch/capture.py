"""From a module to a graph of ATen ops: the user's module, an ExportedProgram, an ONNXProgram."""

from __future__ import annotations

import hashlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.errors import UnsupportedModelError, UsageError, first_line
from graphprune.torch.shapes import dynamic_axes
from graphprune.torch.switch import switchable
from graphprune.torch.tidy import tidy

PREFIX = "torch:"
"""Starts the hash of a module, so that a plan of one is told from that of a file."""


@dataclass(frozen=True, eq=False)
class Weights:
    """Parameters, buffers and constants of a graph.

    Attributes:
        names: get_attr node -> name. Tied weights have one name: that of the first.
        tensors: Name -> tensor.
        aliases: Name -> all paths at which the tensor is found.
    """

    names: Mapping[fx.Node, str]
    tensors: Mapping[str, torch.Tensor]
    aliases: Mapping[str, tuple[str, ...]]

    def holds(self, node: fx.Node) -> bool:
        """Whether a node reads a parameter, buffer or constant."""
        return node in self.names


@dataclass(frozen=True, eq=False)
class Captured:
    """A module as a graph.

    Attributes:
        module: The user's module; None where only a graph was given.
        graph_module: The graph; weights are read by get_attr nodes. Never changed.
        args: Positional example inputs.
        kwargs: Example inputs by name.
        training: Whether it was captured in train mode.
        dynamic: Whether any dimension is dynamic.
        notes: What the user should know of how it was captured.
        dropped: Names of weights that only layers which left would read (`torch/shorten.py`).
    """

    module: nn.Module | None
    graph_module: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    training: bool
    dynamic: bool
    notes: tuple[str, ...] = field(default=())
    dropped: tuple[str, ...] = field(default=())

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The nodes in order."""
        return list(self.graph_module.graph.nodes)

    @cached_property
    def weights(self) -> Weights:
        """What the get_attr nodes read; the same memory is the same weight."""
        names: dict[fx.Node, str] = {}
        tensors: dict[str, torch.Tensor] = {}
        by_memory: dict[tuple[Any, ...], str] = {}
        aliases: dict[str, list[str]] = {}
        for path, tensor in named_tensors(self.module or self.graph_module):
            name = by_memory.setdefault(_memory(tensor), path)
            aliases.setdefault(name, []).append(path)
        for node in self.graph_module.graph.nodes:
            if node.op != "get_attr":
                continue
            value = read(self.graph_module, str(node.target))
            if not isinstance(value, torch.Tensor):
                continue
            name = by_memory.setdefault(_memory(value), str(node.target))
            names[node] = name
            tensors.setdefault(name, value)
            aliases.setdefault(name, [str(node.target)])
        return Weights(names, tensors, {n: tuple(p) for n, p in aliases.items()})

    @cached_property
    def sha256(self) -> str:
        """Hash of class, graph and the shapes of weights; values do not count.

        A plan therefore stays valid while the weights train.
        """
        digest = hashlib.sha256()
        kind = type(self.module).__qualname__ if self.module is not None else "graph"
        digest.update(kind.encode())
        for name, tensor in self.weights.tensors.items():
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        for node in self.graph_module.graph.nodes:
            digest.update(f"{node.op}{node.name}{node.target}".encode())
        return f"{PREFIX}{digest.hexdigest()}"


def capture(
    model: Any,
    args: Sequence[Any] | torch.Tensor | None = None,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    *,
    training: bool = True,
) -> Captured:
    """The graph of a model.

    Args:
        model: A module (an `fx.GraphModule` is one), `ExportedProgram` or `torch.onnx.ONNXProgram`.
        args: Positional example inputs; those that an exported program was made with are known.
        kwargs: Example inputs by name.
        dynamic_shapes: As for `torch.export.export`; None: the first dimension of every input.
        training: Capture in train mode, so that batch norm and dropout can be switched; where that
            fails it is captured in eval mode.

    Raises:
        UsageError: No model or no example inputs.
        UnsupportedModelError: torch.export does not get through the module.
    """
    program = getattr(model, "exported_program", model)
    if isinstance(program, torch.export.ExportedProgram):
        return _of_program(program)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{type(model).__name__} is no torch module, ExportedProgram or ONNXProgram"
        )
    if args is None and not kwargs:
        raise UsageError("give example inputs: the module is traced by running it on them")
    inputs = (args,) if isinstance(args, torch.Tensor) else tuple(args or ())
    named = dict(kwargs or {})
    _check_weights(model)
    errors: list[str] = []
    for train in (True, False) if training else (False,):
        try:
            program, notes = _exported(model, inputs, named, dynamic_shapes, train)
        except Exception as error:  # torch.export raises whatever the module or dynamo raises
            errors.append(first_line(error))
            continue
        captured = _of_program(program)
        graph_module = captured.graph_module.train(train)
        if train:
            doubt, note = _in_eval_mode(model, graph_module, inputs, named)
            if doubt:
                errors.append(doubt)
                continue
            notes = (*notes, note) if note else notes
        if errors:
            note = (
                f"captured in eval mode, since train mode failed: {errors[0]}; what only train mode "
                "runs stays as it is"
            )
            notes = (note, *notes)
        return Captured(model, graph_module, inputs, named, train, captured.dynamic, tuple(notes))
    raise UnsupportedModelError(
        f"torch.export does not get through {type(model).__name__}: {errors[-1]}; check that it runs "
        "on the example inputs, and that nothing in forward depends on the contents of tensors"
    )


def _in_eval_mode(
    module: nn.Module, graph: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, str]:
    """Whether a graph of train mode, switched to eval mode, is the module in eval mode.

    Returns:
        Why not, and what there is to be noted: both empty where it is.
    """
    with mode(module, False), mode(graph, False), torch.no_grad():
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        try:
            wanted, got = (_tensors(m(*args, **kwargs)) for m in (module, graph))
        except Exception as error:  # a graph of one batch size may not take the example's
            return f"its graph does not run in eval mode ({first_line(error)})", ""
        finally:
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
    for a, b in zip(wanted, got, strict=False):
        size = float(a.abs().max()) if a.numel() else 0.0
        if a.shape != b.shape or (a - b).abs().max() > 1e-3 * max(size, 1e-12):
            return "its graph computes something else in eval mode (random numbers of its own?)", ""
    if len(wanted) > len(got):
        return "it gives fewer outputs in train mode", ""
    more = len(got) - len(wanted)
    return "", f"in train mode it gives {more} more outputs than in eval mode" if more else ""


def _tensors(outputs: Any) -> list[torch.Tensor]:
    leaves = pytree.tree_leaves(outputs)
    return [t.double() for t in leaves if isinstance(t, torch.Tensor) and t.numel()]


def _of_program(program: torch.export.ExportedProgram) -> Captured:
    example: Any = program.example_inputs or ((), {})
    exported = program.module(check_guards=False)
    assert isinstance(exported, fx.GraphModule)
    plain = fx.GraphModule(exported, exported.graph)  # whose train() and eval() work
    graph_module = switchable(tidy(plain))
    inputs = [n.meta.get("val") for n in graph_module.graph.nodes if n.op == "placeholder"]
    dynamic = any(dynamic_axes(value) for value in inputs)
    args, kwargs = tuple(example[0]), dict(example[1])
    return Captured(None, graph_module, args, kwargs, graph_module.training, dynamic)


def _exported(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
    train: bool,
) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    with mode(module, train), _quiet():
        if dynamic_shapes is not None:
            return torch.export.export(
                module, args, kwargs or None, dynamic_shapes=dynamic_shapes
            ), ()
        twice_args, twice_kwargs = _two_rows((args, kwargs))
        try:
            shapes = _first_dynamic((twice_args, twice_kwargs))
            given = _by_name(module, shapes)
            program = torch.export.export(
                module, twice_args, twice_kwargs or None, dynamic_shapes=given
            )
        except Exception as error:
            note = f"captured for one batch size, since a dynamic one failed: {first_line(error)}"
            return torch.export.export(module, args, kwargs or None), (note,)
        return program, ()


@contextmanager
def _quiet() -> Iterator[None]:
    """Where one way of tracing fails another is tried: what the first prints would only alarm."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _by_name(module: nn.Module, shapes: tuple[tuple[Any, ...], dict[str, Any]]) -> dict[str, Any]:
    """Dynamic shapes by the names of `forward`'s parameters, `*args` and `**kwargs` among them."""
    return dict(inspect.signature(module.forward).bind(*shapes[0], **shapes[1]).arguments)


def _first_dynamic(inputs: Any) -> Any:
    """Axis 0 of every tensor that has one is free to vary."""

    def shape(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return {0: torch.export.Dim.AUTO}
        return None

    return pytree.tree_map(shape, inputs)


def _two_rows(inputs: Any) -> Any:
    """Inputs of one row become two: torch.export takes a size of 1 for a constant."""
    leaves = [t for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.ndim]
    if not leaves or any(t.shape[0] != 1 for t in leaves):
        return inputs
    return pytree.tree_map(
        lambda t: torch.cat([t, t]) if isinstance(t, torch.Tensor) and t.ndim else t, inputs
    )


@contextmanager
def mode(module: nn.Module, train: bool) -> Iterator[None]:
    """The module in train or eval mode; afterwards every part is as it was."""
    before = {m: m.training for m in module.modules()}
    module.train(train)
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers at every path, tied ones at each of theirs."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def read(module: nn.Module, path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.numel() == 0:
        return (id(tensor),)
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _check_weights(module: nn.Module) -> None:
    for name, tensor in named_tensors(module):
        if nn.parameter.is_lazy(tensor):
            raise UsageError(f"'{name}' has no shape yet: run the module once before pruning it")
        if tensor.is_meta:
            raise UsageError(f"'{name}' is on the meta device: load the weights first")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UsageError(f"'{name}' holds NaN or infinity: its channels cannot be compared")
