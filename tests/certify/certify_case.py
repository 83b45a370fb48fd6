"""Hand-written triples (original, pruned, plan) and the ways in which each pruned graph is broken.

The pruned graphs are written down and sliced by hand; no code that prunes takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from graphprune.cut import Cut
from graphprune.plan import InitializerCut, Plan

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Mutation:
    """One way to break a pruned graph.

    Attributes:
        name: For the test's id.
        apply: Changes the pruned model in place.
        nodes: Any of these may be named as the first that differs.
        structural: The structural check alone must find it.
        numeric: The numeric check alone must find it.
    """

    name: str
    apply: Callable[[ir.Model], None]
    nodes: tuple[str, ...]
    structural: bool = True
    numeric: bool = True


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    original: ir.Model
    pruned: ir.Model
    plan: Plan
    mutations: tuple[Mutation, ...] = ()
    status: str = "exact"


def build(text: str, weights: dict[str, Array]) -> ir.Model:
    """A model from ONNX text whose declared initializers get these contents."""
    proto = onnx.parser.parse_model(text)
    declared = {v.name for v in proto.graph.value_info}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for n, a in weights.items() if n in declared
    )
    return ir.from_proto(proto)


def cut(axis: int, size: int, kept: Sequence[object], **rest: object) -> Cut:
    return Cut(axis, size, np.array(kept, dtype=np.int64), **rest)  # type: ignore[arg-type]


def plan(
    tensors: dict[str, Sequence[Cut]],
    uses: Sequence[tuple[str, str, int, Sequence[Cut]]],
    statistics: dict[str, tuple[int, ...]] | None = None,
    binding: dict[str, int] | None = None,
) -> Plan:
    return Plan(
        source_sha256="",
        groups=(),
        tensors={name: tuple(cuts) for name, cuts in tensors.items()},
        initializers=tuple(InitializerCut(n, node, i, tuple(c)) for n, node, i, c in uses),
        statistics_nodes=statistics or {},
        binding=binding or {},
    )


class Weights:
    """Random weights that keep signals near 1."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *dims: int, fan: int | None = None) -> Array:
        fan = fan or (int(np.prod(dims[1:])) if len(dims) > 1 else 4)
        return (self._generator.standard_normal(dims) * fan**-0.5).astype(np.float32)

    def positive(self, *dims: int) -> Array:
        return self._generator.uniform(0.5, 1.5, dims).astype(np.float32)


# --- breaking things ------------------------------------------------------------------------------


def find(model: ir.Model, key: str) -> ir.Node:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.name == key or any(v.name == key for v in node.outputs):
            return node
    raise KeyError(key)


def weight(name: str, change: Callable[[Array], Array]) -> Callable[[ir.Model], None]:
    """Replace an initializer's contents."""

    def apply(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        array = change(np.array(value.const_value.numpy()))
        value.const_value = ir.tensor(np.ascontiguousarray(array), name=name)
        value.shape = ir.Shape(array.shape)

    return apply


def swapped(axis: int, i: int, j: int) -> Callable[[Array], Array]:
    """Exchange two indices along an axis."""

    def change(array: Array) -> Array:
        order = np.arange(array.shape[axis])
        order[[i, j]] = order[[j, i]]
        return np.take(array, order, axis=axis)

    return change


def attribute(key: str, name: str, value: object) -> Callable[[ir.Model], None]:
    def apply(model: ir.Model) -> None:
        find(model, key).attributes[name] = ir.convenience.convert_attribute(name, value)

    return apply


def rewire(key: str, index: int, to: str) -> Callable[[ir.Model], None]:
    """Let an input read another value."""

    def apply(model: ir.Model) -> None:
        node = find(model, key)
        values = dict(model.graph.initializers.items())
        for other in ir.traversal.RecursiveGraphIterator(model.graph):
            values.update({v.name: v for v in other.outputs})
        values.update({v.name: v for v in model.graph.inputs})
        node.replace_input_with(index, values[to])

    return apply
