"""Fifteen small graphs on which structured pruners break, as ONNX and without torch.

Each holds one construct that makes "output channel i of this layer" the wrong way to think: an
order that changes, sizes written as literals, blocks that must shrink alike, one table used twice.
The same graphs as torch modules are in `torch_micrographs.py`, with weights of the same names.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from models_zoo.builders.sketch import Sketch

_BUILDERS: dict[str, Callable[[Sketch], onnx.ModelProto]] = {}


def _case(function: Callable[[Sketch], onnx.ModelProto]) -> Callable[[Sketch], onnx.ModelProto]:
    _BUILDERS[function.__name__] = function
    return function


def build(name: str, *, opset: int = 18) -> onnx.ModelProto:
    """Build one micro-graph; the same name always gives the same weights.

    Raises KeyError for a name that is not in `NAMES`.
    """
    return _BUILDERS[name](Sketch(name, opset=opset))


def _image(s: Sketch) -> str:
    return s.input("x", ["batch", 3, 16, 16])


@_case
def lstm_linear(s: Sketch) -> onnx.ModelProto:
    """LSTM over `(batch, time, features)` with its zero initial state, then Linear on each step."""
    x = s.input("x", ["batch", "time", 16])
    weights = [
        s.weight("lstm.weight_ih", (1, 4 * 32, 16), 16),
        s.weight("lstm.weight_hh", (1, 4 * 32, 32), 32),
        s.constant("lstm.bias", s.random.normal(0, 0.3, (1, 8 * 32)), np.float32),
    ]
    batch = s.op("Slice", s.op("Shape", x), s.constant("zero", [0]), s.constant("one", [1]))
    sizes = s.op("Concat", "one", batch, s.constant("hidden", [32]), axis=0)
    state = s.op("ConstantOfShape", sizes)
    steps = s.op("Transpose", x, perm=[1, 0, 2])
    y, _, _ = s.ops("LSTM", steps, *weights, "", state, state, count=3, hidden_size=32)
    y = s.op("Transpose", s.op("Squeeze", y, "one"), perm=[1, 0, 2])
    return s.model(s.linear(y, "head", 32, 10), ["batch", "time", 10])


@_case
def pixel_shuffle(s: Sketch) -> onnx.ModelProto:
    """Four channels become one channel of 2x2 pixels: they leave together."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 24))
    y = s.op("DepthToSpace", s.conv(y, "conv2", 24, 32), blocksize=2, mode="CRD")
    return s.model(s.conv(y, "conv3", 8, 3), ["batch", 3, 32, 32])


@_case
def flatten_transpose(s: Sketch) -> onnx.ModelProto:
    """Image to tokens, `flatten(2).transpose(1, 2)`, then Linear."""
    y = s.op("Relu", s.conv(_image(s), "conv", 3, 32, stride=2))
    y = s.op("Transpose", s.reshape(y, 0, 32, -1), perm=[0, 2, 1])
    return s.model(s.linear(y, "head", 32, 20), ["batch", 64, 20])


@_case
def channel_shuffle(s: Sketch) -> onnx.ModelProto:
    """ShuffleNet's view, transpose, view with four groups."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 32))
    y = s.op("Transpose", s.reshape(y, -1, 4, 8, 16, 16), perm=[0, 2, 1, 3, 4])
    y = s.reshape(y, -1, 32, 16, 16)
    return s.model(s.conv(y, "conv2", 32, 16), ["batch", 16, 16, 16])


def _flip(s: Sketch, x: str) -> str:
    before_first = np.iinfo(np.int64).min
    bounds = [
        s.constant("start", [-1]),
        s.constant("end", [before_first]),
        s.constant("axis", [1]),
        s.constant("step", [-1]),
    ]
    return s.op("Slice", x, *bounds)


@_case
def flip_channels(s: Sketch) -> onnx.ModelProto:
    """`flip(1)`: the consumer's input channel i is the producer's output channel 31 - i."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 32))
    return s.model(s.conv(_flip(s, y), "conv2", 32, 16), ["batch", 16, 16, 16])


@_case
def add_flip(s: Sketch) -> onnx.ModelProto:
    """`y + flip(y)`: channels i and 31 - i depend on each other."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 32))
    y = s.op("Add", y, _flip(s, y))
    return s.model(s.conv(y, "conv2", 32, 16), ["batch", 16, 16, 16])


@_case
def instance_norm_stats(s: Sketch) -> onnx.ModelProto:
    """Instance norm that uses its running statistics, which ONNX writes as BatchNormalization."""
    y = s.batch_norm(s.conv(_image(s), "conv1", 3, 32), "norm", 32)
    return s.model(s.conv(s.op("Relu", y), "conv2", 32, 16), ["batch", 16, 16, 16])


@_case
def grouped_conv(s: Sketch) -> onnx.ModelProto:
    """A convolution with four groups: each group must lose equally many channels."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 32))
    y = s.op("Relu", s.conv(y, "conv2", 32, 32, groups=4))
    return s.model(s.conv(y, "conv3", 32, 16), ["batch", 16, 16, 16])


