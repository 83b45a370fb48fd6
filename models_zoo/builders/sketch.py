"""A few lines of onnx.helper that let a small graph be written like a program.

    s = Sketch("relu_mlp")
    x = s.input("x", ["batch", 16])
    h = s.op("Relu", s.linear(x, "fc1", 16, 32))
    model = s.model(s.linear(h, "fc2", 32, 4))

Weights are drawn so that signals stay alive: a layer fed with unit variance answers with about unit
variance, and neither biases nor the statistics and affine parameters of norms are zero or one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


class Sketch:
    """An ONNX graph under construction; `seed` defaults to one derived from the name."""

    def __init__(self, name: str, *, opset: int = 18, seed: int | None = None) -> None:
        self.name, self.opset = name, opset
        self.random = np.random.default_rng(zlib.crc32(name.encode()) if seed is None else seed)
        self.inputs: list[onnx.ValueInfoProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """Declare a graph input; strings in `shape` are dynamic dimensions."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, name: str, value: object, dtype: type = np.int64) -> str:
        """Add an initializer; sizes and indices by default."""
        self.initializers[name] = np.asarray(value, dtype)
        return name

    def weight(self, name: str, shape: Sequence[int], fan_in: int) -> str:
        """Add a weight with variance 1 / fan_in."""
        return self.constant(name, self.random.normal(0, fan_in**-0.5, shape), np.float32)

    def bias(self, name: str, size: int) -> str:
        """Add a bias with standard deviation 0.3."""
        return self.constant(name, self.random.normal(0, 0.3, size), np.float32)

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output and return the output's name."""
        return self.ops(op_type, *inputs, count=1, **attributes)[0]

    def ops(self, op_type: str, *inputs: str, count: int, **attributes: object) -> list[str]:
        """Add a node with `count` outputs and return their names."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        outputs = [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name, **attributes))
        return outputs

    def conv(
        self,
        x: str,
        name: str,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> str:
        """A 2-d convolution with bias and same padding."""
        depth = inputs // groups
        weight = self.weight(
            f"{name}.weight", (outputs, depth, kernel, kernel), depth * kernel * kernel
        )
        return self.op(
            "Conv",
            x,
            weight,
            self.bias(f"{name}.bias", outputs),
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
            group=groups,
        )

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        """A dense layer on the last axis as exporters write it: MatMul and Add."""
        y = self.op("MatMul", x, self.weight(f"{name}.weight", (inputs, outputs), inputs))
        return self.op("Add", y, self.bias(f"{name}.bias", outputs))

    def batch_norm(self, x: str, name: str, size: int) -> str:
        """Batch norm in inference with random statistics and affine parameters."""
        draw = self.random
        return self.op(
            "BatchNormalization",
            x,
            self.constant(f"{name}.weight", draw.uniform(0.6, 1.4, size), np.float32),
            self.bias(f"{name}.bias", size),
            self.constant(f"{name}.running_mean", draw.normal(0, 0.3, size), np.float32),
            self.constant(f"{name}.running_var", draw.uniform(0.5, 1.5, size), np.float32),
        )

    def reshape(self, x: str, *sizes: int) -> str:
        """A reshape whose sizes are literals, as `view` in a model's code leaves them."""
        return self.op("Reshape", x, self.constant(f"sizes_{len(self.nodes)}", sizes))

    def model(self, output: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """Close the graph: `output` becomes the graph output `y`; the model is checked."""
        for node in self.nodes:
            node.output[:] = ["y" if name == output else name for name in node.output]
            node.input[:] = ["y" if name == output else name for name in node.input]
        graph = helper.make_graph(
            self.nodes,
            self.name,
            self.inputs,
            [helper.make_tensor_value_info("y", dtype, shape)],
            [numpy_helper.from_array(v, k) for k, v in self.initializers.items()],
        )
        model = helper.make_model(
            graph, ir_version=9, opset_imports=[helper.make_opsetid("", self.opset)]
        )
        onnx.checker.check_model(model, full_check=True)
        return model
