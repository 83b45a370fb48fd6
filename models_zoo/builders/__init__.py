"""Builders of ONNX graphs with live signals: random but scaled weights, no two tensors equal."""
