"""Graphs that grow: any number of ops at any width; weights have sizes and no contents."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def ladder(ops: int, width: int) -> ir.Model:
    """A graph of about `ops` nodes whose tensors are all `width` wide.

    Blocks of a transformer and of a CNN by turns: attention by heads of 64 over a normalised trunk,
    a gated MLP (Split), a channel shuffle, a dense Concat, additions across.
    """
    model = _Sketch(width)
    x = model.node("Relu", [model.linear(model.input)])
    while len(model.nodes) < ops:
        for block in (_attention, _gated, _shuffle, _dense):
            if len(model.nodes) < ops:
                x = block(model, x)
    return model.finish(model.linear(x, 16))


class _Sketch:
    def __init__(self, width: int) -> None:
        self.width = width
        self.input = ir.Value(
            name="x", shape=ir.Shape(["rows", width]), type=ir.TensorType(ir.DataType.FLOAT)
        )
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []

    def node(self, op: str, inputs: list[ir.Value], outputs: int = 1, **attributes: Any) -> Any:
        node = ir.node(op, inputs, attributes, num_outputs=outputs, name=f"{op}_{len(self.nodes)}")
        for k, value in enumerate(node.outputs):
            value.name = f"{node.name}_{k}"
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else node.outputs

    def weight(self, *shape: int) -> ir.Value:
        """An initializer that must not be read, unless it is a short vector."""

        def read() -> ir.Tensor:
            assert np.prod(shape) <= 4096, "the analysis read a weight"
            return ir.tensor(np.ones(shape, np.float32))

        name = f"w{len(self.weights)}"
        tensor = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)
        return self._initializer(tensor)

    def ints(self, *numbers: int) -> ir.Value:
        tensor = ir.tensor(np.array(numbers, np.int64), name=f"w{len(self.weights)}")
        return self._initializer(tensor)

    def _initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        kind = ir.TensorType(tensor.dtype)
        shape = ir.Shape(tensor.shape.numpy())
        self.weights.append(ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor))
        return self.weights[-1]

    def linear(self, x: ir.Value, width: int | None = None, source: int | None = None) -> Any:
        width = width or self.width
        product = self.node("MatMul", [x, self.weight(source or self.width, width)])
        return self.node("Add", [product, self.weight(width)])

    def finish(self, output: ir.Value) -> ir.Model:
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", 16])
        graph = ir.Graph(
            [self.input], [output], nodes=self.nodes, initializers=self.weights,
            opset_imports={"": 18}, name="ladder",
        )  # fmt: skip
        return ir.Model(graph, ir_version=10)


def _attention(m: _Sketch, x: ir.Value) -> Any:
    normal = m.node("LayerNormalization", [x, m.weight(m.width), m.weight(m.width)])
    split = m.ints(-1, m.width // 64, 64)
    q, k, v = (
        m.node("Transpose", [m.node("Reshape", [m.linear(normal), split])], perm=[1, 0, 2])
        for _ in range(3)
    )
    scores = m.node("Softmax", [m.node("MatMul", [q, m.node("Transpose", [k], perm=[0, 2, 1])])])
    mixed = m.node("Transpose", [m.node("MatMul", [scores, v])], perm=[1, 0, 2])
    return m.node("Add", [x, m.linear(m.node("Reshape", [mixed, m.ints(-1, m.width)]))])


def _gated(m: _Sketch, x: ir.Value) -> Any:
    gate, value = m.node("Split", [m.linear(x)], outputs=2, axis=-1, num_outputs=2)
    product = m.node("Mul", [m.node("Sigmoid", [gate]), value])
    return m.node("Add", [x, m.linear(product, source=m.width // 2)])


def _shuffle(m: _Sketch, x: ir.Value) -> Any:
    pairs = m.node("Reshape", [m.node("Relu", [m.linear(x)]), m.ints(-1, 2, m.width // 2)])
    swapped = m.node("Reshape", [m.node("Transpose", [pairs], perm=[0, 2, 1]), m.ints(-1, m.width)])
    return m.node("Relu", [m.linear(swapped)])


def _dense(m: _Sketch, x: ir.Value) -> Any:
    parts = [x]
    for _ in range(3):
        joined = parts[0] if len(parts) == 1 else m.node("Concat", parts, axis=-1)
        source = m.width + (len(parts) - 1) * (m.width // 8)
        parts.append(m.node("Relu", [m.linear(joined, m.width // 8, source)]))
    joined = m.node("Concat", parts, axis=-1)
    return m.linear(joined, source=m.width + 3 * (m.width // 8))
