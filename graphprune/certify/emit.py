"""Adding nodes to the masked twin: fresh names, shared constants, the spelling of the opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.graphs import all_graphs, all_nodes
from graphprune.errors import UnsupportedModelError

PREFIX = "graphprune_twin_"
_OLDEST_OPSET = 11


class Emitter:
    """Creates nodes in a model that is being turned into a twin; `place_*` says where they go."""

    def __init__(self, model: ir.Model) -> None:
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        if self.opset and self.opset < _OLDEST_OPSET:
            raise UnsupportedModelError(
                f"the certificate needs opset {_OLDEST_OPSET} or newer, the model has "
                f"{self.opset}: convert it with onnx.version_converter"
            )
        self.model = model
        self._graph = model.graph
        self._anchor: ir.Node | None = None
        self._after = True
        self._taken = {
            v.name for g in all_graphs(model.graph) for v in (*g.inputs, *g.initializers.values())
        }
        self._taken |= {v.name for n in all_nodes(model.graph) for v in n.outputs}
        self._count = 0
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def place_after(self, value: ir.Value) -> None:
        """Put nodes right behind what defines `value`: its node, or the start of a body."""
        producer, graph = value.producer(), value.graph
        assert graph is not None
        self._graph, self._after, self._anchor = graph, True, producer
        if producer is None and len(graph):
            self._after, self._anchor = False, graph[0]

    def place_before(self, node: ir.Node) -> None:
        """Put nodes right before `node`."""
        assert isinstance(node.graph, ir.Graph)
        self._graph, self._after, self._anchor = node.graph, False, node

    def fresh(self, hint: str) -> str:
        """A name that no value of the model has."""
        while True:
            name = f"{PREFIX}{self._count}_{hint}"
            self._count += 1
            if name not in self._taken:
                return name

    def constant(self, array: np.ndarray[Any, Any], dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer of the main graph (bodies see it too); equal small ones are shared."""
        array = np.asarray(array)
        tensor = ir.Tensor(array, dtype=dtype)
        key = (str(tensor.dtype), array.shape, array.tobytes()) if array.size <= 4096 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        value = self.initializer("c", tensor)
        if key is not None:
            self._constants[key] = value
        return value

    def initializer(self, hint: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Register `tensor` under a fresh name."""
        value = ir.Value(
            name=self.fresh(hint),
            shape=ir.Shape(tuple(int(d) for d in tensor.shape.numpy())),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.model.graph.register_initializer(value)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        """A vector of int64."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node of the standard domain with one output, placed at `at`."""
        node = ir.node(op_type, list(inputs), attributes, num_outputs=1)
        output = node.outputs[0]
        output.name = self.fresh(op_type)
        node.name = output.name
        if self._anchor is None:
            self._graph.append(node)
            self._after, self._anchor = True, node
        elif self._after:
            self._graph.insert_after(self._anchor, node)
            self._anchor = node
        else:
            self._graph.insert_before(self._anchor, node)
        return output

    def mean(self, x: ir.Value, axes: Sequence[int], keepdims: bool = True) -> ir.Value:
        """ReduceMean over `axes`."""
        if self.opset >= 18:
            return self.op("ReduceMean", x, self.ints(*axes), keepdims=int(keepdims))
        return self.op("ReduceMean", x, axes=list(axes), keepdims=int(keepdims))
