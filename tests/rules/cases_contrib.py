"""Audit cases of the other fused ops of onnxruntime, boundaries included."""

from __future__ import annotations

import numpy as np
from audit_net import MS, Example, Net, Rng, case
from onnx import TensorProto


def channels_last(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 2, 3, 1])


def channels_first(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 3, 1, 2])


@case(1, 0)
def group_norm(rng: Rng, last: int) -> Example:
    """Whole groups leave."""
    net = Net(rng)
    n, g, inner, m = net.size(3, 5), net.size(2, 4), net.size(2, 4), net.size(3, 5)
    c = g * inner
    x = net.conv(net.input([net.batch, n, 4, 4]), n, c, 3)
    x = channels_last(net, x) if last else x
    y = net.op(
        "GroupNorm",
        x,
        net.vector(c),
        net.vector(c),
        domain=MS,
        groups=g,
        channels_last=last,
        activation=net.pick(0, 1),
    )
    y = channels_first(net, y) if last else y
    return net.example(net.conv(y, c, m), units=[g], inner=[], reason="", reference=True)


@case("full", "vector", "positions")
def skip_group_norm(rng: Rng, kind: str) -> Example:
    """x + skip + bias, normalised; the sum is read as well."""
    net = Net(rng)
    n, g, inner, m = net.size(3, 5), net.size(2, 4), net.size(2, 4), net.size(3, 5)
    c = g * inner
    image = net.input([net.batch, n, 4, 4])
    x = channels_last(net, net.conv(image, n, c, 3))
    if kind == "full":
        skip = channels_last(net, net.conv(image, n, c))
    else:
        skip = net.dense(net.input([net.batch, n]), n, c)
        if kind == "positions":
            skip = net.op("Unsqueeze", skip, net.ints(1, 2))
    bias = [net.vector(c)] if rng.random() < 0.5 else []
    y, total = net.ops(
        "SkipGroupNorm",
        x,
        net.vector(c),
        net.vector(c),
        skip,
        *bias,
        count=2,
        domain=MS,
        groups=g,
        channels_last=1,
        activation=0,
    )
    y = net.dense(net.op("Add", y, total), c, m)
    return net.example(y, units=[g], inner=[], reference=True)


@case("one_group")
def one_group(rng: Rng, kind: str) -> Example:
    """One group: nothing can leave without changing its statistics."""
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(4, 6), net.size(3, 5)
    x = channels_last(net, net.conv(net.input([net.batch, n, 4, 4]), n, c))
    y = net.op("GroupNorm", x, net.vector(c), net.vector(c), domain=MS, groups=1, activation=0)
    y = net.dense(y, c, m)
    return net.example(y, units=[], reason="the statistics of a group run over it", reference=True)


@case("split")
def gated(rng: Rng, kind: str) -> Example:
    """BiasSplitGelu: channel i of both halves leaves."""
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(4, 6), net.size(3, 5)
    x = net.dense(net.input([net.batch, 5, n]), n, 2 * c, bias=False)
    y = net.op("BiasSplitGelu", x, net.vector(2 * c), domain=MS)
    return net.example(net.dense(y, c, m), units=[c], reference=True)


@case("skip")
def biased(rng: Rng, kind: str) -> Example:
    net = Net(rng)
    n, c, m = net.size(3, 5), net.size(4, 6), net.size(3, 5)
    x = net.input([net.batch, 5, n])
    a, b = net.dense(x, n, c, bias=False), net.dense(x, n, c)
    y = net.op("BiasAdd", a, net.vector(c), b, domain=MS)
    return net.example(net.dense(y, c, m), units=[c], reference=True)


