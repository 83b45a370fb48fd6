"""Audit cases of If, Loop, Scan and sequences."""

from __future__ import annotations

import numpy as np
import onnx
from audit_net import Example, Net, Rng, case
from onnx import TensorProto, helper

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


class Body:
    """A nested graph under construction; tensors outside are read by name.

    Args:
        net: The graph around it, whose weights it reads.
        tag: Starts the names of its tensors.
        own: Weights made for it stand inside it.
    """

    def __init__(self, net: Net, tag: str, *, own: bool = False) -> None:
        self.net, self.tag, self.own = net, tag, own
        self.before = set(net.constants)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, shape: list[int] | None, dtype: int = FLOAT) -> str:
        name = f"{self.tag}_x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{self.tag}_t{len(self.nodes)}"
        node = helper.make_node(op_type, list(inputs), [name], f"{self.tag}_{op_type}_{name}")
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return name

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        y = self.op("MatMul", x, self.net.weight(inputs, outputs))
        return self.op("Add", y, self.net.vector(outputs))

    def close(self, *outputs: tuple[str, int]) -> onnx.GraphProto:
        own = []
        if self.own:
            names = [k for k in self.net.constants if k not in self.before]
            own = [onnx.numpy_helper.from_array(self.net.constants.pop(k), k) for k in names]
        infos = [helper.make_tensor_value_info(n, kind, None) for n, kind in outputs]
        return helper.make_graph(self.nodes, self.tag, self.inputs, infos, own)


def condition(net: Net) -> str:
    """A scalar that depends on an input."""
    flag = net.input([1], feed=lambda r, shape: r.normal(0, 1, shape).astype(np.float32))
    return net.op("Greater", flag, net.const([0.0]))


@case("inside", "outside")
def if_layers(rng: Rng, where: str) -> Example:
    """A different layer in each branch, their results take one place: one width for both."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    x = net.input([net.batch, n])
    graphs = {}
    for name in ("then_branch", "else_branch"):
        inner = Body(net, name[:4], own=where == "inside")
        y = inner.op("Tanh", inner.dense(x, n, c))
        graphs[name] = inner.close((y, FLOAT))
    h = net.op("If", condition(net), **graphs)
    return net.example(net.dense(h, c, 4), units=c)


@case("same", "identity")
def if_captured(rng: Rng, how: str) -> Example:
    """Branches read a tensor from outside."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    first, second = Body(net, "a"), Body(net, "b", own=True)
    y = first.op("Relu", h)
    z = second.op("Mul", h, net.vector(c)) if how == "same" else second.op("Identity", h)
    graphs = {"then_branch": first.close((y, FLOAT)), "else_branch": second.close((z, FLOAT))}
    y = net.op("If", condition(net), **graphs)
    return net.example(net.dense(net.op("Add", h, y), c, 4), units=c)


@case()
def if_private_layer(rng: Rng) -> Example:
    """A hidden layer inside one branch; the other gives a learned vector."""
    net = Net(rng)
    net.batch = 2
    n, c, d = 3, net.size(5, 8), 4
    x = net.input([2, n])
    first, second = Body(net, "a", own=True), Body(net, "b", own=True)
    y = first.dense(first.op("Tanh", first.dense(x, n, c)), c, d)
    first_graph = first.close((y, FLOAT))
    z = second.op("Identity", net.vector(2, d))
    graphs = {"then_branch": first_graph, "else_branch": second.close((z, FLOAT))}
    h = net.op("If", condition(net), **graphs)
    return net.example(net.dense(h, d, 3), units=(c, d), tolerance=1e-4)


