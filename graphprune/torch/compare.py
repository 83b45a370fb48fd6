"""A pruned module against the masked original: outputs, gradients, running statistics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from graphprune.errors import named_line
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, mode
from graphprune.torch.differences import (
    GRADIENT_TOLERANCE,
    LITTLE,
    TOLERANCE,
    Difference,
    compared,
    doubled,
    examples,
    merged,
    ran,
)
from graphprune.torch.dropout import without_dropout
from graphprune.torch.slicing import parameter_cuts, slice_tensor
from graphprune.torch.twin import Twin

_MOST_SLACK = 1e4


class Oracle:
    """The masked original in double precision, and what it computes of some inputs.

    Args:
        captured: The original.
        plan: What is removed.
        seed: Of the random inputs.
        whole: The module with the layers that `captured` lacks; None: it has all of them.
    """

    def __init__(
        self, captured: Captured, plan: Plan, seed: int = 0, whole: Captured | None = None
    ) -> None:
        self.captured = captured
        self.whole = whole or captured
        self.plan = plan
        self.twin = Twin(captured, plan, dtype=torch.float64)
        self.inputs = tuple(examples(captured, seed))
        self._buffers_of = {n: b.clone() for n, b in self.twin.module.named_buffers()}
        self._known: dict[tuple[int, bool, bool], tuple[Any, ...]] = {}
        self._folded: dict[str, torch.Tensor] = {}
        self._renamed: dict[str, str] = {}

    def difference(
        self,
        module: nn.Module,
        *,
        train: bool = False,
        gradients: bool = True,
        slack: float = 1.0,
        folded: Mapping[str, torch.Tensor] | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> Difference:
        """How `module` differs from the masked original.

        Args:
            module: The user's class or a graph, pruned; not changed.
            train: In train mode, with dropout switched off; buffers are compared too.
            gradients: Compare the gradients of all parameters.
            slack: How many times less equal than `TOLERANCE` is equal.
            folded: Name of a weight -> what it was multiplied with, of its old shape (see `Kept`).
            renamed: Path of a weight in `module` -> its path in the original, where they differ.
        """
        self._folded = dict(folded or {})
        self._renamed = dict(renamed or {})
        try:
            double = doubled(module)
        except Exception as error:  # whatever a module's own __deepcopy__ raises
            return Difference(f"it cannot be copied: {named_line(error, 200)}")
        found = self._all(double, train, gradients, slack)
        if "differs" in found.reason and not isinstance(module, fx.GraphModule):
            rounded = self._slack
            if rounded > slack:
                found = self._all(double, train, gradients, rounded)
        return found

    def _all(self, double: nn.Module, train: bool, gradients: bool, slack: float) -> Difference:
        found = Difference()
        buffers = {n: b.clone() for n, b in double.named_buffers()}
        with without_dropout(double if train else None):
            for number in range(len(self.inputs)):
                # Gradients at one input are enough; another batch size shows sizes that are wrong.
                with_gradients = gradients and not number
                found = merged(found, self._one(double, number, train, with_gradients, slack))
                _restore(double, buffers)
                if found.reason:
                    break
        return found

    @cached_property
    def _slack(self) -> float:
        """How many times less equal the original class and its graph are: some round on purpose.

        A class that computes a norm in float32 whatever its weights are (Llama's) does so in double
        precision too, its graph does not.
        """
        assert self.whole.module is not None
        module, graph = doubled(self.whole.module), doubled(self.whole.graph_module)
        args, kwargs = self.inputs[0]
        with mode(module, False), mode(graph, False):
            wanted, _ = ran(lambda: graph(*args, **kwargs), graph, False)
            got, _ = ran(lambda: module(*args, **kwargs), module, False)
        noise = compared(wanted, got, float("inf")).rel_error
        return min(_MOST_SLACK, 10 * noise / TOLERANCE)

    def random(self, module: nn.Module) -> bool:
        """Whether a module, dropout switched off, gives another result each time in train mode."""
        double = doubled(module)
        args, kwargs = self.inputs[0]
        with mode(double, True), without_dropout(double):
            one, two = (ran(lambda: double(*args, **kwargs), double, False)[0] for _ in range(2))
        return any(not torch.equal(a, b) for a, b in zip(one, two, strict=True))

    def _one(
        self, module: nn.Module, number: int, train: bool, gradients: bool, slack: float
    ) -> Difference:
        args, kwargs = self.inputs[number]
        wanted, wanted_gradients, wanted_buffers = self._expected(number, train, gradients)
        try:
            with mode(module, train):
                got, own = ran(lambda: module(*args, **kwargs), module, gradients)
        except Exception as error:  # whatever forward raises at sizes that do not fit
            return Difference(f"it does not run: {named_line(error, 200)}")
        if not train and len(got) < len(wanted) and self.captured.training:
            # The graph is that of train mode, with heads that the class leaves out in eval mode.
            return compared(wanted[: len(got)], got, slack * TOLERANCE)
        outputs = compared(wanted, got, slack * TOLERANCE)
        if not outputs.reason and train:
            outputs = merged(outputs, self._buffers(module, wanted_buffers, slack))
        if outputs.reason or not gradients:
            return outputs
        cuts = parameter_cuts(self.plan)
        names = self._names_in_module()
        worst, checked = 0.0, 0
        scale = max([float(g.abs().max()) for g in wanted_gradients.values()] or [0.0])
        for path, gradient in own.items():
            name = names.get(path, path)
            expected = wanted_gradients.get(name)
            if expected is None:
                return Difference(f"'{path}' has a gradient, in the original it has none")
            if name in self._folded:  # of c * w, the gradient is that of w over c
                expected = expected / self._folded[name].to(expected.dtype)
            expected = slice_tensor(expected, cuts.get(name, ()))
            if expected.shape != gradient.shape:
                return Difference(f"the gradient of '{path}' has another shape")
            size = max(float(expected.abs().max()), LITTLE * scale, 1e-300)
            off = float((expected - gradient).abs().max()) / size
            if not off <= slack * GRADIENT_TOLERANCE:
                return Difference(f"the gradient of '{path}' differs by {off:.1e}")
            worst, checked = max(worst, off), checked + 1
        reached = {names.get(path, path) for path in own}
        for path, parameter in module.named_parameters():
            name = names.get(path, path)
            if name in wanted_gradients and name not in reached and parameter.numel():
                return Difference(f"'{path}' has no gradient, in the original it has one")
        return merged(outputs, Difference(gradient_error=worst, checked=checked))

    def _buffers(
        self, module: nn.Module, wanted: Mapping[str, torch.Tensor], slack: float
    ) -> Difference:
        names, cuts = self._names_in_module(), parameter_cuts(self.plan)
        checked = 0
        for path, tensor in module.named_buffers():
            name = names.get(path, path)
            if name not in wanted or not tensor.is_floating_point():
                continue
            expected = slice_tensor(wanted[name], cuts.get(name, ()))
            error = float((expected - tensor).abs().max()) if tensor.numel() else 0.0
            if not error <= slack * TOLERANCE * max(1.0, float(expected.abs().max())):
                return Difference(f"the buffer '{path}' differs by {error:.1e}")
            checked += 1
        return Difference(checked=checked)

    def _names(self) -> dict[str, str]:
        aliases = self.captured.weights.aliases
        return {path: name for name, paths in aliases.items() for path in paths}

    def _names_in_module(self) -> dict[str, str]:
        names = self._names()
        return {**names, **{new: names.get(old, old) for new, old in self._renamed.items()}}

    def _expected(self, number: int, train: bool, gradients: bool) -> tuple[Any, Any, Any]:
        key = number, train, gradients
        if key not in self._known:
            args, kwargs = self.inputs[number]
            graph = self.twin.module
            with mode(graph, train), without_dropout(graph if train else None):
                out, own = ran(lambda: self.twin(*args, **kwargs), graph, gradients)
            after = {n: b.clone() for n, b in graph.named_buffers()}
            _restore(graph, self._buffers_of)
            names = self._names()
            by_name = {names.get(path, path): g for path, g in own.items()}
            buffers = {names.get(path, path): b for path, b in after.items()}
            self._known[key] = out, by_name, buffers
        return self._known[key]


def _restore(module: nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])
