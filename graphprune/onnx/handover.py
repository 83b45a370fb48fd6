"""Weights go to onnxruntime as arrays: writing them into a protobuf and parsing it takes most of the
time that a session of a model in memory needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir

_LEAST = 1024
"""Bytes from which a tensor is handed over: onnxruntime looks into small ones (shapes, indices)."""

_DTYPES = (
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT32,
    ir.DataType.INT64,
)
"""Those that numpy and onnxruntime know under the same name."""

_PLACE = "handed-over"


@contextmanager
def handed_over(model: ir.Model) -> Iterator[dict[str, Any]]:
    """Initializer -> `onnxruntime.OrtValue`; within the block the model only refers to them.

    It can be serialised there, and be loaded with `SessionOptions.add_external_initializers`. Weights
    in files of their own stay there. The arrays are shared, not copied: keep what is yielded for as
    long as the session.
    """
    import onnxruntime as ort

    swapped: list[tuple[ir.Value, ir.TensorProtocol]] = []
    found: dict[str, Any] = {}
    try:
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None or isinstance(tensor, ir.ExternalTensor):
                continue
            if tensor.nbytes < _LEAST or tensor.dtype not in _DTYPES:
                continue
            if not value.uses() or value.is_graph_input() or value.is_graph_output():
                continue  # onnxruntime drops, or lets be overridden, what it is then asked to fill in
            array = np.ascontiguousarray(tensor.numpy())
            found[name] = ort.OrtValue.ortvalue_from_numpy(array)
            value.const_value = ir.ExternalTensor(
                _PLACE, 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(array.shape), name=name
            )
            swapped.append((value, tensor))
        yield found
    finally:
        for value, tensor in swapped:
            value.const_value = tensor
