"""Constants that stand for tensors which no longer depend on the model's input.

Where nothing is left of what a layer sums over, its result is its bias, at every place and for
every input. It is held as a small constant that broadcasts to it, for as long as that will do;
where an op needs the whole tensor, the constant is expanded to a shape that is written out,
entries that depend on a dynamic dimension being read from an input of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.cut import pruned_shape
from graphprune.onnx.names import FreshNames
from graphprune.onnx.shapes import Shapes
from graphprune.plan import Plan
from graphprune.rules.context import node_name

Dims = tuple[int, ...]
Places = tuple[Dims, ...]
"""Dims of one tensor at each binding."""


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor that is constant.

    Attributes:
        value: A constant that broadcasts to it.
        shape: Its dims.
        dims: Dims of the tensor, at each binding.
        zero: It is certainly zero everywhere.
        roots: The emptied tensors that made it constant, the nearest to the input first.
    """

    value: ir.Value
    shape: Dims
    dims: Places
    zero: bool
    roots: tuple[str, ...]


class StandIns:
    """Makes constants, and the nodes that compute with them, in the top graph of `model`.

    Args:
        model: What is changed; its values have the names of the original's.
        plan: What shortened it.
        shapes: Sizes of the original, at each binding.
    """

    def __init__(self, model: ir.Model, plan: Plan, shapes: Sequence[Shapes]) -> None:
        self.graph = model.graph
        self._names = FreshNames(model)
        self._dims: dict[str, Places] = {}
        self._dtypes = {v.name: t for v, t in shapes[0].dtypes.items()}
        for value in shapes[0].dims:
            name = value.name or ""
            if name and all(value in s.dims and value not in s.unknown for s in shapes):
                cuts = plan.tensors.get(name, ())
                self._dims[name] = tuple(pruned_shape(s.dims[value], cuts) for s in shapes)
        self._count = len(shapes)
        self._open: list[tuple[ir.Value, int, Dims]] = []
        for value in model.graph.inputs:
            dims = self._dims.get(value.name or "")
            if dims is None or value.is_initializer():
                continue
            for axis, sizes in enumerate(zip(*dims, strict=True)):
                if len(set(sizes)) > 1:
                    self._open.append((value, axis, sizes))

    def dims(self, value: ir.Value) -> Places | None:
        """Dims at each binding; None where they are not known."""
        if value.is_initializer() and value.const_value is not None:
            return (tuple(int(d) for d in value.const_value.shape.numpy()),) * self._count
        return self._dims.get(value.name or "")

    # -- making -----------------------------------------------------------------------------------

    def zeros(self, output: ir.Value, dims: Places, roots: tuple[str, ...]) -> Held:
        """A stand-in for an all-zero tensor."""
        shape = (1,) * len(dims[0])
        dtype = self._dtypes.get(output.name) or output.dtype or ir.DataType.FLOAT
        value = self.constant(output.name or "", ir.Tensor(np.zeros(shape, dtype.numpy())))
        return Held(value, shape, dims, True, roots)

    def constant(self, near: str, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer."""
        value = ir.Value(
            name=self._names.near(f"{near}_kept"),
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def scalar(self, before: ir.Node, number: float, like: ir.Value) -> ir.Value:
        """An initializer that holds one number, of the type of another."""
        tensor = like.const_value
        assert tensor is not None
        array = np.array(number, tensor.dtype.numpy())
        return self.constant(node_name(before), ir.Tensor(array))

    def ints(self, before: ir.Node, numbers: Sequence[int]) -> ir.Value:
        """An initializer of int64."""
        return self.constant(node_name(before), ir.Tensor(np.array(numbers, np.int64)))

    def op(
        self, before: ir.Node, op_type: str, *inputs: ir.Value | None, **attributes: Any
    ) -> ir.Value:
        """A new node in front of `before`; its only output."""
        return self.insert(before, ir.node(op_type, list(inputs), attributes))

    def insert(self, before: ir.Node, node: ir.Node) -> ir.Value:
        """Name a new node and put it in front of `before`; its first output."""
        node.name = self._names.near(f"{node_name(before)}_{node.op_type.lower()}_kept")
        for output in node.outputs:
            output.name = self._names.near(node.name)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def view(self, before: ir.Node, held: Held, shape: Sequence[int]) -> Held:
        """The same stand-in, its constant reshaped (one entry may be -1) or repeated to `shape`."""
        size = int(np.prod(held.shape))
        known = int(np.prod([n for n in shape if n >= 0]))
        shape = tuple(size // known if n < 0 else int(n) for n in shape)
        if shape == held.shape:
            return held
        op = "Reshape" if int(np.prod(shape)) == size else "Expand"
        value = self.op(before, op, held.value, self.ints(before, shape))
        return replace(held, value=value, shape=shape)

    def full(self, before: ir.Node, held: Held) -> ir.Value | None:
        """The whole tensor; None where its shape depends on more than the inputs' dims."""
        if all(dims == held.shape for dims in held.dims):
            return held.value
        target = self.sized(before, held.dims)
        return None if target is None else self.op(before, "Expand", held.value, target)

    def sized(self, before: ir.Node, dims: Places) -> ir.Value | None:
        """A vector that holds `dims` at every binding; None where that cannot be written."""
        if len(set(dims)) == 1:
            return self.ints(before, dims[0])
        pieces: list[ir.Value] = []
        for sizes in zip(*dims, strict=True):
            if len(set(sizes)) == 1:
                pieces.append(self.ints(before, sizes[:1]))
                continue
            found = self._multiple(before, sizes)
            if found is None:
                return None
            pieces.append(found)
        return pieces[0] if len(pieces) == 1 else self.op(before, "Concat", *pieces, axis=0)

    def _multiple(self, before: ir.Node, sizes: Dims) -> ir.Value | None:
        """A size that is a fixed multiple of a dynamic dim of an input."""
        for value, axis, own in self._open:
            factors = {divmod(size, part) for size, part in zip(sizes, own, strict=True)}
            if len(factors) != 1 or next(iter(factors))[1]:
                continue
            factor = next(iter(factors))[0]
            shape = self.op(before, "Shape", value)
            size = self.op(before, "Gather", shape, self.ints(before, [axis]), axis=0)
            if factor == 1:
                return size
            return self.op(before, "Mul", size, self.ints(before, [factor]))
        return None


def broadcast(shapes: Sequence[Dims]) -> Dims | None:
    """The shape that numpy broadcasts `shapes` to; None where they do not fit."""
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*shapes))
    except ValueError:
        return None