@case("words", "segments", "positions", "sum")
def embedding(rng: Rng, kind: str) -> Example:
    """Tables looked up and normalised at once: the width stays, the neurons behind it leave."""
    net = Net(rng)
    width, c, m, s = net.size(4, 6), net.size(4, 6), net.size(3, 5), 5

    def ids(high: int):
        return lambda r, shape: r.integers(0, high, shape)

    def table(rows: int) -> str:
        return net.const(rng.normal(0, 1, (rows, width)).astype(np.float32))

    def read(high: int) -> str:
        given = net.input([net.batch, s], TensorProto.INT64, ids(high))
        return net.op("Cast", given, to=TensorProto.INT32)

    words = read(11)
    segments = read(2) if kind == "segments" else ""
    operands = [words, segments, table(11), table(9), table(2) if segments else ""]
    operands += [net.vector(width), net.vector(width)]
    if kind == "positions":
        operands += ["", read(9)]
    outputs = net.ops("EmbedLayerNormalization", *operands, count=3, domain=MS, epsilon=1e-5)
    y = outputs[0]
    if kind == "sum":
        y = net.op("Add", y, outputs[2])
    else:
        net.nodes[-1].output[2] = ""
    y = net.dense(net.op("Relu", net.dense(y, width, c)), c, m)
    return net.example(y, units=[c], reason="it is normalised inside the op that looks it up")


@case("plain", "columns", "present", "given")
def quantised_attention(rng: Rng, kind: str) -> Example:
    """QAttention: 8-bit projection; q, k and v have one head size."""
    net = Net(rng)
    n, h, d, s, m = net.size(4, 6), net.size(2, 4), net.size(3, 5), 5, net.size(3, 5)
    width = 3 * h * d
    x = net.op(
        "QuantizeLinear",
        net.input([net.batch, s, n]),
        net.const(np.float32(0.03)),
        net.const(np.uint8(121)),
    )
    weight = net.const(rng.integers(-90, 90, (n, width)).astype(np.int8))
    scale = net.const(np.float32(0.01))
    point = net.const(np.int8(0))
    if kind == "columns":
        scale = net.const(rng.uniform(0.005, 0.015, width).astype(np.float32))
        point = net.const(np.zeros(width, np.int8))
    operands = [x, weight, net.vector(width), net.const(np.float32(0.03)), scale, ""]
    operands += [net.const(np.uint8(121)), point]
    if kind == "given":
        operands.append(net.input([2, net.batch, h, 4, d]))
    count = 1 if kind in ("plain", "columns") else 2
    outputs = net.ops("QAttention", *operands, count=count, domain=MS, num_heads=h)
    y = net.dense(outputs[0], h * d, m)
    if kind == "given":
        return net.example(y, outputs[1], units=[], inner=[], reason="fixed size")
    if kind == "present":
        y = net.op("Add", y, net.op("ReduceL2", outputs[1], keepdims=0))
    return net.example(y, units=[h], inner=[2 * h * d])


BOUNDARIES = {
    "NhwcConv": "its layout was made for one runtime",
    "NhwcFusedConv": "its layout was made for one runtime",
    "NhwcMaxPool": "its layout was made for one runtime",
    "MoE": "the experts inside the op are not looked into",
    "QMoE": "the experts inside the op are not looked into",
    "DynamicQuantizeLSTM": "its quantised gates are packed",
    "MatMulBnb4": "its weight is packed as one row of blocks",
    "QEmbedLayerNormalization": "it is normalised inside the op that looks it up",
    "DecoderMaskedMultiHeadAttention": "its past and present share one buffer",
    "DecoderMaskedSelfAttention": "its past and present share one buffer",
    "DecoderAttention": "its caches change their layout at run time",
    "PackedAttention": "its tokens are packed without padding",
    "PackedMultiHeadAttention": "its tokens are packed without padding",
    "SparseAttention": "its block mask fixes the layout of the heads",
    "PagedAttention": "its caches are pages of fixed size",
    "LongformerAttention": "its kernel takes one layout of heads only",
    "QOrderedAttention": "its kernel takes one layout of heads only",
    "QOrderedLongformerAttention": "its kernel takes one layout of heads only",
}


@case(*BOUNDARIES)
def boundary(rng: Rng, op: str) -> Example:
    """What the op reads stays; a layer before it that ends elsewhere does not."""
    net = Net(rng)
    n, c, w = net.size(3, 5), net.size(4, 6), net.size(4, 6)
    x = net.input([net.batch, 5, n])
    y = net.op(op, net.dense(x, n, c), net.weight(c, w), domain=MS, num_heads=1)
    return net.example(y, units=[], reason=BOUNDARIES[op])
