"""Audit cases of quantised layers."""

from __future__ import annotations

import numpy as np
from audit_net import MS, Example, Net, Rng, around, case
from onnx import TensorProto, helper

_ROUNDED = 2e-2
"""Of a tensor's magnitude: values on the edge between two integers may fall to either side."""


def scale(net: Net, *shape: int, size: float = 0.02) -> str:
    """Positive scales, all different."""
    return net.const((size * net.rng.uniform(0.7, 1.3, shape)).astype(np.float32))


def point(net: Net, kind: type, *shape: int, zero: bool = False) -> str:
    """Zero points, in the middle of the range for unsigned integers."""
    low, high = (110, 140) if kind is np.uint8 else (-12, 12)
    numbers = np.zeros(shape) if zero else net.rng.integers(low, high, shape)
    return net.const(np.asarray(numbers).astype(kind))


def integers(net: Net, *shape: int, kind: type = np.int8, middle: int = 0) -> str:
    """A quantised weight."""
    values = np.clip(np.round(net.rng.normal(middle, 25, shape)), *_limits(kind))
    return net.const(values.astype(kind))


def _limits(kind: type) -> tuple[int, int]:
    """Seven bits where signed: processors without VNNI saturate the sum of two products, and
    which two are summed depends on the number of channels."""
    return (1, 255) if kind is np.uint8 else (-63, 63)


@case(*[(m, o) for m in ("tensor", "channels", "no-point") for o in (13, 19, 21)])
def activations(rng: Rng, how: str, opset: int) -> Example:
    """A pair around an activation."""
    kind = np.uint8 if rng.random() < 0.5 else np.int8

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        shape = (c,) if how == "channels" else ()
        given = [scale(net, *shape, size=0.03)]
        if how != "no-point":
            given.append(point(net, kind, *shape))
        extra = {"axis": net.pick(axis, axis - rank)} if how == "channels" else {}
        q = net.op("QuantizeLinear", h, *given, **extra)
        return net.op("DequantizeLinear", q, *given, **extra)

    return around(rng, make, opset=opset, tolerance=_ROUNDED)


