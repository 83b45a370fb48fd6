"""Sparse initializers and constants made dense.

onnx_ir drops `sparse_initializer` without a word, and onnxruntime makes them dense when it loads
them: nothing is lost by doing it here, on the protobuf, before anything else.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from graphprune.errors import UnsupportedModelError


def densify(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`proto` with every sparse tensor dense; the same object when it has none.

    Raises UnsupportedModelError for sparse tensors whose parts do not fit.
    """
    if not any(_sparse_parts(proto)):
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    for graph in _all_graphs(result):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attr in node.attribute:
                if attr.HasField("sparse_tensor"):
                    dense = _dense(attr.sparse_tensor)
                    attr.ClearField("sparse_tensor")
                    attr.name, attr.type = "value", onnx.AttributeProto.TENSOR
                    attr.t.CopyFrom(dense)
    return result


def _sparse_parts(proto: onnx.ModelProto) -> Iterator[bool]:
    for graph in _all_graphs(proto):
        yield bool(graph.sparse_initializer)
        yield any(a.HasField("sparse_tensor") for n in graph.node for a in n.attribute)


def _all_graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    stack = [proto.graph]
    while stack:
        graph = stack.pop()
        yield graph
        for node in graph.node:
            for attr in node.attribute:
                stack.extend([attr.g] if attr.HasField("g") else attr.graphs)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """COO to dense. Indices are linear, `[count]`, or coordinates, `[count, rank]`."""
    name, dims = sparse.values.name, tuple(sparse.dims)
    try:
        values = numpy_helper.to_array(sparse.values)
        indices = numpy_helper.to_array(sparse.indices)
        array = np.zeros(dims, dtype=values.dtype)
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), dims)
        array.reshape(-1)[indices] = values
    except (ValueError, IndexError, TypeError, MemoryError) as error:
        raise UnsupportedModelError(
            f"sparse tensor '{name}' is damaged: {' '.join(str(error).split())}"
        ) from error
    return numpy_helper.from_array(array, name)
