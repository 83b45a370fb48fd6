"""Carrying constants through the graph, in the place of tensors that no longer depend on its input.

A sum over an empty axis starts one (its bias, or zero). Adding zero to a tensor gives way to the
tensor; elementwise ops, BatchNormalization and ops that only move elements are carried out on the
constant; an elementwise op that broadcasts it against something else just reads it; any other op
reads it written out in full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphprune.labels.move import segments
from graphprune.passes.sizes import SizeError
from graphprune.passes.stand_ins import Dims, Held, Places, StandIns, broadcast
from graphprune.rules.context import is_weight, node_name
from graphprune.rules.onnx.elementwise import CONTRIB_UNARY, NARY, UNARY

__all__ = ["ConstantFlow", "EmptyError"]

_POINTWISE = {*UNARY, *NARY, *CONTRIB_UNARY, "Mul", "Div", "FastGelu", "BiasGelu", "Dropout"}
_POINTWISE.add("CastLike")
_BIASED = ("Conv", "ConvTranspose", "Gemm")
_SUMS = {
    *("MatMul", "FusedMatMul", "Einsum"),
    *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
}


class EmptyError(SizeError):
    """Something of which nothing would be left is needed.

    Attributes:
        tensors: Names of the emptied tensors that lead there, the likeliest culprit first.
    """

    def __init__(self, node: str, message: str, tensors: Iterable[str]) -> None:
        super().__init__(node, message)
        self.tensors = tuple(tensors)


class ConstantFlow:
    """Which tensors are constant, and what nodes that read them become.

    Args:
        make: Makes the constants.
        emptied: Names of the tensors of which nothing is left.

    Attributes:
        held: Output of a node that leaves -> what stands for it.
        leaving: Nodes that nothing reads any more, in order.
    """

    def __init__(self, make: StandIns, emptied: set[str]) -> None:
        self.make = make
        self.emptied = emptied
        self.held: dict[ir.Value, Held] = {}
        self.leaving: list[ir.Node] = []
        self._full: dict[ir.Value, ir.Value] = {}

    # -- what becomes of a node --------------------------------------------------------------------

    def roots(self, values: Iterable[ir.Value | None]) -> tuple[str, ...]:
        """The emptied tensors among `values`, also by way of constants."""
        found: dict[str, None] = {}
        for value in values:
            if value is not None and value in self.held:
                found.update(dict.fromkeys(self.held[value].roots))
            elif value is not None and value.name in self.emptied:
                found[value.name] = None
        return tuple(found)

    def sources(self, values: set[ir.Value]) -> tuple[str, ...]:
        """The emptied tensors behind the constants among `values`, in the order of the graph."""
        found: dict[str, None] = {}
        for output, held in self.held.items():
            if held.value in values or self._full.get(output) in values:
                found.update(dict.fromkeys(held.roots))
        return tuple(found)

    def refusal(self, node: ir.Node, reason: str) -> EmptyError:
        """The error to raise where `node` cannot do without what is gone."""
        return EmptyError(node_name(node), reason, self.roots((*node.inputs, *node.outputs)))

    def hold(self, node: ir.Node, held: Held) -> None:
        """The node's first output is a constant; the node is not needed."""
        output = node.outputs[0]
        if output.is_graph_output():
            reason = f"the model's output '{output.name}' would not depend on its inputs any more"
            raise EmptyError(node_name(node), reason, held.roots)
        self.held[output] = held
        self.leaving.append(node)

    def may_give_way(self, node: ir.Node) -> bool:
        """Whether another value may stand for the node's output: graph outputs keep their names,
        and bodies what they capture."""
        output = node.outputs[0]
        inside = all(use.node.graph is node.graph for use in output.uses())
        return inside and not output.is_graph_output()

    def give_way(self, node: ir.Node, value: ir.Value) -> None:
        """`value` is what the node computes."""
        node.outputs[0].replace_all_uses_with(value)
        self.leaving.append(node)

    # -- where constants come from -----------------------------------------------------------------

    def start(self, node: ir.Node) -> None:
        """A node that sums over an empty axis. Raises EmptyError for any other."""
        dims = self.make.dims(node.outputs[0])
        if dims is None or node.op_type not in {*_BIASED, *_SUMS}:
            raise self.refusal(node, f"nothing would be left of what {node.op_type} reads")
        roots = self.roots(node.inputs)
        biased = node.op_type in _BIASED and len(node.inputs) > 2
        bias = node.inputs[2] if biased else None
        if bias is None:
            self.hold(node, self.make.zeros(node.outputs[0], dims, roots))
            return
        if not is_weight(bias):
            raise self.refusal(node, f"the bias of {node.op_type} is not constant")
        held = Held(bias, _shape(bias), dims, False, roots)
        if node.op_type != "Gemm":
            held = self.make.view(node, held, (1, -1, *[1] * (len(dims[0]) - 2)))
        elif "beta" in node.attributes and node.attributes["beta"].as_float() != 1.0:
            factor = self.make.scalar(node, node.attributes["beta"].as_float(), bias)
            held = replace(held, value=self.make.op(node, "Mul", bias, factor))
        self.hold(node, held)

    # -- where constants go ------------------------------------------------------------------------

    def read(self, node: ir.Node) -> None:
        """A node that reads constants. Raises EmptyError where it cannot."""
        known = _POINTWISE_RULE if node.op_type in _POINTWISE else _RULES.get(node.op_type)
        single = all(not v.uses() and not v.is_graph_output() for v in node.outputs[1:])
        known = known if single and node.domain in ("", "com.microsoft") else None
        dims = self.make.dims(node.outputs[0])
        if known is None or dims is None or not known(self, node, dims):
            self.write_out(node)

    def write_out(self, node: ir.Node) -> None:
        """Let the node read whole tensors in the place of constants."""
        for i, value in enumerate(node.inputs):
            if value is None or value not in self.held:
                continue
            if value not in self._full:
                full = self.make.full(node, self.held[value])
                if full is None:
                    raise self.refusal(
                        node,
                        f"'{value.name}' would be constant, and its size depends on a dynamic "
                        "dimension in a way that cannot be written out",
                    )
                self._full[value] = full
            node.replace_input_with(i, self._full[value])

    def _pointwise(self, node: ir.Node, dims: Places) -> bool:
        """Broadcasting does the rest; what reads constants alone is a constant too."""
        if self._adds_zero(node, dims):
            return True
        given = [v for v in node.inputs if v is not None]
        sizes = [self._actual(v, len(dims)) for v in given]
        known = [s for s in sizes if s is not None]
        if len(known) < len(sizes):
            return False
        result = [broadcast(row) for row in zip(*known, strict=True)]
        if all(v in self.held or is_weight(v) for v in given) and result[0] is not None:
            value = self._carried_out(node)
            self.hold(node, Held(value, result[0], dims, False, self.roots(given)))
            return True
        if result != list(dims):
            return False
        for i, operand in enumerate(node.inputs):
            if operand is not None and operand in self.held:
                node.replace_input_with(i, self.held[operand].value)
        return True

    def _actual(self, value: ir.Value, bindings: int) -> Places | None:
        """Dims of what is really there."""
        held = self.held.get(value)
        return self.make.dims(value) if held is None else (held.shape,) * bindings

    def _adds_zero(self, node: ir.Node, dims: Places) -> bool:
        for place in {"Add": (0, 1), "Sub": (1,)}.get(node.op_type, ()):
            zero, other = node.inputs[place], node.inputs[1 - place]
            if zero is None or other is None or zero not in self.held or not self.held[zero].zero:
                continue
            roots = self.roots(node.inputs)
            if other in self.held:
                self.hold(node, replace(self.held[other], dims=dims, roots=roots))
                return True
            if is_weight(other):
                self.hold(node, Held(other, _shape(other), dims, False, roots))
                return True
            if self.make.dims(other) == dims and self.may_give_way(node):
                self.give_way(node, other)
                return True
        return False

    def _carried_out(self, node: ir.Node, first: ir.Value | None = None) -> ir.Value:
        """The result of a copy of the node that reads the constants themselves."""
        inputs = [v if v is None or v not in self.held else self.held[v].value for v in node.inputs]
        if first is not None:
            inputs[0] = first
        attributes = list(node.attributes.values())
        copy = ir.Node(node.domain, node.op_type, inputs, attributes, version=node.version)
        return self.make.insert(node, copy)

    def _first(self, node: ir.Node) -> Held | None:
        """What stands for the first input, in as many axes; None where it is no constant."""
        value = node.inputs[0]
        if value is None or value not in self.held:
            return None
        held = self.held[value]
        missing = len(held.dims[0]) - len(held.shape)
        return self.make.view(node, held, (1,) * missing + held.shape)

    def _batch_norm(self, node: ir.Node, dims: Places) -> bool:
        """Channel by channel, the same at every place."""
        held = self._first(node)
        if held is None or not all(v is not None and is_weight(v) for v in node.inputs[1:]):
            return False
        held = self.make.view(node, held, (held.shape[0], dims[0][1], *held.shape[2:]))
        self.hold(node, replace(held, value=self._carried_out(node, held.value), zero=False))
        return True

    def _transpose(self, node: ir.Node, dims: Places) -> bool:
        held = self._first(node)
        if held is None:
            return False
        rank = len(held.shape)
        attribute = node.attributes.get("perm")
        perm = list(range(rank))[::-1] if attribute is None else [int(a) for a in attribute.value]
        value, shape = self._carried_out(node, held.value), tuple(held.shape[a] for a in perm)
        self.hold(node, replace(held, value=value, shape=shape, dims=dims))
        return True

    def _view(self, node: ir.Node, dims: Places) -> bool:
        """Axes along which the constant varies must stay what they are."""
        held = self._first(node)
        if held is None:
            return False
        shape = [1] * len(dims[0])
        for before, after in segments(held.dims[0], dims[0]):
            if all(held.shape[a] == 1 for a in before):
                continue
            if len(before) != 1 or len(after) != 1:
                return False
            shape[after[0]] = held.shape[before[0]]
        self.hold(node, replace(self.make.view(node, held, tuple(shape)), dims=dims))
        return True


def _shape(constant: ir.Value) -> Dims:
    tensor = constant.const_value
    assert tensor is not None
    return tuple(int(d) for d in np.asarray(tensor.shape.numpy()))


Rule = Callable[[ConstantFlow, ir.Node, Places], bool]
_POINTWISE_RULE: Rule = ConstantFlow._pointwise
_RULES: dict[str, Rule] = {
    "BatchNormalization": ConstantFlow._batch_norm,
    "Transpose": ConstantFlow._transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), ConstantFlow._view),
}