@case()
def if_nested(rng: Rng) -> Example:
    """An If inside a branch of another."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    test = condition(net)
    one, two, three = Body(net, "a"), Body(net, "b"), Body(net, "c")
    graphs = {
        "then_branch": one.close((one.op("Relu", h), FLOAT)),
        "else_branch": two.close((two.op("Neg", h), FLOAT)),
    }
    inner = three.op("If", three.op("Not", test), **graphs)
    four = Body(net, "d")
    y = net.op(
        "If",
        test,
        then_branch=three.close((inner, FLOAT)),
        else_branch=four.close((four.op("Sigmoid", h), FLOAT)),
    )
    return net.example(net.dense(y, c, 4), units=c)


@case()
def if_reshape(rng: Rng) -> Example:
    """Size operands inside a branch."""
    net = Net(rng)
    h, d, n = 2, net.size(3, 5), 3
    x = net.dense(net.input([net.batch, n]), n, h * d)
    graphs = {}
    for tag, op in (("then_branch", "Tanh"), ("else_branch", "Relu")):
        inner = Body(net, tag[:4], own=True)
        y = inner.op(op, inner.op("Reshape", x, net.ints(0, h, d)))
        graphs[tag] = inner.close((y, FLOAT))
    y = net.reshape(net.op("If", condition(net), **graphs), 0, h * d)
    return net.example(net.dense(y, h * d, 4), units=h * d)


@case()
def if_shapes_differ(rng: Rng) -> Example:
    """Branches of different length: what they give stays whole."""
    net = Net(rng)
    n, c, t = 3, net.size(5, 8), 4
    h = net.dense(net.input([2, t, n]), n, c)
    one, two = Body(net, "a"), Body(net, "b", own=True)
    y = one.op("Relu", h)
    z = two.op("Slice", h, net.ints(0), net.ints(2), net.ints(1))
    graphs = {"then_branch": one.close((y, FLOAT)), "else_branch": two.close((z, FLOAT))}
    y = net.op("ReduceSum", net.op("If", condition(net), **graphs), net.ints(1), keepdims=0)
    return net.example(net.dense(y, c, 4), units=(), reason="differs from branch to branch")


@case("inside", "outside")
def loop_carried(rng: Rng, where: str) -> Example:
    """h = tanh(h W + x U): a recurrent layer by hand, its width goes round."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    x = net.input([2, n])
    start = net.op("Tanh", net.dense(x, n, c))
    inner = Body(net, "loop", own=where == "inside")
    inner.input([], INT64)
    go = inner.input([], BOOL)
    h = inner.input([2, c])
    total = inner.op("Add", inner.op("MatMul", h, net.weight(c, c)), inner.dense(x, n, c))
    y = inner.op("Tanh", total)
    graph = inner.close((inner.op("Identity", go), BOOL), (y, FLOAT))
    h = net.op("Loop", net.const(3), net.const(np.bool_(True)), start, body=graph)
    return net.example(net.dense(h, c, 4), units=c)


@case("input", "zeros", "weight")
def loop_start(rng: Rng, how: str) -> Example:
    """The first state is a graph input (the width stays), zeros, or a learned vector."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    x = net.input([2, n])
    start = {
        "input": lambda: net.input([2, c]),
        "zeros": lambda: net.op("ConstantOfShape", net.ints(2, c)),
        "weight": lambda: net.vector(2, c),
    }[how]()
    inner = Body(net, "loop", own=True)
    inner.input([], INT64)
    go = inner.input([], BOOL)
    h = inner.input([2, c])
    y = inner.op(
        "Tanh", inner.op("Add", inner.op("MatMul", h, net.weight(c, c)), inner.dense(x, n, c))
    )
    graph = inner.close((inner.op("Identity", go), BOOL), (y, FLOAT))
    h = net.op("Loop", net.const(2), net.const(np.bool_(True)), start, body=graph)
    return net.example(net.dense(h, c, 4), units=() if how == "input" else c)


@case()
def loop_stacked(rng: Rng) -> Example:
    """Results of every step stacked in front."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    x = net.input([2, n])
    start = net.dense(x, n, c)
    inner = Body(net, "loop", own=True)
    step = inner.input([], INT64)
    go = inner.input([], BOOL)
    h = inner.input([2, c])
    y = inner.op("Tanh", inner.op("MatMul", h, net.weight(c, c)))
    each = inner.op("Add", inner.op("Cast", step, to=FLOAT), y)
    graph = inner.close((inner.op("Identity", go), BOOL), (y, FLOAT), (each, FLOAT))
    last, steps = net.ops(
        "Loop", net.const(3), net.const(np.bool_(True)), start, count=2, body=graph
    )
    return net.example(net.dense(net.op("Add", steps, last), c, 4), units=c)


