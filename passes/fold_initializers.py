"""Fold everything that is computed from initializers and constants alone.

Exporters put weights behind Constant, Identity, Transpose, Cast, Slice, Concat, Reshape, ... nodes
(LSTM gates reordered, tied embeddings transposed, weights in Constant nodes). After this pass every
weight is an initializer, under the name of the value that the graph's layers read:

1. a node whose inputs are all initializers is evaluated, its outputs become initializers;
2. an Identity gives way to what it repeats, and nodes that compute the same share one result;
3. small results are stored, large ones (over 1 MB) are computed when they are read, so that no
   second copy of the weights stands in memory;
4. initializers that nothing reads any more are dropped.

Not folded: QuantizeLinear / DequantizeLinear (the pair carries meaning), random ops, control flow,
sequences and strings, ops of other domains, outputs of the graph, initializers that are inputs of
the graph too (a caller may replace them), results that are much larger than what they are made of
(an Expand of a scalar), and rearrangements of a weight that something else reads as it is (an
embedding table that is the head too, transposed): the file would hold it twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.onnx.operands import op_names
from graphprune.onnx.shape_values import evaluate
from graphprune.onnx.sweep import Sweep

__all__ = ["FoldInitializersPass"]

_NOT_FOLDED = op_names(
    "Bernoulli DequantizeLinear Dropout DynamicQuantizeLinear If Loop Multinomial "
    "QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Scan"
)
_LAZY_BYTES = 1 << 20
_COPY_BYTES = 1 << 10
_NO_LIMIT = 1 << 62

Array = np.ndarray[Any, Any]
Key = tuple[str, int, tuple[int | None, ...], bytes, int]


class FoldInitializersPass(ir.passes.InPlacePass):
    """Fold nodes computed from initializers alone; see the module's text for the cases.

    Args:
        max_growth: A result over 1 MB may be at most this many times larger than its inputs.
        leave: Names of values whose nodes stay: those of a graph that this one is compared with.
    """

    def __init__(self, max_growth: float = 4.0, leave: Collection[str] = ()) -> None:
        self.max_growth = max_growth
        self.leave = leave

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in the top graph and all nested ones."""
        sweep = Sweep(model.opset_imports, {})
        for graph in [model.graph, *model.graph.subgraphs()]:
            for value in graph.initializers.values():
                if value.const_value is not None:
                    sweep.tensor(value, value.const_value)
        nodes = [
            node
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if not any(output.name in self.leave for output in node.outputs)
        ]
        candidates = _candidates(nodes)
        done: dict[Key, list[ir.Value]] = {}
        modified = False
        for node in nodes:
            opset = model.opset_imports.get("", 0)
            if node in candidates and self._fold(node, sweep, opset, candidates, done):
                modified = True
            else:
                candidates.discard(node)
        for graph in [model.graph, *model.graph.subgraphs()]:
            modified = _drop_unused(graph) or modified
        return ir.passes.PassResult(model, modified)

    def _fold(
        self,
        node: ir.Node,
        sweep: Sweep,
        opset: int,
        candidates: set[ir.Node],
        done: dict[Key, list[ir.Value]],
    ) -> bool:
        if not all(v is None or _is_constant(v) for v in node.inputs):
            return False
        tensors = [None if v is None else v.const_value for v in node.inputs]
        if node.op_type == "Constant" and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            _replace(node, [_renamed(tensor, node.outputs[0].name or "")], sweep)
            return True
        if node.op_type == "Identity" and node.inputs[0] is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            _remove(node)
            return True
        key = _key(node)
        if key in done:
            for output, value in zip(node.outputs, done[key], strict=True):
                ir.convenience.replace_all_uses_with(output, value)
            _remove(node)
            return True
        sweep.node(node)
        if _copies(node, sweep, candidates):
            return False
        results = self._results(node, tensors, sweep, node.version or opset)
        if results is None:
            return False
        done[key] = _replace(node, results, sweep)
        return True

    def _results(
        self,
        node: ir.Node,
        tensors: Sequence[ir.TensorProtocol | None],
        sweep: Sweep,
        opset: int,
    ) -> list[ir.TensorProtocol | None] | None:
        """One tensor per output that is read; None where the node must stay."""
        bare = ir.Node(
            node.domain,
            node.op_type,
            [None] * len(node.inputs),
            attributes=list(node.attributes.values()),
            num_outputs=len(node.outputs),
            version=opset,
        )
        given = sum(t.nbytes for t in tensors if t is not None)
        results: list[ir.TensorProtocol | None] = []
        for index, output in enumerate(node.outputs):
            dims, dtype = sweep.dims.get(output), sweep.dtypes.get(output)
            if not output.name:
                results.append(None)
                continue
            if dims is None or dtype is None or output in sweep.unknown:
                return None
            nbytes = math.prod(dims) * dtype.itemsize
            if nbytes > _LAZY_BYTES and nbytes > self.max_growth * given:
                return None
            lazy = _lazy(bare, tensors, index, dtype, dims, output.name)
            if nbytes > _LAZY_BYTES:
                results.append(lazy)
                continue
            try:
                results.append(ir.tensor(lazy.numpy(), dtype=dtype, name=output.name))
            except Exception:  # an op the reference implementation lacks stays a node
                return None
        return results


