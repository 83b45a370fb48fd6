"""Scales of attention that a class computes from a size that has changed, folded into weights.

The masked original divides its scores by the square root of the old head size. A class that takes
the size from a shape divides by that of the new one: the weights that make its queries are
multiplied with what is missing. Where that is, is found by tracing the candidate and comparing the
numbers in its graph with those of the original.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from graphprune.torch.call import call_of, is_tensor, op_name
from graphprune.torch.capture import Captured, Weights, mode
from graphprune.torch.provenance import aligned
from graphprune.torch.recording import example, quiet
from graphprune.torch.shapes import dims_of

_SAME = 1e-9
_MOVES = frozenset(
    (
        *("view", "reshape", "_unsafe_view", "permute", "transpose", "t", "mT", "numpy_T"),
        *("movedim", "select", "slice", "narrow", "split", "chunk", "split_with_sizes"),
        *("unbind", "tensor_split", "getitem", "unsqueeze", "squeeze", "expand", "contiguous"),
        *("clone", "to", "_to_copy", "type_as", "flatten", "unflatten", "dropout", "alias"),
        *("detach", "repeat", "roll", "flip", "index_select", "neg", "pad", "constant_pad_nd"),
        *("repeat_interleave", "expand_as", "view_as", "reshape_as"),
    )
)
_SUMS = frozenset(["add", "sub", "cat", "stack", "concat"])
_NORMS = frozenset(["layer_norm", "rms_norm", "batch_norm"])


@dataclass(frozen=True)
class Scaled:
    """A tensor that must be larger by a factor.

    Attributes:
        node: In the captured graph.
        factor: By which its consumer in the candidate makes it too small.
    """

    node: fx.Node
    factor: float


def missing(captured: Captured, candidate: nn.Module) -> tuple[Scaled, ...]:
    """Where a candidate scales by another number than the original.

    Raises:
        Exception: Whatever torch.export raises.
    """
    args, kwargs = example(captured)
    with mode(candidate, captured.training), warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        program = torch.export.export(candidate, args, kwargs or None, strict=False)
    made = program.module(check_guards=False)
    assert isinstance(made, fx.GraphModule)
    found: list[Scaled] = []
    for new, old in aligned(made.graph, captured.graph_module.graph).items():
        for node, factor in _factors(new, old):
            if abs(factor - 1) > _SAME and factor > 0:
                found.append(Scaled(node, factor))
    return tuple(found)


def _factors(new: fx.Node, old: fx.Node) -> Iterator[tuple[fx.Node, float]]:
    name = op_name(old)[1]
    if name == "scaled_dot_product_attention":
        query = call_of(old).arguments["query"]
        yield query, _attention_scale(old) / _attention_scale(new)
    elif name in ("mul", "div"):
        numbers = [_number(n.args[1]) if len(n.args) > 1 else None for n in (old, new)]
        if None not in numbers and isinstance(old.args[0], fx.Node):
            yield old.args[0], _quotient(numbers[0], numbers[1], inverse=name == "div")
    elif name in ("full", "scalar_tensor", "full_like"):
        at = 0 if name == "scalar_tensor" else 1
        numbers = [_number(n.args[at]) if len(n.args) > at else None for n in (old, new)]
        if None in numbers:
            return
        for user in old.users:
            kind = op_name(user)[1] if user.op == "call_function" else ""
            other = next((a for a in user.args if a is not old and isinstance(a, fx.Node)), None)
            if kind in ("mul", "div") and other is not None:
                inverse = kind == "div" and user.args[1] is old
                yield other, _quotient(numbers[0], numbers[1], inverse=inverse)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, float | int) else None


def _quotient(old: float | None, new: float | None, *, inverse: bool) -> float:
    if not old or not new:
        return 1.0
    return new / old if inverse else old / new


def _attention_scale(node: fx.Node) -> float:
    arguments = call_of(node).arguments
    given = arguments.get("scale")
    if isinstance(given, float | int):
        return float(given)
    dims = dims_of(arguments["query"].meta.get("val"))
    assert dims is not None
    return float(dims[-1] ** -0.5)


def folded(captured: Captured, scaled: tuple[Scaled, ...]) -> dict[str, torch.Tensor] | None:
    """What weights are multiplied with, of their old shapes; None where nothing linear makes them."""
    run = _Fold(captured.weights)
    for one in scaled:
        if not run.into(one.node, one.node, one.factor):
            return None
    return run.multipliers


class _Fold:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.multipliers: dict[str, torch.Tensor] = {}

    def into(self, node: fx.Node, target: fx.Node, factor: float) -> bool:
        """Make `target` larger by changing what `node`, on the way to it, is made of."""
        if self.weights.holds(node):
            return self._weight(node, None, factor)
        if node.op != "call_function":
            return False
        name = op_name(node)[1]
        reads = [a for a in node.all_input_nodes if is_tensor(a) or _gives_several(a)]
        if name in _MOVES:
            return bool(reads) and self.into(reads[0], target, factor)
        if name in _SUMS:
            return bool(reads) and all(self.into(r, target, factor) for r in reads)
        if name in ("mul", "div", "matmul", "bmm", "einsum"):
            known = [r for r in reads if self.weights.holds(r) and name in ("mul", "matmul")]
            if name == "div":
                reads = reads[:1]
            return any(self.into(r, target, factor) for r in [*known, *reads])
        if name in ("linear", "addmm", *_NORMS) or name.startswith("conv"):
            return self._layer(node, name, target, factor)
        return False

    def _layer(self, node: fx.Node, name: str, target: fx.Node, factor: float) -> bool:
        """The rows of a layer that reach the target."""
        arguments = call_of(node).arguments
        weight = arguments.get("mat2" if name == "addmm" else "weight")
        bias = arguments.get("self" if name == "addmm" else "bias")
        dims = dims_of(node.meta.get("val"))
        if not isinstance(weight, fx.Node) or dims is None:
            return False
        channel = 1 if name.startswith(("conv", "batch")) else len(dims) - 1
        rows = _reach(node, target, channel)
        if rows is None:
            return False
        rank = len(dims_of(weight.meta.get("val")) or ())
        axis = 1 if name == "addmm" or name.startswith("conv_transpose") else 0
        if not self._weight(weight, rows, factor, axis=axis, rank=rank):
            return False
        return not isinstance(bias, fx.Node) or self._weight(bias, rows, factor)

    def _weight(
        self,
        node: fx.Node,
        rows: torch.Tensor | None,
        factor: float,
        axis: int = 0,
        rank: int = 1,
    ) -> bool:
        """Multiply entries of a weight, or of the weights that it is concatenated from."""
        if self.weights.holds(node):
            name = self.weights.names[node]
            tensor = self.weights.tensors[name]
            made = self.multipliers.setdefault(name, torch.ones(tensor.shape, dtype=torch.float64))
            if rows is None:
                made *= factor
                return True
            if rows.numel() != tensor.shape[axis] or tensor.ndim != rank:
                return False
            view = [1] * rank
            view[axis] = -1
            made *= torch.where(rows, factor, 1.0).to(made).view(view)
            return True
        parts = node.args[0] if node.op == "call_function" and node.args else None
        if op_name(node)[1] != "cat" or not isinstance(parts, list | tuple) or rows is None:
            return False
        sizes = [(dims_of(p.meta["val"]) or (0,))[axis] for p in parts if isinstance(p, fx.Node)]
        if sum(sizes) != rows.numel() or len(sizes) != len(parts):
            return False
        pieces = torch.split(rows, sizes)
        return all(
            not bool(some.any()) or self._weight(part, some, factor, axis, rank)
            for part, some in zip(parts, pieces, strict=True)
            if isinstance(part, fx.Node)
        )


def _gives_several(node: fx.Node) -> bool:
    """Whether a node gives several tensors."""
    value = node.meta.get("val")
    return isinstance(value, list | tuple) and any(isinstance(v, torch.Tensor) for v in value)


def _reach(source: fx.Node, target: fx.Node, channel: int) -> torch.Tensor | None:
    """Which channels of `source` reach `target`: by gradients, through the nodes between them.

    Everything else that these nodes read is replaced by random numbers of its shape.
    """
    between = _between(source, target)
    values: dict[fx.Node, Any] = {source: _stand_in(source).requires_grad_()}
    generator = torch.Generator().manual_seed(0)

    def value(node: fx.Node) -> Any:
        if node not in values:
            values[node] = _stand_in(node, generator)
        return values[node]

    with torch.enable_grad():
        for node in between:
            args: Any = fx.node.map_arg(node.args, value)
            kwargs: Any = fx.node.map_arg(node.kwargs, value)
            if node.target is operator.getitem:
                values[node] = args[0][args[1]]
            else:
                call: Any = node.target
                values[node] = call(*args, **kwargs)
        result = values[target]
        if result is values[source]:
            dims = dims_of(source.meta["val"]) or ()
            return torch.ones(dims[channel], dtype=torch.bool)
        if not result.requires_grad:
            return None
        weights = torch.rand(result.shape, generator=generator, dtype=result.dtype) + 0.5
        (gradient,) = torch.autograd.grad((result * weights).sum(), values[source])
    others = [a for a in range(gradient.ndim) if a != channel]
    size: torch.Tensor = gradient.abs()
    return (size.amax(others) if others else size) > 0


def _between(source: fx.Node, target: fx.Node) -> list[fx.Node]:
    """Nodes on ways from `source` to `target`, in order."""
    below: set[fx.Node] = {source}
    for node in source.graph.nodes:
        if any(a in below for a in node.all_input_nodes):
            below.add(node)
    above: set[fx.Node] = {target}
    for node in reversed(list(source.graph.nodes)):
        if any(u in above for u in node.users):
            above.add(node)
    return [n for n in source.graph.nodes if n in below and n in above and n is not source]


def _stand_in(node: fx.Node, generator: torch.Generator | None = None) -> Any:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        hint = getattr(getattr(value, "node", None), "hint", value)
        return hint
    dims = dims_of(value) or ()
    if value.is_floating_point():
        return torch.rand(dims, generator=generator, dtype=value.dtype) + 0.5
    return torch.zeros(dims, dtype=value.dtype)
