"""Remove what a plan left nothing of: branches and blocks disappear.

PrunePass makes tensors shorter, to a length of 0 where a whole group leaves. This pass runs behind
it and takes every empty tensor away:

1. a node of whose results nothing is left disappears: convolutions, norms, reshapes, whole
   branches;
2. Concat and Split lose empty operands and results; with one left they give way to it;
3. a contraction or sum over an empty axis is its bias, or zero: a constant, which is carried on as
   far as that is possible (see `constant_flow`);
4. a size that is read of a tensor that is gone is written out, or read from an input of the graph;
5. what only served the removed part is dropped.

Names, order of nodes, inputs and outputs of what stays are untouched. Where an empty tensor cannot
be taken away, EmptyError names the node and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphprune.onnx.shapes import default_bindings, shape_pair
from graphprune.onnx.trace import captured
from graphprune.onnx.unread import drop_unread, read_values
from graphprune.passes.constant_flow import ConstantFlow, EmptyError
from graphprune.passes.fold_initializers import FoldInitializersPass
from graphprune.passes.stand_ins import StandIns
from graphprune.plan import Plan
from graphprune.rules.context import node_name

__all__ = ["DropEmptyPass", "EmptyError", "emptied"]


def emptied(plan: Plan) -> set[str]:
    """Names of the activations of which `plan` leaves nothing."""
    return {name for name, cuts in plan.tensors.items() if any(c.count == 0 for c in cuts)}


class DropEmptyPass(ir.passes.InPlacePass):
    """Take away what `plan` emptied; behind PrunePass, on the same model.

    Args:
        plan: What PrunePass was given.
        original: The model as it was before PrunePass; sizes are looked up in it by name.
        bindings: As for PrunePass.
    """

    def __init__(
        self,
        plan: Plan,
        original: ir.Model,
        bindings: Sequence[Mapping[str, int]] | None = None,
    ) -> None:
        self.plan = plan
        self.original = original
        self.bindings = bindings

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Take the empty tensors away. Raises EmptyError where that cannot be done."""
        names = emptied(self.plan)
        if not names:
            return ir.passes.PassResult(model, modified=False)
        if self.bindings is None:
            first, second = default_bindings(self.original, {})
            first = {n: self.plan.binding.get(n, size) for n, size in first.items()}
        else:
            first, second = dict(self.bindings[0]), dict(self.bindings[-1])
        shapes = shape_pair(self.original, first, second)
        drop = _Drop(model, names, StandIns(model, self.plan, shapes))
        drop.run()
        drop.check_outputs({v.name for v in _dependent(self.original.graph)})
        FoldInitializersPass()(model)
        return ir.passes.PassResult(model, modified=True)