def _candidates(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Nodes that may be folded, going by what they are and what they are computed from."""
    found: set[ir.Node] = set()
    for node in nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_FOLDED or node.graph is None:
            continue
        if "Sequence" in node.op_type or (not node.inputs and node.op_type != "Constant"):
            continue
        if any(output.is_graph_output() for output in node.outputs):
            continue
        if all(v is None or _is_constant(v) or v.producer() in found for v in node.inputs):
            found.add(node)
    return found


def _is_constant(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return False
    return value.is_initializer() and not value.is_graph_input()


def _copies(node: ir.Node, sweep: Sweep, candidates: set[ir.Node]) -> bool:
    """Whether the result would stand beside a weight that has to stay, because others read it."""
    size = 0
    for output in node.outputs:
        dims, dtype = sweep.dims.get(output), sweep.dtypes.get(output)
        size += math.prod(dims) * int(dtype.itemsize) if dims is not None and dtype else 0
    if size <= _COPY_BYTES:
        return False
    return any(
        value.is_graph_output() or any(use.node not in candidates for use in value.uses())
        for value in node.inputs
        if value is not None and value.const_value is not None
        if value.const_value.nbytes > _COPY_BYTES
    )


def _key(node: ir.Node) -> Key:
    """What a node computes: equal keys, equal results."""
    attributes = sorted(
        ir.serde.serialize_attribute(a).SerializeToString(deterministic=True)
        for a in node.attributes.values()
    )
    inputs = tuple(None if v is None else id(v) for v in node.inputs)
    return node.op_type, id(node.graph), inputs, b"".join(attributes), len(node.outputs)


def _lazy(
    node: ir.Node,
    tensors: Sequence[ir.TensorProtocol | None],
    index: int,
    dtype: ir.DataType,
    dims: Sequence[int],
    name: str,
) -> ir.LazyTensor:
    def compute() -> ir.TensorProtocol:
        arrays = [None if t is None else np.asarray(t.numpy()) for t in tensors]
        return ir.tensor(_run(node, arrays)[index], dtype=dtype, name=name)

    return ir.LazyTensor(compute, dtype, ir.Shape(dims), name=name)


def _run(node: ir.Node, arrays: Sequence[Array | None]) -> Sequence[Array]:
    """The node's outputs on constants: by our own table, else by onnx's reference evaluator."""
    result = evaluate(node, arrays, [None if a is None else a.shape for a in arrays], _NO_LIMIT)
    if result is not None:
        return result
    from onnx.reference import ReferenceEvaluator

    names = ["" if a is None else f"i{i}" for i, a in enumerate(arrays)]
    proto = onnx.NodeProto(
        op_type=node.op_type, input=names, output=[f"o{i}" for i in range(len(node.outputs))]
    )
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    graph = onnx.helper.make_graph(
        [proto],
        "folded",
        [_info(n, a) for n, a in zip(names, arrays, strict=True) if a is not None],
        [onnx.ValueInfoProto(name=o) for o in proto.output],
    )
    opsets = [onnx.helper.make_opsetid("", node.version or onnx.defs.onnx_opset_version())]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    outputs = ReferenceEvaluator(model).run(None, feeds)
    return [np.asarray(a) for a in outputs]


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    dtype = int(ir.DataType.from_numpy(array.dtype))
    return onnx.helper.make_tensor_value_info(name, dtype, array.shape)


def _renamed(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The same contents under another name: the tensor itself may be the caller's."""
    if tensor.dtype == ir.DataType.STRING:
        return tensor
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=name)


def _replace(
    node: ir.Node, results: Sequence[ir.TensorProtocol | None], sweep: Sweep
) -> list[ir.Value]:
    """Put initializers in the place of the node's outputs, under the same names."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    values = []
    for output, tensor in zip(node.outputs, results, strict=True):
        if tensor is None:
            values.append(output)
            continue
        value = ir.Value(
            name=output.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
            metadata_props=dict(output.metadata_props),
        )
        sweep.tensor(value, tensor)
        ir.convenience.replace_all_uses_with(output, value)
        graph.register_initializer(value)
        values.append(value)
    _remove(node)
    return values


def _remove(node: ir.Node) -> None:
    graph = node.graph
    assert graph is not None
    graph.remove(node, safe=True)


def _drop_unused(graph: ir.Graph) -> bool:
    dropped = False
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_input() and not value.is_graph_output():
            del graph.initializers[name]
            dropped = True
    return dropped