@case("activations")
def contrib_pair(rng: Rng, how: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        given = [scale(net, size=0.03), point(net, np.uint8)]
        q = net.op("QuantizeLinear", h, *given, domain=MS)
        return net.op("DequantizeLinear", q, *given, domain=MS)

    return around(rng, make, tolerance=_ROUNDED)


@case("tensor", "channels", "channels-no-point")
def conv_weights(rng: Rng, how: str) -> Example:
    """int8 weights and an int32 bias behind DequantizeLinear, as quantisation tools write them."""
    net = Net(rng, 17)
    n, c, m = 3, net.size(5, 8), 4
    h = net.input([net.batch, n, 5, 5])
    for inputs, outputs in ((n, c), (c, m)):
        shape = () if how == "tensor" else (outputs,)
        given = [scale(net, *shape, size=0.01)]
        if how != "channels-no-point":
            given.append(point(net, np.int8, *shape, zero=net.pick(True, False)))
        extra = {"axis": 0} if shape else {}
        w = net.op("DequantizeLinear", integers(net, outputs, inputs, 3, 3), *given, **extra)
        bias = net.const(net.rng.integers(-900, 900, outputs).astype(np.int32))
        b = net.op("DequantizeLinear", bias, scale(net, *shape, size=5e-4), **extra)
        h = net.op("Conv", h, w, b, pads=[1] * 4)
        if outputs == c:
            h = net.op("LeakyRelu", h)
    return net.example(h, units=c)


@case("depthwise", "grouped")
def grouped_weights(rng: Rng, how: str) -> Example:
    net = Net(rng, 17)
    g, d = (net.size(5, 8), 1) if how == "depthwise" else (2, 4)
    c = g * d
    h = net.conv(net.input([net.batch, 3, 5, 5]), 3, c)
    w = net.op("DequantizeLinear", integers(net, c, d, 3, 3), scale(net, c, size=0.01), axis=0)
    h = net.op("LeakyRelu", net.op("Conv", h, w, group=g, pads=[1] * 4))
    return net.example(net.conv(h, c, 4), units=c if how == "depthwise" else None)


@case("tensor", "columns", "rows")
def matmul_weights(rng: Rng, how: str) -> Example:
    net = Net(rng, 17)
    n, c, m = 3, net.size(5, 8), 4
    h = net.input([net.batch, 3, n])
    for inputs, outputs in ((n, c), (c, m)):
        axis = {"tensor": None, "columns": 1, "rows": 0}[how]
        shape = () if axis is None else ((inputs, outputs)[axis],)
        given = [scale(net, *shape, size=0.01), point(net, np.int8, *shape)]
        w = net.op("DequantizeLinear", integers(net, inputs, outputs), *given, axis=axis)
        h = net.op("MatMul", h, w)
        if outputs == c:
            h = net.op("LeakyRelu", net.op("Add", h, net.vector(c)))
    return net.example(h, units=c)


@case("whole", "broken")
def blocks(rng: Rng, how: str) -> Example:
    """Scales for blocks of rows (opset 21): whole blocks leave, or none where one is broken."""
    net = Net(rng, 21)
    n, b = 3, net.size(3, 4)
    count = net.size(3, 4)
    c = b * count - (how == "broken")
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, n]), n, c))
    m = 5
    given = [scale(net, count, m, size=0.02), point(net, np.int8, count, m)]
    w = net.op("DequantizeLinear", integers(net, c, m), *given, axis=0, block_size=b)
    h = net.op("Tanh", net.op("MatMul", h, w))
    units = (m,) if how == "broken" else (count, m)
    reason = "last block is not whole" if how == "broken" else ""
    return net.example(net.dense(h, m, 3), units=units, reason=reason)


@case()
def full_network(rng: Rng) -> Example:
    """Activations and weights in pairs, a residual, a pool: what static quantisation gives."""
    net = Net(rng, 17)
    c = net.size(5, 8)

    def pair(h: str) -> str:
        given = [scale(net, size=0.04), point(net, np.uint8)]
        return net.op("DequantizeLinear", net.op("QuantizeLinear", h, *given), *given)

    def layer(h: str, inputs: int, outputs: int) -> str:
        w = integers(net, outputs, inputs, 3, 3)
        w = net.op("DequantizeLinear", w, scale(net, outputs, size=0.01), axis=0)
        return pair(net.op("Conv", h, w, net.vector(outputs), pads=[1] * 4))

    h = layer(pair(net.input([net.batch, 3, 4, 4])), 3, c)
    h = pair(net.op("Add", h, layer(net.op("LeakyRelu", h), c, c)))
    h = net.op("Flatten", pair(net.op("GlobalAveragePool", h)))
    return net.example(pair(net.dense(h, c, 4)), units=c, tolerance=2 * _ROUNDED)


@case("signed", "unsigned")
def dynamic_matmul(rng: Rng, how: str) -> Example:
    """DynamicQuantizeLinear, MatMulInteger: exact where the weight has no zero point."""
    net = Net(rng, 17)
    n, c = 3, net.size(5, 8)
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, n]), n, c))
    q, s, p = net.ops("DynamicQuantizeLinear", h, count=3)
    kind = np.int8 if how == "signed" else np.uint8
    m, middle = net.size(6, 9), 0 if how == "signed" else 128
    w = integers(net, c, m, kind=kind, middle=middle)
    shape = net.pick((), (m,))
    points = (
        [point(net, kind, *shape, zero=True)] if how == "signed" else [point(net, kind, *shape)]
    )
    y = net.op("MatMulInteger", q, w, p, *points)
    y = net.op("Mul", net.op("Cast", y, to=TensorProto.FLOAT), net.op("Mul", s, scale(net, m)))
    units = (c, m) if how == "signed" else (m,)
    reason = "" if how == "signed" else "both sides have a zero point"
    return net.example(net.dense(y, m, 4), units=units, reason=reason, tolerance=_ROUNDED)