@case()
def loop_reshape(rng: Rng) -> Example:
    """Size operands that read the carried tensor itself."""
    net = Net(rng)
    g, d, n = 2, net.size(3, 4), 3
    c = g * d
    start = net.dense(net.input([2, n]), n, c)
    inner = Body(net, "loop", own=True)
    inner.input([], INT64)
    go = inner.input([], BOOL)
    h = inner.input([2, c])
    y = inner.op(
        "Reshape", inner.op("Tanh", inner.op("Reshape", h, net.ints(2, g, d))), net.ints(2, c)
    )
    graph = inner.close((inner.op("Identity", go), BOOL), (y, FLOAT))
    h = net.op("Loop", net.const(2), net.const(np.bool_(True)), start, body=graph)
    return net.example(net.dense(h, c, 4), units=c)


@case()
def loop_grows(rng: Rng) -> Example:
    """A tensor that grows with every step stays whole."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    start = net.dense(net.input([2, n]), n, c)
    inner = Body(net, "loop", own=True)
    inner.input([], INT64)
    go = inner.input([], BOOL)
    h = inner.input(None)
    y = inner.op("Concat", h, start, axis=0)
    graph = inner.close((inner.op("Identity", go), BOOL), (y, FLOAT))
    h = net.op("Loop", net.const(2), net.const(np.bool_(True)), start, body=graph)
    return net.example(net.dense(h, c, 4), units=())


@case("plain", "axes", "reversed")
def scan(rng: Rng, how: str) -> Example:
    """A recurrent layer over a sequence of activations."""
    net = Net(rng)
    n, c, d, t, b = 3, net.size(5, 8), net.size(4, 6), 4, 2
    x = net.dense(net.input([b, t, n]), n, d)
    extra: dict[str, object] = {}
    if how == "axes":
        extra = {"scan_input_axes": [1], "scan_output_axes": [net.pick(1, -2)]}
    else:
        x = net.op("Transpose", x, perm=[1, 0, 2])
    if how == "reversed":
        extra = {"scan_input_directions": [1], "scan_output_directions": [1]}
    start = net.dense(net.input([b, n]), n, c)
    inner = Body(net, "scan", own=rng.random() < 0.5)
    h, each = inner.input([b, c]), inner.input([b, d])
    y = inner.op("MatMul", h, net.weight(c, c))
    y = inner.op("Tanh", inner.op("Add", y, inner.dense(each, d, c)))
    graph = inner.close((y, FLOAT), (inner.op("Relu", y), FLOAT))
    last, steps = net.ops("Scan", start, x, count=2, body=graph, num_scan_inputs=1, **extra)
    y = net.op("ReduceSum", steps, net.ints(1 if how == "axes" else 0), keepdims=0)
    return net.example(net.dense(net.op("Add", y, last), c, 4), units=(c, d))


@case()
def scan_channels(rng: Rng) -> Example:
    """A Scan that runs over the channels: they stay."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([2, n]), n, c)
    inner = Body(net, "scan")
    total, each = inner.input([2]), inner.input([2])
    y = inner.op("Add", total, each)
    graph = inner.close((y, FLOAT), (inner.op("Identity", y), FLOAT))
    zeros = net.op("ReduceSum", net.op("Mul", h, net.const(0.0)), net.ints(1), keepdims=0)
    _, sums = net.ops(
        "Scan",
        zeros,
        h,
        count=2,
        body=graph,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    return net.example(net.dense(sums, c, 4), units=(), reason="a Scan runs along it")


@case()
def same_names(rng: Rng) -> Example:
    """Tensors of both branches have the same names: a plan could not tell them apart."""
    net = Net(rng)
    n, c, d = 3, net.size(5, 6), net.size(7, 8)
    x = net.input([net.batch, n])
    graphs = {}
    for name, width in (("then_branch", c), ("else_branch", d)):
        inner = Body(net, "twice")
        y = inner.dense(inner.op("Tanh", inner.dense(x, n, width)), width, 4)
        graphs[name] = inner.close((y, FLOAT))
    y = net.op("If", condition(net), **graphs)
    return net.example(net.dense(y, 4, 3), units=(), reason="are called")


@case("own", "shared")
def same_node_names(rng: Rng, weights: str) -> Example:
    """Nodes of one name in both branches: no trouble if they read different weights. If they read
    the same one, a plan could not tell the two uses apart."""
    net = Net(rng)
    n, c = 3, net.size(5, 8)
    h = net.dense(net.input([net.batch, n]), n, c)
    shared = net.weight(c, c)
    graphs = {}
    for name in ("then_branch", "else_branch"):
        inner = Body(net, name[:4])
        w = shared if weights == "shared" else net.weight(c, c)
        y = inner.op("Tanh", inner.op("MatMul", h, w))
        for number, node in enumerate(inner.nodes):
            node.name = f"layer{number}"
        graphs[name] = inner.close((y, FLOAT))
    y = net.dense(net.op("If", condition(net), **graphs), c, 4)
    if weights == "shared":
        return net.example(y, units=(), reason="two nodes called 'layer0'")
    return net.example(y, units=(c, c))


@case("SequenceAt", "ConcatFromSequence", "SequenceInsert", "SequenceErase", "SplitToSequence")
def sequences(rng: Rng, op: str) -> Example:
    """Tensors in a sequence are not followed: their channels stay, others leave."""
    net = Net(rng)
    n, m, c = 3, net.size(5, 8), 4
    x = net.op("Tanh", net.dense(net.input([2, n]), n, m))
    a = net.dense(x, m, c)
    if op == "SplitToSequence":
        parts = net.op(op, a, net.const(2), axis=1)
        count = net.op("Cast", net.op("SequenceLength", parts), to=FLOAT)
        y = net.op("Mul", net.op("ConcatFromSequence", parts, axis=1), count)
        return net.example(y, units=m, reason="it makes a sequence")
    b = net.dense(x, m, c)
    if op == "SequenceInsert":
        empty = net.op("SequenceEmpty")
        parts = net.op("SequenceInsert", net.op("SequenceInsert", empty, a), b)
    else:
        parts = net.op("SequenceConstruct", a, b, a)
    if op == "SequenceErase":
        parts = net.op(op, parts, net.const(1))
    if op == "SequenceAt":
        y = net.op(op, parts, net.const(1))
    else:
        y = net.op("ConcatFromSequence", parts, axis=0)
    return net.example(y, units=m, reason="it makes a sequence")


@case()
def sequence_map(rng: Rng) -> Example:
    net = Net(rng, 18)
    n, m, c = 3, net.size(5, 8), 4
    x = net.op("Tanh", net.dense(net.input([2, n]), n, m))
    parts = net.op("SequenceConstruct", net.dense(x, m, c), net.dense(x, m, c))
    inner = Body(net, "each")
    y = inner.op("Relu", inner.input([2, c]))
    parts = net.op("SequenceMap", parts, body=inner.close((y, FLOAT)))
    return net.example(net.op("ConcatFromSequence", parts, axis=0), units=m)


@case()
def optional(rng: Rng) -> Example:
    net = Net(rng, 18)
    n, m, c = 3, net.size(5, 8), 4
    x = net.op("Tanh", net.dense(net.input([2, n]), n, m))
    maybe = net.op("Optional", net.dense(x, m, c))
    there = net.op("Cast", net.op("OptionalHasElement", maybe), to=FLOAT)
    y = net.op("Mul", net.op("OptionalGetElement", maybe), there)
    return net.example(net.op("Relu", y), units=m)