class _Drop:
    def __init__(self, model: ir.Model, names: set[str], make: StandIns) -> None:
        self.model = model
        self.graph = model.graph
        self.names = names
        self.make = make
        self.flow = ConstantFlow(make, names)

    def run(self) -> None:
        before = read_values(self.model)
        top = {v.name for node in self.graph for v in node.outputs}
        for name in sorted(self.names - top):
            raise EmptyError(name, "nothing would be left of a tensor in a body", [name])
        for node in list(self.graph):
            self._node(node)
        for node in reversed(self.flow.leaving):
            for output in node.outputs:
                if output.uses() or output.is_graph_output():
                    reason = f"nothing would be left of '{output.name}', which is needed"
                    raise self.flow.refusal(node, reason)
            self.graph.remove(node, safe=True)
        drop_unread(self.model, before)

    def check_outputs(self, before: set[str | None]) -> None:
        """Raise EmptyError for an output of the model that has become a constant."""
        after = _dependent(self.graph)
        for output in self.graph.outputs:
            if output.name in before and output not in after:
                producer = output.producer()
                raise EmptyError(
                    output.name or "" if producer is None else node_name(producer),
                    f"the model's output '{output.name}' would not depend on its inputs any more",
                    self.flow.sources(_behind(output)),
                )

    def gone(self, value: ir.Value | None) -> bool:
        """Whether nothing is left of an activation, or of this use of an initializer."""
        if value is None:
            return False
        if value.is_initializer():
            return value.shape is not None and 0 in value.shape
        return value.name in self.names

    def _node(self, node: ir.Node) -> None:
        held, outputs = self.flow.held, [v for v in node.outputs if v.name]
        inner = [v for v in captured(node) if self.gone(v) or v in held]
        if inner:
            reason = f"nothing would be left of '{inner[0].name}', which is read in a body"
            raise EmptyError(node_name(node), reason, self.flow.roots(inner))
        if outputs and all(self.gone(v) for v in outputs):
            self.flow.leaving.append(node)
        elif any(self.gone(v) for v in outputs):
            self._split(node)
        elif node.op_type in ("Shape", "Size") and node.domain == "":
            self._size(node)
        elif any(self.gone(v) for v in node.inputs):
            if node.op_type == "Concat" and node.domain == "":
                self._concat(node)
            else:
                self.flow.start(node)
        elif any(v in held for v in node.inputs if v is not None):
            self.flow.read(node)

    def _size(self, node: ir.Node) -> None:
        value = node.inputs[0]
        held = None if value is None else self.flow.held.get(value)
        if value is None or not (self.gone(value) or held is not None):
            return
        dims = held.dims if held is not None else self.make.dims(value)
        if dims is None:
            raise self.flow.refusal(node, "a size is read of it that is not known before it runs")
        if node.op_type == "Size":
            found = self.make.sized(node, tuple((int(np.prod(d)),) for d in dims))
        else:
            start, end = (node.attributes.get(name) for name in ("start", "end"))
            part = slice(*(None if a is None else a.as_int() for a in (start, end)))
            found = self.make.sized(node, tuple(d[part] for d in dims))
        if found is None:
            raise self.flow.refusal(
                node, "a size is read of it that depends on a dynamic dimension"
            )
        if node.op_type == "Size":
            found = self.make.op(node, "Reshape", found, self.make.ints(node, ()))
        self.flow.give_way(node, found)

    def _concat(self, node: ir.Node) -> None:
        left = [v for v in node.inputs if not self.gone(v)]
        for i, value in enumerate(left):
            node.replace_input_with(i, value)
        node.resize_inputs(len(left))
        only = left[0] if len(left) == 1 else None
        if only is None:
            self.flow.write_out(node)
        elif only in self.flow.held:
            self.flow.hold(node, self.flow.held[only])
        elif self.flow.may_give_way(node):
            self.flow.give_way(node, only)

    def _split(self, node: ir.Node) -> None:
        """Of some results nothing is left."""
        if node.op_type != "Split" or node.domain != "":
            raise self.flow.refusal(
                node, f"nothing would be left of some of the results of {node.op_type}"
            )
        left = [v for v in node.outputs if not self.gone(v)]
        source = node.inputs[0]
        inside = all(use.node.graph is self.graph for v in left for use in v.uses())
        if len(left) == 1 and source is not None and inside and not left[0].is_graph_output():
            left[0].replace_all_uses_with(source)
            self.flow.leaving.append(node)
            return
        sizes = self._split_sizes(node, left)
        kept = {k: a for k, a in node.attributes.items() if k not in ("split", "num_outputs")}
        inputs = [source]
        if "split" in node.attributes:
            kept["split"] = ir.AttrInt64s("split", sizes)
        else:
            inputs.append(self.make.ints(node, sizes))
        new = ir.Node("", "Split", inputs, kept.values(), num_outputs=len(left), name=node.name)
        new.metadata_props.update(node.metadata_props)
        self.graph.insert_before(node, new)
        for old, value in zip(left, new.outputs, strict=True):
            value.name, value.type, value.shape = old.name, old.type, old.shape
            value.metadata_props.update(old.metadata_props)
            old.replace_all_uses_with(value, replace_graph_outputs=True)
            old.name = None
        self.flow.leaving.append(node)

    def _split_sizes(self, node: ir.Node, left: Iterable[ir.Value]) -> list[int]:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        sizes = []
        for value in left:
            dims = self.make.dims(value)
            if dims is None or len({d[axis] for d in dims}) > 1:
                reason = "the sizes it splits into are not known before it runs"
                raise self.flow.refusal(node, reason)
            sizes.append(dims[0][axis])
        return sizes


def _dependent(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on more than the shapes of the graph's inputs."""
    found = {v for v in graph.inputs if not v.is_initializer()}
    for node in graph:
        read = {*node.inputs, *captured(node)} & found
        if read and node.op_type not in ("Shape", "Size"):
            found.update(node.outputs)
    return found


def _behind(value: ir.Value) -> set[ir.Value]:
    """`value` and everything that it is computed from."""
    found: set[ir.Value] = set()
    waiting: list[ir.Value | None] = [value]
    while waiting:
        one = waiting.pop()
        if one is None or one in found:
            continue
        found.add(one)
        node = one.producer()
        if node is not None:
            waiting += [*node.inputs, *captured(node)]
    return found