@case("none", "points")
def conv_integer(rng: Rng, how: str) -> Example:
    net = Net(rng, 17)
    c, m, g = net.size(5, 8), 6, 1
    h = net.op("LeakyRelu", net.conv(net.input([net.batch, 3, 5, 5]), 3, c))
    q, s, p = net.ops("DynamicQuantizeLinear", h, count=3)
    if how == "none":
        w, points = integers(net, m, c, 3, 3, kind=np.uint8, middle=90), [p]
    else:
        w = integers(net, m, c, 3, 3, kind=np.uint8, middle=128)
        points = [p, point(net, np.uint8)]
    y = net.op("ConvInteger", q, w, *points, pads=[1] * 4, group=g)
    y = net.op("Mul", net.op("Mul", net.op("Cast", y, to=TensorProto.FLOAT), s), net.const(0.004))
    units = (c, m) if how == "none" else (m,)
    return net.example(net.conv(y, m, 4), units=units, tolerance=_ROUNDED)


@case("channels", "tensor", "points", "contrib")
def qlinear_conv(rng: Rng, how: str) -> Example:
    """Everything in integers; with zero points on both sides the inputs stay."""
    net = Net(rng, 17)
    c, m = net.size(5, 8), 6
    activation = [scale(net, size=0.03), point(net, np.uint8)]
    h = net.conv(net.input([net.batch, 3, 5, 5]), 3, c)
    q = net.op("QuantizeLinear", h, *activation)
    for inputs, outputs in ((c, m), (m, 4)):
        if how == "points":
            w = integers(net, outputs, inputs, 3, 3, kind=np.uint8, middle=128)
            weight = [scale(net, size=0.01), point(net, np.uint8)]
        else:
            w = integers(net, outputs, inputs, 3, 3)
            shape = (outputs,) if how == "channels" else ()
            weight = [scale(net, *shape, size=0.01), point(net, np.int8, *shape, zero=True)]
        after = [scale(net, size=0.06), point(net, np.uint8)]
        bias = net.const(net.rng.integers(-900, 900, outputs).astype(np.int32))
        domain = MS if how == "contrib" else ""
        given = [q, *activation, w, *weight, *after, bias]
        q = net.op("QLinearConv", *given, domain=domain, pads=[1] * 4)
        activation = after
    y = net.op("DequantizeLinear", q, *activation)
    units = () if how in ("points", "contrib") else (c, m)
    reason = {"points": "both sides have a zero point", "contrib": "made for one runtime"}
    return net.example(y, units=units, reason=reason.get(how, ""), tolerance=_ROUNDED)


@case()
def qlinear_conv_depthwise(rng: Rng) -> Example:
    net = Net(rng, 17)
    c = net.size(5, 8)
    activation = [scale(net, size=0.03), point(net, np.uint8)]
    q = net.op("QuantizeLinear", net.conv(net.input([net.batch, 3, 5, 5]), 3, c), *activation)
    weight = [scale(net, c, size=0.02), point(net, np.int8, c, zero=True)]
    after = [scale(net, size=0.06), point(net, np.uint8)]
    q = net.op(
        "QLinearConv",
        q,
        *activation,
        integers(net, c, 1, 3, 3),
        *weight,
        *after,
        group=c,
        pads=[1] * 4,
    )
    y = net.op("DequantizeLinear", q, *after)
    return net.example(net.conv(y, c, 4), units=c, tolerance=_ROUNDED)