@_case
def depthwise_multiplier(s: Sketch) -> onnx.ModelProto:
    """A depthwise convolution with multiplier 2: two outputs leave with each input."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 16))
    y = s.op("Relu", s.conv(y, "conv2", 16, 32, groups=16))
    return s.model(s.conv(y, "conv3", 32, 16, 1), ["batch", 16, 16, 16])


@_case
def unfused_attention(s: Sketch) -> onnx.ModelProto:
    """Attention from three projections, literal head sizes, MatMul and Softmax."""
    x = s.input("x", ["batch", 12, 32])
    q, k, v = (s.reshape(s.linear(x, n, 32, 32), -1, 12, 4, 8) for n in ("q", "k", "v"))
    scores = s.op(
        "MatMul", s.op("Transpose", q, perm=[0, 2, 1, 3]), s.op("Transpose", k, perm=[0, 2, 3, 1])
    )
    scores = s.op("Div", scores, s.constant("scale", 8**0.5, np.float32))
    y = s.op("MatMul", s.op("Softmax", scores, axis=-1), s.op("Transpose", v, perm=[0, 2, 1, 3]))
    y = s.reshape(s.op("Transpose", y, perm=[0, 2, 1, 3]), -1, 12, 32)
    return s.model(s.linear(y, "out", 32, 24), ["batch", 12, 24])


@_case
def einsum_attention(s: Sketch) -> onnx.ModelProto:
    """The same attention written with two Einsum."""
    x = s.input("x", ["batch", 12, 32])
    q, k, v = (s.reshape(s.linear(x, n, 32, 32), -1, 12, 4, 8) for n in ("q", "k", "v"))
    scores = s.op("Einsum", q, k, equation="bqhd,bkhd->bhqk")
    scores = s.op("Div", scores, s.constant("scale", 8**0.5, np.float32))
    y = s.op("Einsum", s.op("Softmax", scores, axis=-1), v, equation="bhqk,bkhd->bqhd")
    return s.model(s.linear(s.reshape(y, -1, 12, 32), "out", 32, 24), ["batch", 12, 24])


@_case
def c2f(s: Sketch) -> onnx.ModelProto:
    """YOLOv8's block: chunk, a residual bottleneck on the second half, concat of all pieces."""
    y = s.op("Relu", s.conv(_image(s), "conv1", 3, 32))
    first, second = s.ops("Split", y, count=2, axis=1, num_outputs=2)
    z = s.op("Relu", s.conv(second, "bottleneck1", 16, 24))
    z = s.op("Add", second, s.op("Relu", s.conv(z, "bottleneck2", 24, 16)))
    y = s.op("Concat", first, second, z, axis=1)
    return s.model(s.conv(y, "conv2", 48, 16, 1), ["batch", 16, 16, 16])


@_case
def glu(s: Sketch) -> onnx.ModelProto:
    """A gated linear unit: value i and gate i leave together."""
    y = s.conv(_image(s), "conv1", 3, 64)
    value, gate = s.ops("Split", y, s.constant("halves", [32, 32]), count=2, axis=1)
    y = s.op("Mul", value, s.op("Sigmoid", gate))
    return s.model(s.conv(y, "conv2", 32, 16), ["batch", 16, 16, 16])


@_case
def tied_embedding(s: Sketch) -> onnx.ModelProto:
    """A language model whose head is its embedding table, transposed."""
    ids = s.input("ids", ["batch", "time"], TensorProto.INT64)
    table = s.constant("table", s.random.normal(0, 1, (50, 32)), np.float32)
    x = s.op("Gather", table, ids)
    h = s.linear(s.op("Relu", s.linear(x, "fc1", 32, 48)), "fc2", 48, 32)
    y = s.op("MatMul", s.op("Add", x, h), s.op("Transpose", table, perm=[1, 0]))
    return s.model(y, ["batch", "time", 50])


@_case
def view_literal(s: Sketch) -> onnx.ModelProto:
    """`view(-1, 32 * 16)`: a literal product of the channel count and the image size."""
    y = s.op("Relu", s.conv(_image(s), "conv", 3, 32, stride=2))
    y = s.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = s.reshape(y, -1, 32 * 16)
    head = [s.weight("head.weight", (10, 512), 512), s.bias("head.bias", 10)]
    return s.model(s.op("Gemm", y, *head, transB=1), ["batch", 10])


#: The names `build` understands.
NAMES: tuple[str, ...] = tuple(_BUILDERS)
