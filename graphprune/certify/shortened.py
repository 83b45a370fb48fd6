"""Proof that a model without some layers is the original in which their inputs stand for their outputs.

Node by node: each node of the shorter model is the original's of that name, with the same attributes,
the same contents of initializers and the same inputs, where a dropped layer's output is read as its
source. Nothing else may be there but the identity maps that stand in place of layers. Then both are
run: the original with all its nodes, and a `Where` behind each dropped layer that chooses its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.certificate import Certificate
from graphprune.onnx.names import FreshNames
from graphprune.onnx.runtime import Session
from graphprune.plan import LayerCut
from graphprune.rules.context import is_weight, node_name

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4
"""Of outputs, relative to their largest magnitude: onnxruntime fuses the two graphs differently."""


@dataclass(frozen=True)
class Shortened:
    """What was found.

    Attributes:
        failure: What differs first; empty where nothing does.
        checked: Nodes that were compared.
        max_rel_error: Largest error of an output over its largest magnitude; None: nothing was run.
    """

    failure: str
    checked: int
    max_rel_error: float | None = None


def check_shortened(
    original: ir.Model,
    shorter: ir.Model,
    layers: Sequence[LayerCut],
    feeds: Sequence[Mapping[str, Array]],
    *,
    threads: int = 1,
) -> Shortened:
    """Compare the two.

    Args:
        original: Canonical.
        shorter: Without the layers.
        layers: What left.
        feeds: Inputs to run both on; none: only the graphs are compared.
        threads: Of onnxruntime.

    Raises:
        UnsupportedModelError: One of them does not run.
    """
    stands = _stand_ins(original, layers)
    before = {node_name(n): n for n in original.graph}
    maps = {c.output: c for c in layers if c.linear is not None}
    checked = 0
    for node in shorter.graph:
        failure = _node(node, before.get(node_name(node)), stands, maps)
        if failure:
            return Shortened(failure, checked)
        checked += 1
    names = [[v.name for v in m.graph.outputs] for m in (original, shorter)]
    if names[0] != names[1]:
        return Shortened(f"outputs are {names[1]} and not {names[0]}", checked)
    if not feeds:
        return Shortened("", checked)
    worst = _run(twin(original, layers), shorter, feeds, threads)
    failure = "" if worst <= TOLERANCE else f"an output differs by {worst:.2g} of its magnitude"
    return Shortened(failure, checked, worst)


def with_layers(certificate: Certificate, found: Shortened | None) -> Certificate:
    """A certificate of the shorter model's widths, with what was found of its layers."""
    if found is None:
        return certificate
    return replace(
        certificate,
        layers_max_rel_error=found.max_rel_error,
        checked_structure=certificate.checked_structure + found.checked,
    )


def _stand_ins(original: ir.Model, layers: Sequence[LayerCut]) -> Callable[[str], str]:
    """What stands for a value of the original, by name; a linear map makes its own."""
    direct = {c.output: c.source for c in layers if c.linear is None}
    direct = {o: s for o, s in direct.items() if o not in {v.name for v in original.graph.outputs}}

    def stands(name: str) -> str:
        while name in direct:
            name = direct[name]
        return name

    return stands


def _node(
    node: ir.Node,
    before: ir.Node | None,
    stands: Callable[[str], str],
    maps: Mapping[str, LayerCut],
) -> str:
    """How a node differs from the original's; empty where it does not."""
    if before is None:
        return _placed(node, stands, maps)
    name = node_name(node)
    if (node.domain, node.op_type) != (before.domain, before.op_type):
        return f"'{name}' is a {node.op_type} and not a {before.op_type}"
    if len(node.inputs) != len(before.inputs):
        return f"'{name}' reads {len(node.inputs)} values and not {len(before.inputs)}"
    for now, then in zip(node.inputs, before.inputs, strict=True):
        if not _same_input(now, then, stands):
            return f"'{name}' reads '{now and now.name}' where '{then and then.name}' is meant"
    if set(node.attributes) != set(before.attributes):
        return f"'{name}' has other attributes"
    for key, attribute in node.attributes.items():
        failure = _attribute(name, attribute, before.attributes[key], stands)
        if failure:
            return failure
    if [v.name for v in node.outputs] != [v.name for v in before.outputs]:
        return f"'{name}' makes other values"
    return ""