@case("columns", "tensor")
def qlinear_matmul(rng: Rng, how: str) -> Example:
    net = Net(rng, 17)
    n, c, m = 3, net.size(5, 8), 6
    activation = [scale(net, size=0.03), point(net, np.uint8)]
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, 3, n]), n, c))
    q = net.op("QuantizeLinear", h, *activation)
    shape = (m,) if how == "columns" else ()
    weight = [scale(net, *shape, size=0.01), point(net, np.int8, *shape, zero=True)]
    after = [scale(net, size=0.06), point(net, np.uint8)]
    q = net.op("QLinearMatMul", q, *activation, integers(net, c, m), *weight, *after)
    y = net.op("DequantizeLinear", q, *after)
    return net.example(net.dense(y, m, 4), units=(c, m), tolerance=_ROUNDED)


@case("columns", "tensor")
def matmul_integer_to_float(rng: Rng, how: str) -> Example:
    net = Net(rng, 17)
    n, c, m = 3, net.size(5, 8), 6
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, n]), n, c))
    q, s, p = net.ops("DynamicQuantizeLinear", h, count=3)
    shape = (m,) if how == "columns" else ()
    given = [s, scale(net, *shape, size=0.01), p, point(net, np.int8, *shape, zero=True)]
    y = net.op("MatMulIntegerToFloat", q, integers(net, c, m), *given, net.vector(m), domain=MS)
    return net.example(net.dense(y, m, 4), units=(c, m), tolerance=_ROUNDED)


@case("columns", "tensor")
def dynamic_quantize_matmul(rng: Rng, how: str) -> Example:
    """It quantises its float input itself, so the weight's zero point does not matter."""
    net = Net(rng, 17)
    n, c, m = 3, net.size(5, 8), 6
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, n]), n, c))
    shape = (m,) if how == "columns" else ()
    given = [scale(net, *shape, size=0.01), point(net, np.uint8, *shape), net.vector(m)]
    w = integers(net, c, m, kind=np.uint8, middle=128)
    y = net.op("DynamicQuantizeMatMul", h, w, *given, domain=MS)
    return net.example(net.dense(y, m, 4), units=(c, m), tolerance=_ROUNDED)


@case(0, 1)
def qgemm(rng: Rng, transposed: int) -> Example:
    net = Net(rng, 17)
    n, c, m = 3, net.size(5, 8), 6
    activation = [scale(net, size=0.03), point(net, np.uint8)]
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, n]), n, c))
    q = net.op("QuantizeLinear", h, *activation)
    shape = net.pick((m,), ())
    weight = [scale(net, *shape, size=0.01), point(net, np.int8, *shape, zero=True)]
    w = integers(net, *((m, c) if transposed else (c, m)))
    bias = net.const(net.rng.integers(-900, 900, m).astype(np.int32))
    after = [scale(net, size=0.06), point(net, np.uint8)]
    q = net.op("QGemm", q, *activation, w, *weight, bias, *after, domain=MS, transB=transposed)
    y = net.op("DequantizeLinear", q, *after)
    return net.example(net.dense(y, m, 4), units=(c, m), tolerance=_ROUNDED)


