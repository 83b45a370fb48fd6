"""Make a plan true: the one pass that shortens tensors.

1. every initializer use that the plan cuts reads a sliced copy; slices are lazy (nothing is read
   until the model is saved) and shared again where two uses keep the same;
2. attributes and size operands (Reshape shapes, Slice bounds, `group`, `num_heads`, ...) become
   what the op's resize rule says;
3. computed sizes are followed through the shape arithmetic: what comes out right by itself is left
   alone, a static entry is replaced by a constant, a dynamic one is scaled;
4. scalars computed from a shortened size and used as data keep their original value;
5. shapes noted in the file are shortened, what nothing reads any more is dropped.

Where the plan leaves nothing of a tensor, DropEmptyPass must follow.

Names, order of nodes, inputs, outputs, opsets and metadata stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

import graphprune.rules.onnx  # noqa: F401  (registers the rules)
from graphprune.cut import Cut, pruned_shape
from graphprune.errors import UsageError
from graphprune.onnx.names import FreshNames
from graphprune.onnx.shapes import Shapes, default_bindings, evaluate_sizes, shape_pair
from graphprune.onnx.unread import drop_unread, read_values
from graphprune.passes.sizes import SizeWriter
from graphprune.passes.slices import Uses, slice_initializers
from graphprune.plan import LayerCut, Plan
from graphprune.rules.context import is_weight, node_name
from graphprune.rules.registry import registry
from graphprune.rules.resize import Resize

__all__ = ["PrunePass"]


class PrunePass(ir.passes.InPlacePass):
    """Apply `plan` to the model it was made for (canonical: initializer-only subgraphs folded).

    Args:
        plan: What stays of every tensor and initializer use.
        bindings: Two bindings of the dynamic dimensions, the plan's first; chosen where absent, or
            where they are alike.
        shapes: Sizes of the very model that the pass is called on, at both bindings, where they are
            known already (see `graphprune.onnx.shapes.carried`); else they are inferred.
    """

    def __init__(
        self,
        plan: Plan,
        bindings: Sequence[Mapping[str, int]] | None = None,
        shapes: Sequence[Shapes] | None = None,
    ) -> None:
        self.plan = plan
        self.bindings = bindings
        self.shapes = shapes

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Shorten the model. Raises UsageError where the plan names what is not there."""
        there = {v.name for node in model.graph for v in node.outputs}
        for cut in self.plan.layers:
            if cut.linear is None and cut.output in there and not _handed_on(model, cut):
                raise UsageError(
                    f"the plan drops the layer '{cut.name}', which the model still has: run "
                    "DropLayersPass(plan.layers) first"
                )
        if not self.plan.tensors and not self.plan.initializers:
            return ir.passes.PassResult(model, modified=False)
        if self.shapes is not None:
            _Rewrite(model, self.plan, self.shapes).run()
            return ir.passes.PassResult(model, modified=True)
        if self.bindings is None:
            first, second = default_bindings(model, {})
            first = {n: self.plan.binding.get(n, size) for n, size in first.items()}
        else:
            first, second = dict(self.bindings[0]), dict(self.bindings[-1])
        _Rewrite(model, self.plan, shape_pair(model, first, second)).run()
        return ir.passes.PassResult(model, modified=True)


@dataclass
class _Edits:
    """What the resize rules ask for: attributes, and operand contents at each binding."""

    attributes: dict[ir.Node, dict[str, Any]] = field(default_factory=dict)
    operands: dict[tuple[ir.Node, int], list[np.ndarray]] = field(default_factory=dict)


