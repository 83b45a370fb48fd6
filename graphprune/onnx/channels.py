"""Which axis of an activation counts channels."""

from __future__ import annotations

import onnx_ir as ir

from graphprune.onnx.operands import op_names

LAYERS = op_names(
    "Conv ConvTranspose Gemm MatMul Einsum LSTM GRU RNN FusedMatMul FusedConv FusedGemm"
)
"""Ops with a weight of their own."""


def channels_first(value: ir.Value) -> bool:
    """Whether channels are the second axis (else the last), by the layer nearest in front."""
    node = value.producer()
    while node is not None and node.op_type not in LAYERS:
        if node.op_type in ("Reshape", "Flatten", "Transpose") or not node.inputs:
            return False
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node is not None and "Conv" in node.op_type