@case("points", "no-points")
def matmul_n_bits(rng: Rng, how: str) -> Example:
    """Four bits packed along the rows: the columns leave, the rows stay."""
    net = Net(rng, 17)
    n, k, m, b = 3, 32, net.size(5, 8), 16
    h = net.dense(net.input([net.batch, n]), n, k)
    packed = net.const(net.rng.integers(0, 256, (m, k // b, b // 2)).astype(np.uint8))
    given = [scale(net, m * (k // b), size=0.03)]
    if how == "points":
        given.append(net.const(net.rng.integers(0, 256, m * 1).astype(np.uint8)))
    y = net.op(
        "MatMulNBits",
        h,
        packed,
        *given,
        domain=MS,
        K=k,
        N=m,
        bits=4,
        block_size=b,
        accuracy_level=0,
    )
    return net.example(net.dense(y, m, 4), units=m, reason="packed along this axis", tolerance=1e-4)


def quantised(net: Net, h: str) -> tuple[str, list[str]]:
    given = [scale(net, size=0.04), point(net, np.uint8)]
    return net.op("QuantizeLinear", h, *given), given


@case("QLinearAdd", "QLinearMul")
def binary(rng: Rng, op: str) -> Example:
    """Two branches, or a branch and a quantised vector."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        q, given = quantised(net, h)
        if rng.random() < 0.5:
            other = quantised(net, net.op("Tanh", h))
        else:
            shape = (c, *[1] * (rank - 1 - axis))
            numbers = net.rng.integers(20, 220, shape).astype(np.uint8)
            other = net.const(numbers), [scale(net, size=0.02), point(net, np.uint8)]
        after = [scale(net, size=0.04), point(net, np.uint8)]
        y = net.op(op, q, *given, other[0], *other[1], *after, domain=MS)
        return net.op("DequantizeLinear", y, *after)

    return around(rng, make, tolerance=_ROUNDED)


@case("QLinearLeakyRelu", "QLinearSigmoid")
def unary(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        q, given = quantised(net, h)
        after = [scale(net, size=0.02), point(net, np.uint8)]
        y = net.op(op, q, *given, *after, domain=MS)
        return net.op("DequantizeLinear", y, *after)

    return around(rng, make, tolerance=_ROUNDED)


@case("channels", "positions")
def softmax(rng: Rng, what: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        q, given = quantised(net, h)
        after = [net.const(1 / 256), net.const(np.uint8(0))]
        over = axis if what == "channels" else rank - 1
        y = net.op("QLinearSoftmax", q, *given, *after, domain=MS, axis=over, opset=13)
        return net.op("DequantizeLinear", y, *after)

    if what == "channels":
        return around(rng, make, units=(), reason="not neutral to removed channels")
    return around(rng, make, channels_last=False, tolerance=_ROUNDED)


@case("QLinearGlobalAveragePool", "QLinearAveragePool")
def pool(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        q, given = quantised(net, h)
        after = [scale(net, size=0.02), point(net, np.uint8)]
        extra = {} if "Global" in op else {"kernel_shape": [2, 2]}
        y = net.op("DequantizeLinear", net.op(op, q, *given, *after, domain=MS, **extra), *after)
        return net.op("Mul", h, y) if "Global" in op else y

    return around(rng, make, channels_last=False, spatial=2, tolerance=_ROUNDED)


@case()
def concat(rng: Rng) -> Example:
    net = Net(rng, 17)
    n, widths = 3, [net.size(4, 6), net.size(4, 6)]
    x = net.input([net.batch, n, 4, 4])
    parts = []
    for c in widths:
        q, given = quantised(net, net.conv(x, n, c))
        parts += [q, *given]
    after = [scale(net, size=0.04), point(net, np.uint8)]
    y = net.op(
        "DequantizeLinear", net.op("QLinearConcat", *after, *parts, domain=MS, axis=1), *after
    )
    return net.example(net.conv(y, sum(widths), 4), units=widths, tolerance=_ROUNDED)


@case("int4", "float8")
def narrow_weights(rng: Rng, kind: str) -> Example:
    """Weights of four bits and of eight floating bits."""
    net = Net(rng, 21)
    n, c = 3, net.size(5, 8)
    h = net.op("LeakyRelu", net.dense(net.input([net.batch, n]), n, c))
    data = {"int4": TensorProto.INT4, "float8": TensorProto.FLOAT8E4M3FN}[kind]
    numbers = net.rng.integers(-7, 8, c * 4) if kind == "int4" else net.rng.normal(0, 4, c * 4)
    net.typed.append(helper.make_tensor("narrow", data, [c, 4], numbers.tolist()))
    w = net.op("DequantizeLinear", "narrow", scale(net, 4, size=0.1), axis=1)
    return net.example(net.op("MatMul", h, w), units=c)
