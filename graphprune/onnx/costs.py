"""MACs as a function of the sizes of tensors, for budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

import graphprune.rules.onnx  # noqa: F401  (registers the rules)
from graphprune.onnx.shapes import Shapes
from graphprune.rules.context import is_weight, node_name
from graphprune.rules.registry import no_macs, registry

Sizes = Mapping[str, tuple[int, ...]]
UseSizes = Mapping[tuple[str, int], tuple[int, ...]]


def mac_function(model: ir.Model, shapes: Shapes) -> Callable[[Sizes, UseSizes], int]:
    """A function from new shapes of activations and initializer uses to the model's MACs."""
    priced = []
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        rule = registry.find(node.domain, node.op_type, model.opset_imports.get(node.domain))
        if rule is not None and rule.macs is not no_macs:
            known = all(v in shapes.dims for v in (*node.inputs, *node.outputs) if v is not None)
            if known:
                priced.append((node, node_name(node), rule.macs))

    def macs(activations: Sizes, uses: UseSizes) -> int:
        total = 0
        for node, name, rule in priced:

            def dims(value: ir.Value, node: ir.Node = node, name: str = name) -> tuple[int, ...]:
                if is_weight(value):
                    found = uses.get((name, list(node.inputs).index(value)))
                else:
                    found = activations.get(value.name or "")
                return shapes.dims[value] if found is None else found

            total += rule(node, dims)
        return total

    return macs
