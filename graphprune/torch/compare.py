"""A pruned module against the masked original: outputs, gradients, running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from graphprune.errors import named_line
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, mode
from graphprune.torch.dropout import without_dropout
from graphprune.torch.slicing import parameter_cuts, slice_tensor
from graphprune.torch.twin import Twin, convert

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

TOLERANCE = 1e-9
GRADIENT_TOLERANCE = 1e-7
_LITTLE = 1e-6
_MOST_SLACK = 1e4


@dataclass(frozen=True)
class Difference:
    """What comparing found.

    Attributes:
        reason: Empty where nothing differs; else one line.
        abs_error: Largest absolute error of an output.
        rel_error: The same relative to the output's largest magnitude.
        gradient_error: Largest relative error of a gradient.
        weak: What proves little, one sentence each.
        checked: Outputs, gradients and buffers that were compared.
    """

    reason: str = ""
    abs_error: float = 0.0
    rel_error: float = 0.0
    gradient_error: float = 0.0
    weak: tuple[str, ...] = ()
    checked: int = 0


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
                found = _merged(found, self._one(double, number, train, with_gradients, slack))
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
            outputs = _merged(outputs, self._buffers(module, wanted_buffers, slack))
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
            size = max(float(expected.abs().max()), _LITTLE * scale, 1e-300)
            off = float((expected - gradient).abs().max()) / size
            if not off <= slack * GRADIENT_TOLERANCE:
                return Difference(f"the gradient of '{path}' differs by {off:.1e}")
            worst, checked = max(worst, off), checked + 1
        reached = {names.get(path, path) for path in own}
        for path, parameter in module.named_parameters():
            name = names.get(path, path)
            if name in wanted_gradients and name not in reached and parameter.numel():
                return Difference(f"'{path}' has no gradient, in the original it has one")
        return _merged(outputs, Difference(gradient_error=worst, checked=checked))

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


def examples(captured: Captured, seed: int = 0) -> Iterator[Inputs]:
    """The example inputs in double precision, and others of another batch size where that varies."""
    given = captured.args, dict(captured.kwargs)
    if not captured.dynamic:
        yield pytree.tree_map(_as_double, given)
        return
    given = pytree.tree_map(_two_rows, given)
    yield pytree.tree_map(_as_double, given)
    generator = torch.Generator().manual_seed(seed)

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.ndim or not leaf.numel():
            return leaf
        leaf = leaf.detach()
        rows = torch.cat([leaf, leaf[:1]])
        order = torch.randperm(len(rows), generator=generator)
        rows = rows[order]
        if not rows.is_floating_point():
            return rows
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
        spread = float(rows.double().std()) if rows.numel() > 1 else 1.0
        return rows.double() + spread * noise.to(rows.device)

    yield pytree.tree_map(other, given)


def _two_rows(leaf: Any) -> Any:
    """Two rows are enough, and are what a small example is made to have."""
    if not isinstance(leaf, torch.Tensor) or not leaf.ndim:
        return leaf
    return leaf[:2] if len(leaf) > 1 else torch.cat([leaf, leaf])


def _restore(module: nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])


def _as_double(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach()
        return leaf.double() if leaf.is_floating_point() else leaf
    return leaf


def doubled(module: nn.Module) -> nn.Module:
    """A copy in double precision."""
    double = copy.deepcopy(module)
    convert(double, torch.float64)
    return double


def ran(
    call: Callable[[], Any], module: nn.Module, gradients: bool
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Floating-point outputs, and gradients of a fixed random sum of them."""
    parameters = dict(module.named_parameters())
    for parameter in parameters.values():
        parameter.grad = None
    with torch.set_grad_enabled(gradients):
        outputs = [t for t in pytree.tree_leaves(call()) if isinstance(t, torch.Tensor)]
        floats = [t for t in outputs if t.is_floating_point()]
        if gradients and any(t.requires_grad for t in floats):
            loss = torch.zeros((), dtype=torch.float64)
            for i, t in enumerate(floats):
                generator = torch.Generator().manual_seed(i)
                weight = torch.randn(t.shape, generator=generator, dtype=torch.float64)
                loss = loss + (t.double() * weight.to(t.device)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
    own = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return [t.detach() for t in outputs], own


def compared(
    wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor], tolerance: float
) -> Difference:
    """How some tensors differ from those that are wanted, in order."""
    if len(wanted) != len(got):
        return Difference(f"it gives {len(got)} tensors, the original {len(wanted)}")
    found = Difference()
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        if a.shape != b.shape:
            return Difference(f"output {i} has shape {tuple(b.shape)}, not {tuple(a.shape)}")
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return Difference(f"output {i} differs")
            continue
        a, b = a.double(), b.double()
        error = float((a - b).abs().max()) if a.numel() else 0.0
        size = float(a.abs().max()) if a.numel() else 0.0
        relative = error / size if size else error
        weak: tuple[str, ...] = ()
        if a.numel() > 1 and float(a.std()) <= _LITTLE * max(size, 1e-300):
            weak = (f"output {i} hardly varies: equality proves little",)
        if not relative <= tolerance:
            return Difference(f"output {i} differs by {relative:.1e} of its largest value")
        found = _merged(found, Difference("", error, relative, 0.0, weak, 1))
    return found


def _merged(a: Difference, b: Difference) -> Difference:
    return Difference(
        a.reason or b.reason,
        max(a.abs_error, b.abs_error),
        max(a.rel_error, b.rel_error),
        max(a.gradient_error, b.gradient_error),
        tuple(dict.fromkeys((*a.weak, *b.weak))),
        a.checked + b.checked,
    )
