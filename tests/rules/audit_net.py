"""Small live graphs for the audit: a builder, and what a case says it expects.

A case draws sizes, ranks and attributes at random, puts the op it is about between producers and
consumers with float weights, and states what must be found in it. Weights are scaled so that every
tensor has about unit variance: outputs near zero would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
MS = "com.microsoft"


@dataclass(frozen=True, eq=False)
class Example:
    """One graph and what must be found in it.

    Attributes:
        model: The graph.
        units: Sizes of the groups in the mode in which whole blocks leave, sorted; None: whatever.
        inner: The same in the mode in which channels inside blocks leave.
        reason: Part of a reason that must be given for something that stays; "" for none.
        statistics: Whether statistics are taken over what is kept, in either mode.
        reference: Run by onnx's reference implementation, where onnxruntime has no kernel.
        tolerance: Largest error relative to the largest magnitude of a tensor.
        feeds: Input name -> maker of an array from (rng, shape); float inputs default to N(0, 1).
    """

    model: onnx.ModelProto
    units: tuple[int, ...] | None
    inner: tuple[int, ...] | None
    reason: str = ""
    statistics: bool | None = False
    reference: bool = False
    tolerance: float = 2e-5
    feeds: dict[str, Callable[[Rng, tuple[int, ...]], np.ndarray]] | None = None

    def expected(self, *, blocks: bool) -> tuple[int, ...] | None:
        return self.units if blocks else self.inner

    @property
    def ops(self) -> set[tuple[str, str, int]]:
        """(domain, op, opset of the domain) of every node, bodies included."""
        versions = {o.domain: o.version for o in self.model.opset_import}
        found: set[tuple[str, str, int]] = set()

        def visit(graph: onnx.GraphProto) -> None:
            for node in graph.node:
                found.add((node.domain, node.op_type, versions.get(node.domain, 1)))
                for attribute in node.attribute:
                    if attribute.type == onnx.AttributeProto.GRAPH:
                        visit(attribute.g)

        visit(self.model.graph)
        return found


@dataclass(frozen=True)
class Case:
    """A named maker of examples."""

    name: str
    build: Callable[[Rng], Example]
    family: str


CASES: dict[str, Case] = {}


def case(*parameters: Any) -> Callable[[Callable[..., Example]], Callable[..., Example]]:
    """Register the decorated `(rng)` or, for each of `parameters`, `(rng, parameter)`."""

    def register(make: Callable[..., Example]) -> Callable[..., Example]:
        family = make.__module__.rpartition(".")[2].removeprefix("cases_")
        for parameter in parameters or (None,):
            name = f"{family}.{make.__name__}"
            if parameter is None:
                build: Callable[[Rng], Example] = make
            else:
                label = "-".join(map(str, parameter)) if isinstance(parameter, tuple) else parameter
                name = f"{name}[{label}]"

                def build(rng: Rng, given: Any = parameter) -> Example:
                    return make(rng, *given) if isinstance(given, tuple) else make(rng, given)

            assert name not in CASES, f"two cases are called {name}"
            CASES[name] = Case(name, build, family)
        return make

    return register


class Net:
    """A graph under construction.

    Args:
        rng: Draws weights, sizes and attributes.
        opset: Version of ai.onnx.
    """

    def __init__(self, rng: Rng, opset: int = 20) -> None:
        self.rng = rng
        self.opset = opset
        self.domains: dict[str, int] = {"": opset}
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.typed: list[onnx.TensorProto] = []
        self._named = 0
        self.feeds: dict[str, Callable[[Rng, tuple[int, ...]], np.ndarray]] = {}
        self.batch: int | str = "batch" if rng.random() < 0.5 else 2

    # -- drawing --------------------------------------------------------------------------------

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def size(self, low: int, high: int) -> int:
        """A random size, both ends included."""
        return int(self.rng.integers(low, high + 1))

    # -- values ---------------------------------------------------------------------------------

    def input(
        self,
        shape: Sequence[int | str],
        dtype: int = TensorProto.FLOAT,
        feed: Callable[[Rng, tuple[int, ...]], np.ndarray] | None = None,
    ) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        if feed is not None:
            self.feeds[name] = feed
        return name

    def const(self, value: Any, dtype: Any = None) -> str:
        """An initializer; Python integers become int64."""
        array = np.asarray(value)
        if dtype is not None:
            array = array.astype(dtype)
        elif array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"c{self._named}"
        self._named += 1
        self.constants[name] = array
        return name

    def ints(self, *numbers: int) -> str:
        return self.const(np.array(numbers, np.int64))

    def weight(self, *shape: int, fan_in: int | None = None) -> str:
        fan_in = fan_in or shape[0]
        return self.const(self.rng.normal(0, fan_in**-0.5, shape).astype(np.float32))

    def vector(self, *shape: int, low: float = -0.6, high: float = 0.6) -> str:
        """Random numbers, none of them near zero; all positive where `low` is."""
        values = self.rng.uniform(0.2, 1.0, shape)
        if low >= 0:
            return self.const((low + (high - low) * values).astype(np.float32))
        signs = self.rng.choice([-1.0, 1.0], shape)
        return self.const((np.maximum(abs(low), high) * signs * values).astype(np.float32))

    # -- nodes ----------------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(op_type, *inputs, count=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: str, count: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node with `count` outputs."""
        if domain:
            self.domains.setdefault(domain, 1)
        number = len(self.nodes)
        name = f"{op_type}_{number}"
        outputs = [f"t{number}"] if count == 1 else [f"t{number}_{k}" for k in range(count)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(
            helper.make_node(op_type, list(inputs), outputs, name, domain=domain, **attributes)
        )
        return outputs

    def dense(self, x: str, inputs: int, outputs: int, *, bias: bool | None = None) -> str:
        """MatMul on the last axis, with or without a bias."""
        y = self.op("MatMul", x, self.weight(inputs, outputs))
        if bias is None:
            bias = bool(self.rng.random() < 0.7)
        return self.op("Add", y, self.vector(outputs)) if bias else y

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        spatial: int = 2,
        group: int = 1,
        bias: bool | None = None,
        **attributes: Any,
    ) -> str:
        """A convolution that keeps positions (odd kernel, padded)."""
        depth = inputs // group
        w = self.weight(outputs, depth, *[kernel] * spatial, fan_in=depth * kernel**spatial)
        if bias is None:
            bias = bool(self.rng.random() < 0.7)
        extra = [self.vector(outputs)] if bias else []
        attributes.setdefault("pads", [kernel // 2] * 2 * spatial)
        if "auto_pad" in attributes:
            del attributes["pads"]
        return self.op("Conv", x, w, *extra, group=group, **attributes)

    def reshape(self, x: str, *sizes: int) -> str:
        """A Reshape to literal sizes."""
        return self.op("Reshape", x, self.ints(*sizes))

    # -- closing --------------------------------------------------------------------------------

    def example(
        self,
        *outputs: str,
        units: Sequence[int] | int | None = (),
        inner: Sequence[int] | int | None = None,
        reason: str = "",
        statistics: bool | None = False,
        reference: bool = False,
        tolerance: float = 2e-5,
        dtypes: Sequence[int] | None = None,
    ) -> Example:
        """Close the graph; `inner` is `units` where it is not given."""
        made = _sizes(units)
        within = made if inner is None else _sizes(inner)
        kinds = dtypes or [TensorProto.FLOAT] * len(outputs)
        graph = helper.make_graph(
            self.nodes,
            "audit",
            self.inputs,
            [
                onnx.helper.make_tensor_value_info(o, k, None)
                for o, k in zip(outputs, kinds, strict=True)
            ],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()] + self.typed,
        )
        model = helper.make_model(
            graph,
            ir_version=10,
            opset_imports=[helper.make_opsetid(d, v) for d, v in self.domains.items()],
        )
        return Example(
            model, made, within, reason, statistics, reference, tolerance, dict(self.feeds)
        )


def _sizes(given: Sequence[int] | int | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    return (given,) if isinstance(given, int) else tuple(sorted(given))


Maker = Callable[[Net, str, int, int, int], str]
"""(net, tensor, channels, channel axis, rank) -> what the op makes of it."""


def around(
    rng: Rng,
    make: Maker,
    *,
    opset: int = 20,
    channels_last: bool | None = None,
    spatial: int | None = None,
    channels: int | None = None,
    **expect: Any,
) -> Example:
    """A producer, `make`, a consumer that reads the same channels at the same axis.

    Dense layers over the last axis (rank 2 to 4) or convolutions (1-d or 2-d), by chance unless
    `channels_last` says which. One group of all channels is expected if `expect` says nothing else.
    """
    net = Net(rng, opset)
    n, c, m = net.size(3, 6), channels or net.size(5, 9), net.size(3, 6)
    expect = {"units": c, **expect}
    if channels_last is None:
        channels_last = bool(rng.random() < 0.5)
    if channels_last:
        middle = [net.size(2, 4) for _ in range(net.size(0, 2))]
        rank = 2 + len(middle)
        h = net.dense(net.input([net.batch, *middle, n]), n, c)
        return net.example(net.dense(make(net, h, c, rank - 1, rank), c, m), **expect)
    if spatial is None:
        spatial = net.size(1, 2)
    places = [net.size(4, 6) for _ in range(spatial)]
    h = net.conv(net.input([net.batch, n, *places]), n, c, net.pick(1, 3), spatial=spatial)
    y = make(net, h, c, 1, 2 + spatial)
    return net.example(net.conv(y, c, m, net.pick(1, 3), spatial=spatial), **expect)