class _Rewrite:
    def __init__(self, model: ir.Model, plan: Plan, shapes: Sequence[Shapes]) -> None:
        self.model = model
        self.plan = plan
        self.shapes = shapes
        self.cuts: dict[ir.Value, tuple[Cut, ...]] = {}
        self.uses: Uses = {}
        self.names = FreshNames(model)
        self._find_names()

    def run(self) -> None:
        dims = [self._pruned_dims(s) for s in self.shapes]
        sizes = [evaluate_sizes(self.model, s, d) for s, d in zip(self.shapes, dims, strict=True)]
        edits = self._collect()
        self._freeze(edits, sizes)
        read_before = read_values(self.model)
        writer = SizeWriter(self.names, [s.values for s in self.shapes], sizes)
        for (node, i), contents in edits.operands.items():
            writer.write(node, i, contents, alone=_agreed(edits, node, i))
        for node, attributes in edits.attributes.items():
            _set_attributes(node, attributes)
        slice_initializers(self.model, self.uses, self.names)
        self._shorten_shapes()
        drop_unread(self.model, read_before)

    # -- finding --------------------------------------------------------------------------------

    def _find_names(self) -> None:
        values: dict[str, ir.Value] = {}
        nodes: dict[tuple[str, int, str], ir.Node] = {}
        for node in self.model.graph.all_nodes():
            for i, read in enumerate(node.inputs):
                if read is not None and is_weight(read):
                    nodes.setdefault((node_name(node), i, read.name or ""), node)
            for value in node.outputs:
                if value.name:
                    values[value.name] = value
        for graph in (self.model.graph, *self.model.graph.subgraphs()):
            for value in graph.inputs:
                if value.name:
                    values[value.name] = value
        for name, cuts in self.plan.tensors.items():
            if name not in values:
                raise UsageError(f"the plan cuts '{name}', which this model does not have")
            _check_sizes(name, cuts, self.shapes[0].dims.get(values[name]))
            self.cuts[values[name]] = cuts
        for use in self.plan.initializers:
            node_found = nodes.get((use.node, use.input, use.initializer))
            if node_found is None:
                raise UsageError(
                    f"the plan cuts '{use.initializer}' where '{use.node}' reads it, which this "
                    "model does not do"
                )
            read = node_found.inputs[use.input]
            assert read is not None
            _check_sizes(use.initializer, use.cuts, self.shapes[0].dims.get(read))
            self.uses[node_found, use.input] = use.cuts

    def _pruned_dims(self, shapes: Shapes) -> dict[ir.Value, tuple[int, ...]]:
        return {
            value: pruned_shape(shapes.dims[value], cuts)
            for value, cuts in self.cuts.items()
            if value in shapes.dims
        }

    # -- what the rules say ---------------------------------------------------------------------

    def _collect(self) -> _Edits:
        edits = _Edits()
        for node in self.model.graph.all_nodes():
            version = self.model.opset_imports.get(node.domain)
            rule = registry.find(node.domain, node.op_type, version)
            if rule is None or not self._touched(node) or self._hollow(node):
                continue
            found = []
            for shapes in self.shapes:
                resize = Resize(
                    node,
                    shapes.dims,
                    shapes.values,
                    self.cuts,
                    self.uses,
                    version or 1,
                    self.plan.statistics_nodes.get(node_name(node), ()),
                )
                rule.resize(resize)
                found.append(resize)
            if found[0].attributes:
                edits.attributes[node] = found[0].attributes
            for i in found[0].operands:
                edits.operands[node, i] = [r.operands[i] for r in found]
        return edits

    def _touched(self, node: ir.Node) -> bool:
        """Whether a tensor the node reads or writes gets shorter, or what it is a mean of."""
        return (
            node_name(node) in self.plan.statistics_nodes
            or any(v in self.cuts for v in node.inputs if v is not None)
            or any(v in self.cuts for v in node.outputs)
            or any((node, i) in self.uses for i in range(len(node.inputs)))
        )

    def _hollow(self, node: ir.Node) -> bool:
        """Whether nothing is left of what the node reads or of all that it makes.

        DropEmptyPass takes such a node away: its sizes do not matter.
        """
        inputs = [
            self.uses.get((node, i)) or self.cuts.get(value, ())
            for i, value in enumerate(node.inputs)
            if value is not None
        ]
        outputs = [_empties(self.cuts.get(v, ())) for v in node.outputs if v.name]
        return any(map(_empties, inputs)) or (bool(outputs) and all(outputs))

    def _freeze(self, edits: _Edits, sizes: Sequence[Mapping[ir.Value, np.ndarray]]) -> None:
        """Values computed from shortened sizes that leave the shape arithmetic stay as they were.

        A Reshape whose result is not cut, a mean's divisor, the 1 / sqrt(d) of an attention. What
        is cut itself (a weight expanded to a computed size) follows.
        """
        known = self.shapes[0].values
        changed = {
            value
            for shapes, new in zip(self.shapes, sizes, strict=True)
            for value, old in shapes.values.items()
            if value not in new or not np.array_equal(new[value], old)
        }
        for node in self.model.graph.all_nodes():
            if (node.outputs and all(v in known for v in node.outputs)) or self._hollow(node):
                continue
            for i, value in enumerate(node.inputs):
                if value is None or value not in changed or value in self.cuts:
                    continue
                if (node, i) not in edits.operands:
                    edits.operands[node, i] = [s.values[value] for s in self.shapes]

    # -- shapes in the file ---------------------------------------------------------------------

    def _shorten_shapes(self) -> None:
        for value, cuts in self.cuts.items():
            if value.shape is None:
                continue
            entries: list[int | ir.SymbolicDim | None] = list(value.shape)
            for cut in cuts:
                entries[cut.axis] = None if cut.dynamic else cut.count
            value.shape = ir.Shape(entries)


def _handed_on(model: ir.Model, cut: LayerCut) -> bool:
    """Whether an output of the graph is what came into a layer that left."""
    outputs = [v for v in model.graph.outputs if v.name == cut.output]
    maker = outputs[0].producer() if outputs else None
    return maker is not None and maker.op_type == "Identity"


def _check_sizes(name: str, cuts: Sequence[Cut], dims: tuple[int, ...] | None) -> None:
    """A plan from outside may be of another model, or damaged."""
    if dims is None:
        return
    for cut in cuts:
        size = dims[cut.axis] if cut.axis < len(dims) else 0
        if size != cut.size and not cut.dynamic:
            raise UsageError(
                f"the plan cuts axis {cut.axis} of '{name}', which has {size} elements here and not "
                f"{cut.size}"
            )


def _agreed(edits: _Edits, node: ir.Node, i: int) -> bool:
    """Whether all readers of an operand want the same of it."""
    value = node.inputs[i] if i < len(node.inputs) else None
    if value is None or value.is_graph_output():
        return False
    wanted = [edits.operands.get((use.node, use.idx)) for use in value.uses()]
    first = edits.operands[node, i]
    return all(
        other is not None and all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
        for other in wanted
    )


def _empties(cuts: Sequence[Cut]) -> bool:
    return any(c.count == 0 for c in cuts)


def _set_attributes(node: ir.Node, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = ir.convenience.convert_attribute(name, value)
