"""Audit cases of the elementwise ops."""

from __future__ import annotations

import numpy as np
from audit_net import MS, Example, Net, Rng, around, case
from onnx import TensorProto, helper, numpy_helper

_POSITIVE = {"Log", "Sqrt", "Reciprocal", "Acosh"}
_BOUNDED = {"Acos", "Asin", "Atanh"}
_OPSET = {"Swish": 24, "BitwiseNot": 18}


@case(
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh"),
    *("Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"),
    *("Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
def unary(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        if op in _POSITIVE:
            h = net.op("Add", net.op("Abs", h), net.const(1.25))
        if op in _BOUNDED or op == "Tan":
            h = net.op("Mul", net.op("Tanh", h), net.const(0.9))
        attributes = {"ThresholdedRelu": {"alpha": 0.3}, "Shrink": {"lambd": 0.2, "bias": 0.1}}
        return net.op(op, h, **attributes.get(op, {}))

    return around(rng, make, opset=_OPSET.get(op, 20), reference=op == "Swish")


@case("QuickGelu", "Gelu", "FastGelu", "BiasGelu", "FastGelu+bias")
def unary_contrib(rng: Rng, op: str) -> Example:
    name, _, bias = op.partition("+")

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        if bias or name == "BiasGelu":
            return net.op(name, h, net.vector(c), domain=MS)
        return net.op(name, h, domain=MS)

    return around(rng, make, channels_last=True)


@case("IsNaN", "IsInf", "Not", "BitwiseNot")
def unary_to_bool(rng: Rng, op: str) -> Example:
    """0 / 1 values that depend on the channel, put back among the floats."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        if op == "Not":
            bits = net.op("Not", net.op("Greater", h, net.const(0.1)))
        elif op == "BitwiseNot":
            scaled = net.op("Mul", h, net.const(20.0))
            bits = net.op("BitwiseNot", net.op("Cast", scaled, to=TensorProto.INT32))
            return net.op("Mul", net.op("Cast", bits, to=TensorProto.FLOAT), net.const(0.05))
        else:
            odd = net.op("Sqrt", h) if op == "IsNaN" else net.op("Log", net.op("Relu", h))
            bits = net.op(op, odd)
        return net.op("Where", bits, h, net.op("Mul", h, net.const(-0.3)))

    return around(rng, make)


@case("Cast", "CastLike")
def casts(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        half = net.op("Cast", h, to=net.pick(TensorProto.FLOAT16, TensorProto.DOUBLE))
        if op == "CastLike" and net.pick(True, False):  # of the shape only the type counts
            return net.op("Max", h, net.op("CastLike", net.const(0.05), h))
        if op == "CastLike":
            return net.op("CastLike", net.op("Abs", half), h)
        return net.op("Cast", net.op("Abs", half), to=TensorProto.FLOAT)

    return around(rng, make, tolerance=2e-3)  # half floats round


def operand(net: Net, h: str, c: int, axis: int, rank: int, kind: str) -> str:
    """A second operand of `h`: another branch, a gate, or a weight of some shape."""
    if kind == "branch":  # the same channels behind another path
        return net.op("Tanh", net.op("Mul", h, net.const(0.7)))
    if kind == "self":
        return h
    if kind == "gate":  # one value for each position
        return net.op("ReduceSum", net.op("Sigmoid", h), net.ints(axis), keepdims=1)
    if kind == "scalar":
        return net.const(net.pick(0.4, [0.6], [[-0.8]]))
    if kind == "channels":
        return net.vector(c, *[1] * (rank - 1 - axis))
    full = [1] * rank
    full[axis] = c
    if kind == "wide":
        return net.vector(*full)
    raise ValueError(kind)


_KINDS = ("branch", "self", "gate", "scalar", "channels", "wide")


@case(
    *[
        (op, kind)
        for op in ("Add", "Sub", "Mul")
        for kind in _KINDS
        if (op, kind) != ("Sub", "self")
    ]
)
def arithmetic(rng: Rng, op: str, kind: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        pair = [h, operand(net, h, c, axis, rank, kind)]
        if rng.random() < 0.5:
            pair.reverse()
        return net.op(op, *pair)

    return around(rng, make)


@case(*_KINDS)
def division(rng: Rng, kind: str) -> Example:
    """The divisor is kept away from zero."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        other = net.op("Abs", operand(net, h, c, axis, rank, kind))
        return net.op("Div", h, net.op("Add", other, net.const(1.0)))

    return around(rng, make)


@case(*_KINDS)
def power(rng: Rng, kind: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        base = net.op("Add", net.op("Abs", h), net.const(0.5))
        return net.op("Pow", base, operand(net, h, c, axis, rank, kind))

    return around(rng, make)


@case(*[(op, kind) for op in ("Min", "Max", "Mean", "Sum") for kind in _KINDS])
def variadic(rng: Rng, op: str, kind: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        operands = [h, operand(net, h, c, axis, rank, kind)]
        for _ in range(net.size(0, 2)):
            operands.append(operand(net, h, c, axis, rank, net.pick(*_KINDS)))
        order = rng.permutation(len(operands))
        return net.op(op, *[operands[i] for i in order])

    return around(rng, make)


@case("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
def comparison(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        kind = net.pick(*_KINDS)
        other = operand(net, h, c, axis, rank, kind)
        if op == "Equal":  # of rounded values, which do meet
            bits = net.op(op, net.op("Round", h), net.op("Round", other))
        else:
            bits = net.op(op, h, other)
        return net.op("Where", bits, h, net.op("Mul", h, net.const(-0.5)))

    return around(rng, make)


@case("And", "Or", "Xor")
def logic(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        a = net.op("Greater", h, net.const(0.1))
        b = net.op("Less", h, operand(net, h, c, axis, rank, net.pick(*_KINDS)))
        return net.op("Where", net.op(op, a, b), h, net.op("Mul", h, net.const(-0.5)))

    return around(rng, make)


@case("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Mod", "Mod-float", "Mod-scalar")
def integers(rng: Rng, op: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        if op == "Mod-float":
            return net.op("Mod", h, net.vector(c, *[1] * (rank - 1 - axis)), fmod=1)
        scaled = net.op("Mul", net.op("Abs", h), net.const(20.0))
        whole = net.op("Cast", scaled, to=TensorProto.UINT32)
        numbers = rng.integers(1, 6, (c, *[1] * (rank - 1 - axis))).astype(np.uint32)
        other = net.const(np.uint32(3) if op == "Mod-scalar" else numbers)
        extra = {"direction": net.pick("LEFT", "RIGHT")} if op == "BitShift" else {}
        y = net.op(op.partition("-")[0], whole, other, **extra)
        return net.op("Mul", net.op("Cast", y, to=TensorProto.FLOAT), net.const(0.05))

    if op == "Mod":
        return around(rng, make, units=(), reason="modulo by removed zeros")
    return around(rng, make)


@case("vector", "scalar", "full")
def prelu(rng: Rng, kind: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        shape = {"vector": (c, *[1] * (rank - 1 - axis)), "scalar": (1,), "full": (1,) * rank}[kind]
        return net.op("PRelu", h, net.vector(*shape, low=0.05, high=0.4))

    return around(rng, make)


@case("both", "low", "high")
def clip(rng: Rng, kind: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        low = "" if kind == "high" else net.const(net.pick(-0.4, 0.2))
        high = [] if kind == "low" else [net.const(0.7)]
        return net.op("Clip", h, low, *high)

    return around(rng, make)


@case("scalar", "channels", "mask")
def where(rng: Rng, kind: str) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        tail = [1] * (rank - 1 - axis)
        if kind == "mask":  # a constant mask of the channels, a weight of no floating type
            condition = net.const(np.resize([True, False, True], c).reshape(c, *tail))
        else:
            condition = net.op("Greater", h, net.const(-0.2))
        other = net.vector(c, *tail) if kind == "channels" else net.const(0.3)
        return net.op("Where", condition, *net.pick((h, other), (other, h)))

    return around(rng, make)


@case(7, 12, 13)
def dropout(rng: Rng, opset: int) -> Example:
    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        if opset >= 12 and rng.random() < 0.5:
            y, mask = net.ops("Dropout", h, count=2)
            return net.op("Mul", y, net.op("Cast", mask, to=TensorProto.FLOAT))
        return net.op("Dropout", h)

    return around(rng, make, opset=max(opset, 11))


@case()
def constant_nodes(rng: Rng) -> Example:
    """Weights in Constant nodes are weights."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        bias = net.rng.normal(0, 1, (c, *[1] * (rank - 1 - axis))).astype(np.float32)
        value = numpy_helper.from_array(bias)
        return net.op("Add", h, net.op("Constant", value=value))

    return around(rng, make)


@case("float16", "float64")
def other_floats(rng: Rng, dtype: str) -> Example:
    """Weights of half and of double precision."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    kind = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}[dtype]
    h = net.op("Cast", net.input([net.batch, n]), to=kind)
    for inputs, outputs in ((n, c), (c, 4)):
        w = net.const(net.constants.pop(net.weight(inputs, outputs)), dtype)
        b = net.const(net.constants.pop(net.vector(outputs)), dtype)
        h = net.op("Add", net.op("MatMul", h, w), b)
        h = net.op("Tanh", h) if outputs == c else net.op("Cast", h, to=TensorProto.FLOAT)
    return net.example(h, units=c, tolerance=5e-3)


@case()
def initializer_that_is_an_input(rng: Rng) -> Example:
    """A caller may replace it: what it meets stays."""

    def make(net: Net, h: str, c: int, axis: int, rank: int) -> str:
        shape = [c, *[1] * (rank - 1 - axis)]
        name = net.vector(*shape)
        net.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return net.op("Add", h, name)

    return around(rng, make, units=(), reason="it meets something of fixed size")


@case()
def residual(rng: Rng) -> Example:
    """Two producers joined, their channels leave together."""
    net = Net(rng)
    n, c, m = net.size(3, 6), net.size(5, 9), net.size(3, 6)
    x = net.input([net.batch, n])
    a, b = net.dense(x, n, c), net.dense(x, n, c)
    joined = net.op(net.pick("Add", "Sub", "Mul", "Sum", "Max"), a, net.op("Relu", b))
    return net.example(net.dense(joined, c, m), units=c)


@case()
def positions(rng: Rng) -> Example:
    """A learned table of positions is added: [L, C] meets [N, L, C]."""
    net = Net(rng)
    n, c, m, length = net.size(3, 6), net.size(5, 9), net.size(3, 6), net.size(2, 5)
    h = net.dense(net.input([net.batch, length, n]), n, c)
    y = net.op("Add", h, net.vector(*net.pick((length, c), (1, length, c))))
    return net.example(net.dense(y, c, m), units=c)


@case()
def outer(rng: Rng) -> Example:
    """[N, C, 1] meets [N, 1, D]: both axes go on, each with its own channels."""
    net = Net(rng)
    n, c, d = net.size(3, 6), net.size(4, 6), net.size(7, 9)
    x = net.input([net.batch, n])
    a = net.op("Unsqueeze", net.dense(x, n, c), net.ints(2))
    b = net.op("Unsqueeze", net.dense(x, n, d), net.ints(1))
    y = net.dense(net.op("Add", a, b), d, 3)
    y = net.op("MatMul", net.op("Transpose", y, perm=[0, 2, 1]), net.weight(c, 4))
    return net.example(y, units=(c, d))


@case("input", "output")
def pinned(rng: Rng, where: str) -> Example:
    """What meets a graph input or becomes a graph output stays."""
    net = Net(rng)
    n, c = net.size(3, 6), net.size(5, 9)
    x = net.input([net.batch, n])
    h = net.op("Relu", net.dense(x, n, c))
    if where == "output":
        return net.example(h, reason="it is the model's output")
    other = net.input([net.batch, c])
    y = net.dense(net.op("Add", h, other), c, 4)
    return net.example(y, reason="it meets something of fixed size")
