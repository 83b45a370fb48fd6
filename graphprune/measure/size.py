"""How large a model is: parameters and serialised bytes, without reading one weight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

# int64 and bool tensors are shapes, indices and masks; a quantised weight is at most 32 bits wide.
NOT_WEIGHTS = {
    ir.DataType.INT64,
    ir.DataType.UINT64,
    ir.DataType.BOOL,
    ir.DataType.STRING,
    ir.DataType.UNDEFINED,
}


def count_parameters(model: ir.Model) -> int:
    """Elements of all weights: initializers and Constant nodes, subgraphs and functions included.

    Each initializer counts once, however many nodes read it. int64 and bool tensors hold shapes,
    indices and masks and do not count; a quantised weight (int8, uint4, ...) does.
    """
    return sum(tensor.size for tensor in _tensors(model) if tensor.dtype not in NOT_WEIGHTS)


def model_bytes(model: ir.Model) -> int:
    """Bytes of the model as one file or, above the format's 2 GB, as a file and external data.

    The weights are not read: all that protobuf writes of a tensor beside its data depends on its
    length alone. For a model below 2 GB this is the exact length of the ONNX file that
    `onnx_ir.save` writes from it.
    """
    graph = model.graph
    hollowed = {
        name: value.const_value
        for name, value in graph.initializers.items()
        if value.const_value is not None and _worth_hollowing(value.const_value)
    }
    data = sum(tensor.nbytes for tensor in hollowed.values())
    hollow = model.clone() if hollowed else model
    for name, tensor in hollowed.items():
        hollow.graph.initializers[name].const_value = _hollow(tensor)
    proto = ir.to_proto(hollow)
    graph_bytes = proto.graph.ByteSize()
    rest = proto.ByteSize() - graph_bytes - _varint(graph_bytes)
    for stub in proto.graph.initializer:
        if stub.name in hollowed:
            # Field 9, raw_data: one byte of tag and the length, then the data itself.
            small = stub.ByteSize()
            nbytes = hollowed[stub.name].nbytes
            full = small - _raw_data_bytes(stub) + 1 + _varint(nbytes) + nbytes
            graph_bytes += full + _varint(full) - small - _varint(small)
    total = rest + graph_bytes + _varint(graph_bytes)
    return int(total if total < _PROTOBUF_LIMIT else proto.ByteSize() + data)


def file_bytes(path: str | Path) -> int:
    """Bytes on disk: the ONNX file and every file its external data lies in, each once."""
    path = Path(path)
    return path.stat().st_size + sum(os.stat(file).st_size for file in external_files(path))


def external_files(path: str | Path) -> list[Path]:
    """The files in which an ONNX file keeps weights, each once, in order of their real paths."""
    path = Path(path)
    model = ir.from_proto(onnx.load(str(path), load_external_data=False))
    places = {
        os.path.realpath(path.parent / tensor.location)
        for tensor in _tensors(model)
        if isinstance(tensor, ir.ExternalTensor)
    }
    return [Path(place) for place in sorted(places)]


_LARGE = 64 * 1024
_PROTOBUF_LIMIT = 2**31


def _worth_hollowing(tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype == ir.DataType.STRING:
        return False  # not written as raw data
    return isinstance(tensor, ir.ExternalTensor) or tensor.nbytes >= _LARGE


def _hollow(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor's name, type and shape without its data."""
    nothing = ir.tensor(np.zeros(0, np.uint8))
    return ir.LazyTensor(
        lambda: nothing,
        dtype=tensor.dtype,
        shape=ir.Shape(int(d) for d in tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _raw_data_bytes(stub: onnx.TensorProto) -> int:
    """What an empty raw_data takes in a stub: its tag and a zero length, if written at all."""
    return 2 if stub.HasField("raw_data") else 0


def _varint(number: int) -> int:
    """Bytes protobuf needs for a length."""
    return max(1, -(-number.bit_length() // 7))


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every tensor stored in the model: initializers and attributes, whatever graph they are in."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    while graphs:
        graph = graphs.pop()
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if isinstance(attribute, ir.Attr) and not attribute.is_ref():
                    if attribute.type == ir.AttributeType.GRAPH:
                        graphs.append(attribute.as_graph())
                    elif attribute.type == ir.AttributeType.GRAPHS:
                        graphs.extend(attribute.as_graphs())
                    elif attribute.type == ir.AttributeType.TENSOR:
                        yield attribute.as_tensor()
                    elif node.op_type == "Constant" and attribute.name == "value_floats":
                        yield ir.tensor(list(attribute.as_floats()), dtype=ir.DataType.FLOAT)
                    elif node.op_type == "Constant" and attribute.name == "value_float":
                        yield ir.tensor(attribute.as_float(), dtype=ir.DataType.FLOAT)