def _attribute(name: str, now: ir.Attr, then: ir.Attr, stands: Callable[[str], str]) -> str:
    if now.type != ir.AttributeType.GRAPH:
        same = ir.to_proto(now).SerializeToString() == ir.to_proto(then).SerializeToString()
        return "" if same else f"'{name}' has another attribute '{now.name}'"
    inner, outer = list(now.as_graph()), list(then.as_graph())
    if len(inner) != len(outer):
        return f"a body of '{name}' has {len(inner)} nodes and not {len(outer)}"
    for one, other in zip(inner, outer, strict=True):
        failure = _node(one, other, stands, {})
        if failure:
            return failure
    return ""


def _same_input(now: ir.Value | None, then: ir.Value | None, stands: Callable[[str], str]) -> bool:
    if now is None or then is None:
        return now is then
    if is_weight(then):
        return is_weight(now) and _same_contents(now, then)
    return now.name == stands(then.name or "")


def _same_contents(now: ir.Value, then: ir.Value) -> bool:
    a, b = now.const_value, then.const_value
    if a is b:
        return True
    if a is None or b is None or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tobytes() == b.tobytes()


def _placed(node: ir.Node, stands: Callable[[str], str], maps: Mapping[str, LayerCut]) -> str:
    """A node that the original does not have: part of an identity map, or handing an output on."""
    weights = [v.const_value.numpy() for v in node.inputs[1:] if v and v.const_value is not None]
    output = node.outputs[0]
    if node.op_type == "Identity" and output.is_graph_output():
        return ""
    if node.op_type == "MatMul" and len(weights) == 1:
        added = [u.node.outputs[0].name for u in output.uses()]
        fits = added and added[0] in maps and _is_identity(weights[0])
        return "" if fits else f"'{node_name(node)}' is not of the original"
    if node.op_type in ("Add", "Conv") and output.name in maps and weights:
        plain = not weights[-1].any()
        if plain and (node.op_type == "Add" or _is_identity(weights[0])):
            return ""
    return f"'{node_name(node)}' is not of the original"


def _is_identity(weight: Array) -> bool:
    square = weight.reshape(weight.shape[0], -1)
    return square.shape[0] == square.shape[1] and np.array_equal(square, np.eye(len(square)))


def twin(original: ir.Model, layers: Sequence[LayerCut]) -> ir.Model:
    """The whole original, in which a `Where` behind each layer chooses what came into it."""
    model = original.clone()
    values = {v.name: v for v in model.graph.inputs}
    values.update({v.name: v for node in model.graph for v in node.outputs})
    names = FreshNames(model)
    off = ir.tensor(np.array(False), name=names.near("graphprune.layer_is_on"))
    chosen = ir.Value(name=off.name, const_value=off, type=ir.TensorType(off.dtype))
    model.graph.register_initializer(chosen)
    for cut in layers:
        output = values[cut.output]
        maker = output.producer()
        assert maker is not None
        uses = list(output.uses())
        node = ir.node("Where", [chosen, output, values[cut.source]])
        made = node.outputs[0]
        made.type, made.shape = output.type, output.shape
        model.graph.insert_after(maker, node)
        for use in uses:
            use.node.replace_input_with(use.idx, made)
        if output.is_graph_output():
            made.name, output.name = output.name, names.near(f"{output.name}/whole")
            for i, value in enumerate(model.graph.outputs):
                if value is output:
                    model.graph.outputs[i] = made
        else:
            made.name = names.near(f"{output.name}/without")
        values[cut.output] = made
    return model


def _run(
    whole: ir.Model, shorter: ir.Model, feeds: Sequence[Mapping[str, Array]], threads: int
) -> float:
    worst = 0.0
    with Session(whole, threads=threads) as first, Session(shorter, threads=threads) as second:
        for feed in feeds:
            wanted, found = first.run(feed), second.run(feed)
            worst = max([worst, *(_relative(wanted[n], found[n]) for n in wanted)])
    return worst


def _relative(wanted: Any, found: Any) -> float:
    a, b = np.asarray(wanted), np.asarray(found)
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    known = np.isfinite(a)
    if not np.array_equal(a[~known], b[~known], equal_nan=True):
        return float("inf")
    error = np.abs(a[known].astype(np.float64) - b[known]).max(initial=0.0)
    return float(error / max(np.abs(a[known]).max(initial=0.0), 1e-30))
