"""Whole small networks without torch: one of each family, with the names and sizes of real ones.

    from architectures import NETWORKS
    model = NETWORKS["resnet"]()

Every call gives the same bytes. Batch (and sequence) are dynamic, signals are alive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from models_zoo.builders.sketch import Sketch

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {}


def _network(make: Callable[[Sketch], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    name = make.__name__

    def build() -> onnx.ModelProto:
        return make(Sketch(name))

    NETWORKS[name] = build
    return build


def _norm(s: Sketch, x: str, name: str, size: int) -> str:
    """LayerNormalization with random affine parameters."""
    scale = s.constant(f"{name}.weight", s.random.uniform(0.6, 1.4, size), np.float32)
    return s.op("LayerNormalization", x, scale, s.bias(f"{name}.bias", size), axis=-1)


def _pool(s: Sketch, x: str, channels: int, classes: int) -> str:
    """Global average pool, flatten and a classifier."""
    y = s.op("Flatten", s.op("GlobalAveragePool", x), axis=1)
    weight = s.weight("head.weight", (classes, channels), 1)
    return s.op("Gemm", y, weight, s.bias("head.bias", classes), transB=1)


@_network
def resnet(s: Sketch) -> onnx.ModelProto:
    """Stem, a plain residual block and one that halves the image and doubles the width."""

    def conv_bn(x: str, name: str, i: int, o: int, k: int = 3, stride: int = 1) -> str:
        y = s.conv(x, name, i, o, k, stride=stride)
        return s.batch_norm(y, f"{name}.bn", o)

    x = s.op("Relu", conv_bn(s.input("x", ["batch", 3, 32, 32]), "stem", 3, 16, stride=2))
    x = s.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    y = conv_bn(s.op("Relu", conv_bn(x, "one.conv1", 16, 16)), "one.conv2", 16, 16)
    x = s.op("Relu", s.op("Add", y, x))
    y = s.op("Relu", conv_bn(x, "two.conv1", 16, 32, stride=2))
    y = conv_bn(y, "two.conv2", 32, 32)
    x = s.op("Relu", s.op("Add", y, conv_bn(x, "two.down", 16, 32, 1, 2)))
    return s.model(_pool(s, x, 32, 10), ["batch", 10])


@_network
def mobilenet(s: Sketch) -> onnx.ModelProto:
    """Inverted residuals: depthwise convolutions, squeeze and excitation, hard activations."""

    def block(x: str, name: str, i: int, o: int, expanded: int, squeezed: int) -> str:
        y = s.op("HardSwish", s.conv(x, f"{name}.expand", i, expanded, 1))
        y = s.op("HardSwish", s.conv(y, f"{name}.depthwise", expanded, expanded, groups=expanded))
        z = s.op("GlobalAveragePool", y)
        z = s.op("Relu", s.conv(z, f"{name}.squeeze", expanded, squeezed, 1))
        z = s.op("HardSigmoid", s.conv(z, f"{name}.excite", squeezed, expanded, 1))
        return s.conv(s.op("Mul", y, z), f"{name}.project", expanded, o, 1)

    x = s.conv(s.input("x", ["batch", 3, 16, 16]), "stem", 3, 16, stride=2)
    x = s.op("Add", x, block(x, "one", 16, 16, 24, 8))
    x = block(x, "two", 16, 24, 32, 8)
    return s.model(_pool(s, s.op("Relu", x), 24, 10), ["batch", 10])


@_network
def shufflenet(s: Sketch) -> onnx.ModelProto:
    """Half of the channels pass by, the other half is convolved, then both are shuffled."""
    x = s.op("Relu", s.conv(s.input("x", ["batch", 3, 16, 16]), "stem", 3, 16, stride=2))
    for name in ("one", "two"):
        left, right = s.ops("Split", x, count=2, axis=1, num_outputs=2)
        y = s.op("Relu", s.conv(right, f"{name}.point", 8, 8, 1))
        y = s.op("Relu", s.conv(s.conv(y, f"{name}.depth", 8, 8, groups=8), f"{name}.last", 8, 8))
        y = s.reshape(s.op("Concat", left, y, axis=1), 0, 2, 8, 8, 8)
        x = s.reshape(s.op("Transpose", y, perm=[0, 2, 1, 3, 4]), 0, 16, 8, 8)
    return s.model(_pool(s, x, 16, 10), ["batch", 10])


@_network
def densenet(s: Sketch) -> onnx.ModelProto:
    """Every layer reads all that came before; norm and activation stand before the convolution."""
    x = s.conv(s.input("x", ["batch", 3, 16, 16]), "stem", 3, 12)
    width = 12
    for name in ("one", "two", "three"):
        y = s.op("Relu", s.batch_norm(x, f"{name}.norm1", width))
        y = s.op(
            "Relu", s.batch_norm(s.conv(y, f"{name}.conv1", width, 16, 1), f"{name}.norm2", 16)
        )
        x = s.op("Concat", x, s.conv(y, f"{name}.conv2", 16, 8), axis=1)
        width += 8
    x = s.op(
        "AveragePool", s.conv(x, "transition", width, 16, 1), kernel_shape=[2, 2], strides=[2, 2]
    )
    return s.model(_pool(s, s.op("Relu", x), 16, 10), ["batch", 10])


@_network
def unet(s: Sketch) -> onnx.ModelProto:
    """Down, up by ConvTranspose and by Resize, with skip connections that are concatenated."""
    x = s.input("x", ["batch", 3, 16, 16])
    a = s.op("Relu", s.conv(x, "down1", 3, 12))
    b = s.op("Relu", s.conv(a, "down2", 12, 16, stride=2))
    c = s.op("Relu", s.conv(b, "down3", 16, 24, stride=2))
    weight = s.weight("up1.weight", (24, 16, 2, 2), 24)
    y = s.op("ConvTranspose", c, weight, s.bias("up1.bias", 16), strides=[2, 2])
    y = s.op("Relu", s.conv(s.op("Concat", y, b, axis=1), "up1.conv", 32, 16))
    scales = s.constant("scales", [1, 1, 2, 2], np.float32)
    y = s.op("Concat", s.op("Resize", y, "", scales, mode="nearest"), a, axis=1)
    y = s.op("Relu", s.conv(y, "up2.conv", 28, 12))
    return s.model(s.conv(y, "out", 12, 4, 1), ["batch", 4, 16, 16])


@_network
def convnext(s: Sketch) -> onnx.ModelProto:
    """Depthwise, channels last, LayerNorm, GRN between the linear layers, a layer scale."""
    x = s.conv(s.input("x", ["batch", 3, 16, 16]), "stem", 3, 16, stride=2)
    for name in ("one", "two"):
        y = s.conv(x, f"{name}.depthwise", 16, 16, 7, groups=16)
        y = _norm(s, s.op("Transpose", y, perm=[0, 2, 3, 1]), f"{name}.norm", 16)
        y = s.linear(y, f"{name}.fc1", 16, 40)
        y = s.op("Mul", y, s.op("Sigmoid", y))
        axes = s.constant(f"{name}.space", [1, 2])
        squares = s.op("ReduceL2", y, axes, keepdims=1)
        mean = s.op("ReduceMean", squares, s.constant(f"{name}.last", [-1]), keepdims=1)
        scale = s.op("Div", squares, s.op("Add", mean, s.constant(f"{name}.eps", 1e-6, np.float32)))
        gamma = s.constant(f"{name}.gamma", s.random.uniform(0.5, 1.5, 40), np.float32)
        y = s.op("Add", y, s.op("Mul", s.op("Mul", y, scale), gamma))
        y = s.linear(y, f"{name}.fc2", 40, 16)
        y = s.op("Mul", y, s.constant(f"{name}.scale", s.random.uniform(0.5, 1, 16), np.float32))
        x = s.op("Add", x, s.op("Transpose", y, perm=[0, 3, 1, 2]))
    return s.model(_pool(s, x, 16, 10), ["batch", 10])


def _split_heads(s: Sketch, x: str, heads: int, dim: int, sizes: tuple[str, str]) -> str:
    """`[batch, time, heads * dim]` -> `[batch, heads, time, dim]`, sizes computed as torch does."""
    shape = s.op(
        "Concat",
        *sizes,
        s.constant(f"heads_{len(s.nodes)}", [heads]),
        s.constant(f"dim_{len(s.nodes)}", [dim]),
        axis=0,
    )
    return s.op("Transpose", s.op("Reshape", x, shape), perm=[0, 2, 1, 3])


def _sizes(s: Sketch, x: str) -> tuple[str, str]:
    """Batch and time of `x`, as tensors of one element."""
    shape = s.op("Shape", x)
    bounds = [s.constant(name, [i]) for i, name in enumerate(("from0", "from1", "from2"))]
    return s.op("Slice", shape, bounds[0], bounds[1]), s.op("Slice", shape, bounds[1], bounds[2])


@_network
def encoder(s: Sketch) -> onnx.ModelProto:
    """Two pre-norm transformer blocks: attention with a mask, then a GELU layer."""
    ids = s.input("ids", ["batch", "time"], TensorProto.INT64)
    mask = s.input("mask", ["batch", "time"])
    x = s.op("Gather", s.constant("table", s.random.normal(0, 1, (50, 32)), np.float32), ids)
    sizes = _sizes(s, x)
    hidden = s.op("Sub", s.constant("one", 1, np.float32), mask)
    hidden = s.op("Mul", hidden, s.constant("low", -1e4, np.float32))
    hidden = s.op("Unsqueeze", hidden, s.constant("axes", [1, 2]))
    for name in ("one", "two"):
        h = _norm(s, x, f"{name}.norm1", 32)
        q, k, v = (
            _split_heads(s, s.linear(h, f"{name}.{n}", 32, 32), 4, 8, sizes)
            for n in ("q", "k", "v")
        )
        scores = s.op("MatMul", q, s.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = s.op("Div", scores, s.constant(f"{name}.root", 8**0.5, np.float32))
        weights = s.op("Softmax", s.op("Add", scores, hidden), axis=-1)
        y = s.op("Transpose", s.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        merged = s.op("Concat", *sizes, s.constant(f"{name}.width", [32]), axis=0)
        x = s.op("Add", x, s.linear(s.op("Reshape", y, merged), f"{name}.out", 32, 32))
        h = s.linear(_norm(s, x, f"{name}.norm2", 32), f"{name}.fc1", 32, 48)
        h = s.op("Mul", h, s.op("Sigmoid", h))
        x = s.op("Add", x, s.linear(h, f"{name}.fc2", 48, 32))
    return s.model(s.linear(_norm(s, x, "norm", 32), "head", 32, 12), ["batch", "time", 12])


@_network
def llama(s: Sketch) -> onnx.ModelProto:
    """RMSNorm, rotary embedding, two key-value heads for four query heads, a gated layer."""
    x = s.linear(s.input("x", ["batch", 10, 16]), "embed", 16, 32)

    def rms_norm(x: str, name: str) -> str:
        scale = s.constant(f"{name}.weight", s.random.uniform(0.6, 1.4, 32), np.float32)
        squares = s.op("Pow", x, s.constant(f"{name}.two", 2, np.float32))
        mean = s.op("ReduceMean", squares, s.constant(f"{name}.axis", [-1]), keepdims=1)
        root = s.op("Sqrt", s.op("Add", mean, s.constant(f"{name}.eps", 1e-5, np.float32)))
        return s.op("Mul", s.op("Div", x, root), scale)

    angles = np.outer(np.arange(10), 1 / 100 ** (np.arange(4) / 4))
    angles = np.concatenate([angles, angles], axis=-1)
    tables = [s.constant(n, f(angles), np.float32) for n, f in (("cos", np.cos), ("sin", np.sin))]

    def rotary(x: str, name: str) -> str:
        bounds = [s.constant(f"{name}.{b}", [b]) for b in (0, 4, 8, 3)]
        low = s.op("Slice", x, bounds[0], bounds[1], bounds[3])
        high = s.op("Slice", x, bounds[1], bounds[2], bounds[3])
        turned = s.op("Concat", s.op("Neg", high), low, axis=-1)
        return s.op("Add", s.op("Mul", x, tables[0]), s.op("Mul", turned, tables[1]))

    def heads(h: str, name: str, count: int) -> str:
        y = s.reshape(s.linear(h, name, 32, count * 8), -1, 10, count, 8)
        return s.op("Transpose", y, perm=[0, 2, 1, 3])

    def repeated(x: str, name: str) -> str:
        y = s.op("Unsqueeze", x, s.constant(f"{name}.axis", [2]))
        y = s.op("Expand", y, s.constant(f"{name}.shape", [1, 2, 2, 10, 8]))
        return s.reshape(y, -1, 4, 10, 8)

    for name in ("one", "two"):
        h = rms_norm(x, f"{name}.norm1")
        q = rotary(heads(h, f"{name}.q", 4), f"{name}.q_turn")
        k = repeated(rotary(heads(h, f"{name}.k", 2), f"{name}.k_turn"), f"{name}.k_rep")
        v = repeated(heads(h, f"{name}.v", 2), f"{name}.v_rep")
        scores = s.op("MatMul", q, s.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = s.op("Mul", scores, s.constant(f"{name}.scale", 8**-0.5, np.float32))
        y = s.op("Transpose", s.op("MatMul", s.op("Softmax", scores), v), perm=[0, 2, 1, 3])
        x = s.op("Add", x, s.linear(s.reshape(y, -1, 10, 32), f"{name}.out", 32, 32))
        h = rms_norm(x, f"{name}.norm2")
        gate = s.linear(h, f"{name}.gate", 32, 40)
        h = s.op("Mul", s.op("Mul", gate, s.op("Sigmoid", gate)), s.linear(h, f"{name}.up", 32, 40))
        x = s.op("Add", x, s.linear(h, f"{name}.down", 40, 32))
    return s.model(s.linear(rms_norm(x, "norm"), "head", 32, 12), ["batch", 10, 12])


@_network
def speech(s: Sketch) -> onnx.ModelProto:
    """Convolution over time, two stacked recurrent layers in both directions, a classifier."""

    def recurrent(x: str, name: str, inputs: int, hidden: int) -> str:
        weights = [
            s.weight(f"{name}.ih", (2, 3 * hidden, inputs), inputs),
            s.weight(f"{name}.hh", (2, 3 * hidden, hidden), hidden),
            s.constant(f"{name}.bias", s.random.normal(0, 0.3, (2, 6 * hidden)), np.float32),
        ]
        y, _ = s.ops(
            "GRU",
            x,
            *weights,
            count=2,
            hidden_size=hidden,
            direction="bidirectional",
            linear_before_reset=1,
        )
        y = s.op("Transpose", y, perm=[0, 2, 1, 3])
        return s.reshape(y, 0, 0, 2 * hidden)

    x = s.input("x", ["batch", 8, 24])
    weight = s.weight("conv.weight", (20, 8, 3), 24)
    bias = s.bias("conv.bias", 20)
    y = s.op("Relu", s.op("Conv", x, weight, bias, kernel_shape=[3], pads=[1, 1], strides=[2]))
    y = s.op("Transpose", y, perm=[2, 0, 1])
    y = recurrent(recurrent(y, "one", 20, 16), "two", 32, 12)
    y = s.op("ReduceMean", y, s.constant("time", [0]), keepdims=0)
    return s.model(s.linear(y, "head", 24, 6), ["batch", 6])
