"""One forward sweep over a graph: dims, element types and contents of every value."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from graphprune.onnx.bindings import bound_dim, dim_names
from graphprune.onnx.checks import label
from graphprune.onnx.node_types import NodeTypes
from graphprune.onnx.operands import Array, constant_of
from graphprune.onnx.shape_rules import Dims, NodeInputs, Typed, Unknown
from graphprune.onnx.shape_values import LIMIT, evaluate

_INDEX_LIMIT = 1 << 20  # integer initializers up to here count as known: index tables
_COUNTED_LIMIT = 1 << 16  # computed integers up to here do: as_strided counts batch x channels
_PLACEHOLDERS = (7, 11, 13, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


Structured = Callable[["Sweep", ir.Node], None]
STRUCTURED: dict[str, Structured] = {}
"""Ops that hold graphs or sequences, by op type (`graphprune.onnx.structured`)."""


def structured(*ops: str) -> Callable[[Structured], Structured]:
    """Register how the sweep passes through some ops of the default domain."""

    def register(function: Structured) -> Structured:
        for op in ops:
            STRUCTURED[op] = function
        return function

    return register


class Sweep:
    """The state of one forward sweep; nodes must come in topological order.

    `tensor` records a constant, `node` the outputs of one node, `graph` a whole graph. What is
    recorded: see `graphprune.onnx.shapes.Shapes`.

    Args:
        opsets: Domain -> version of the model.
        binding: Sizes of dynamic dimensions, for values whose shape only the file tells.
    """

    def __init__(self, opsets: Mapping[str, int], binding: Mapping[str, int]) -> None:
        self.binding = binding
        self.dims: dict[ir.Value, Dims] = {}
        self.dtypes: dict[ir.Value, ir.DataType] = {}
        self.values: dict[ir.Value, Array] = {}
        self.unknown: dict[ir.Value, str] = {}
        self.placeholders: dict[str, int] = {}
        self.sequences: dict[ir.Value, tuple[Typed, ...]] = {}
        self._types = NodeTypes(opsets)
        self._fresh = itertools.count()

    def graph(self, graph: ir.Graph) -> None:
        """Sweep a graph whose inputs are recorded already."""
        for value in graph.initializers.values():
            if value.const_value is not None:
                self.tensor(value, value.const_value)
        for node in graph:
            self.node(node)

    def tensor(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """Record an initializer or constant: always its type, its contents where they are few."""
        self.dims[value] = tuple(int(d) for d in tensor.shape.numpy())
        self.dtypes[value] = tensor.dtype
        if tensor.dtype == ir.DataType.STRING:
            return
        floating = tensor.dtype.is_floating_point()
        if tensor.size <= (LIMIT if floating else _INDEX_LIMIT):
            self.values[value] = np.asarray(tensor.numpy())

    def node(self, node: ir.Node) -> None:
        """Record the outputs of a node whose inputs are recorded already."""
        if node.domain in ("", "ai.onnx"):
            if node.op_type in STRUCTURED:
                STRUCTURED[node.op_type](self, node)
                return
            if node.op_type == "Constant":
                self._constant(node)
                return
        inputs = node.inputs
        contents = [None if v is None else self.values.get(v) for v in inputs]
        dims = [None if v is None else self.dims.get(v) for v in inputs]
        reasons = (self.unknown.get(v) for v in inputs if v is not None)
        reason = next((r for r in reasons if r is not None), None)
        whole = all(c is None or c.dtype.kind in "iub" for c in contents)
        arrays = evaluate(node, contents, dims, _COUNTED_LIMIT if whole else LIMIT)
        if arrays is not None:
            for output, array in zip(node.outputs, arrays, strict=False):
                self.values[output] = array
                self.put(output, (ir.DataType.from_numpy(array.dtype), array.shape), reason)
            return
        dtypes = [None if v is None else self.dtypes.get(v) for v in inputs]
        try:
            typed = self._types.infer(NodeInputs(node, dims, dtypes, contents))
            failure = reason
        except Unknown as error:
            typed = []
            failure = reason or f"{describe(node)}: {error}"
        for index, output in enumerate(node.outputs):
            self.put(output, typed[index] if index < len(typed) else None, failure)

    def _constant(self, node: ir.Node) -> None:
        output = node.outputs[0]
        if "value" in node.attributes:
            self.tensor(output, node.attributes["value"].value)
            return
        array = constant_of(node)
        if array is None:  # strings, or a sparse tensor
            self.put(output, None, f"{describe(node)}: holds no dense numbers")
            return
        self.values[output] = array
        self.put(output, (ir.DataType.from_numpy(array.dtype), array.shape), None)

    def put(self, value: ir.Value, typed: Typed | None, reason: str | None) -> None:
        """Record dims, from `typed` or else from what stands in the file."""
        if typed is None and not isinstance(value.type, ir.TensorType | None):
            self.unknown[value] = reason or f"{describe(value.producer())}: no tensor"
            return
        dtype, dims = typed if typed is not None else (value.dtype, None)
        if dims is not None:
            open_axes = [axis for axis, size in enumerate(dims) if size < 0]
            if open_axes:
                dims = self._fill(value, dims)
                reason = reason or f"{describe(value.producer())}: a size depends on data"
        elif value.name:
            dims = self._from_file(value)
            reason = reason or f"{describe(value.producer())}: no shape inference for this op"
        if dims is not None:
            self.dims[value] = dims
        if dtype is not None:
            self.dtypes[value] = dtype
        if reason is not None and value.name:
            self.unknown[value] = reason

    def _fill(self, value: ir.Value, dims: Dims) -> Dims:
        names: tuple[int | str | None, ...] | None = dim_names(value)
        if names is None or len(names) != len(dims):
            names = (None,) * len(dims)
        return tuple(
            size if size >= 0 else self._size(name, f"{value.name}:{axis}")
            for axis, (size, name) in enumerate(zip(dims, names, strict=True))
        )

    def _from_file(self, value: ir.Value) -> Dims | None:
        names = dim_names(value)
        if names is None:
            return None
        return tuple(self._size(n, f"{value.name}:{axis}") for axis, n in enumerate(names))

    def _size(self, name: int | str | None, fallback: str) -> int:
        """A size from the file, from the binding, or a placeholder (one for each name)."""
        if isinstance(name, int):
            return name
        bound = None if name is None else bound_dim(name, self.binding)
        return self.placeholder(name or fallback) if bound is None else bound

    def placeholder(self, name: str) -> int:
        """A size that stands for one that depends on data, the same for the same name."""
        if name not in self.placeholders:
            self.placeholders[name] = _PLACEHOLDERS[next(self._fresh) % len(_PLACEHOLDERS)]
        return self.placeholders[name]


def describe(node: ir.Node | None) -> str:
    """A node in a reason: `Conv 'stem/conv'`."""
    return "a graph input" if node is None else f"{node.op_type} '{label(node)}'"
