"""Layers of a captured module (`graphprune.analysis.layers`)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import fx

import graphprune.rules.aten  # noqa: F401  (registers the rules)
from graphprune.analysis.layers import Layer, Step, find_layers
from graphprune.rules.aten.registry import aten
from graphprune.rules.registry import no_macs
from graphprune.torch.call import Call, call_of, is_tensor
from graphprune.torch.capture import Captured
from graphprune.torch.shapes import dims_of

_PASSES = frozenset(("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"))
"""Ops that hand on what they get where it has the type of the result."""
_DROPS = frozenset(("dropout", "feature_dropout", "alpha_dropout"))


def layers_of(captured: Captured) -> tuple[Layer, ...]:
    """What of a module can leave as a whole layer or residual block.

    Values are named after the nodes that make them. Named like the layers of the module's ONNX
    export, which has the same names of weights.
    """
    return _Reader(captured).layers()


class _Reader:
    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.nodes = captured.nodes
        self.weights = captured.weights
        self._same = self._handed_on()

    def layers(self) -> tuple[Layer, ...]:
        return find_layers(list(self._steps()), self._kinds())

    def _handed_on(self) -> dict[str, str]:
        """Name of a value -> that of the value which has the same contents in eval mode.

        Dropout is named with what it gets: an export has none. What comes behind stands for both,
        so that a layer starts behind the dropout in front of it.
        """
        same: dict[str, str] = {}
        for node in reversed(self.nodes):
            source = node.args[0] if node.op == "call_function" and node.args else None
            if not isinstance(source, fx.Node) or not _hands_on(node):
                continue
            if len(source.users) == 1 and source.op != "placeholder":
                same[source.name] = same.get(node.name, node.name)
        return same

    def _named(self, node: fx.Node) -> str:
        return self._same.get(node.name, node.name)

    def _steps(self) -> Iterator[Step]:
        for node in self.nodes:
            if node.op != "call_function" or not _activations(node):
                continue
            call = call_of(node)
            inputs = tuple(self._named(n) for n in self._reads(node))
            outputs = (self._named(node),)
            if inputs == outputs:
                continue  # it hands on what it gets
            rule = aten.find(call.domain, call.op, None)
            yield Step(
                _kind_of(call),
                inputs,
                outputs,
                adds=call.op == "add" and len(inputs) == 2 and _plain_sum(call),
                works=rule is not None and rule.macs is not no_macs,
                owner=self._owner(node),
            )

    def _reads(self, node: fx.Node) -> list[fx.Node]:
        """Activations among the arguments; one that is read twice counts twice."""
        found: list[fx.Node] = []

        def look(entry: fx.Node) -> fx.Node:
            if not self.weights.holds(entry) and _activations(entry):
                found.append(entry)
            return entry

        fx.node.map_arg((node.args, node.kwargs), look)
        return found

    def _owner(self, node: fx.Node) -> str:
        """The name of the weight that it reads; of several, what their names have in common."""
        names = [
            str(read.target)
            for read in node.all_input_nodes
            if self.weights.holds(read) and self._tells(read)
        ]
        return names[0] if len(set(names)) == 1 else ".".join(_common(names))

    def _tells(self, read: fx.Node) -> bool:
        tensor = self.weights.tensors[self.weights.names[read]]
        return tensor.is_floating_point() and tensor.numel() > 1

    def _kinds(self) -> Mapping[str, Hashable]:
        found: dict[str, Hashable] = {}
        for node in self.nodes:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor) or self.weights.holds(node):
                continue
            if value.is_floating_point() and dims_of(value) is not None:
                found[node.name] = (tuple(str(n) for n in value.shape), value.dtype)
        return found


def _common(names: Sequence[str]) -> list[str]:
    """What all names begin with, part by part."""
    places = zip(*(name.split(".") for name in names), strict=False)
    return [parts[0] for parts in takewhile(lambda p: len(set(p)) == 1, places)]


def _activations(node: fx.Node) -> bool:
    """Whether a node makes tensors."""
    value: Any = node.meta.get("val")
    leaves = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(v, torch.Tensor) for v in leaves)


def _hands_on(node: fx.Node) -> bool:
    call = call_of(node)
    if call.op in _DROPS:
        return True
    source = node.args[0]
    if call.op not in _PASSES or not is_tensor(source) or not is_tensor(node):
        return False
    assert isinstance(source, fx.Node)
    return bool(source.meta["val"].dtype == node.meta["val"].dtype)


def _plain_sum(call: Call) -> bool:
    return call.arguments.get("alpha", 1) == 1 and all(n is not None for n in call.operands)


def _kind_of(call: Call) -> str:
    """Op and settings; where tensors and computed sizes come from is told by the inputs."""
    settings = sorted(
        f"{name}={_setting(given)}"
        for name, given in call.arguments.items()
        if name not in call.numbers
    )
    return f"{call.domain}.{call.op}({', '.join(settings)})"


def _setting(given: Any) -> str:
    if isinstance(given, fx.Node):
        return str(given.meta.get("val"))
    if isinstance(given, list | tuple):
        return str([_setting(g) for g in given])
    return str(given)
