"""Graphs around one op for the tests of op rules: what is found in them, and what pruning makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from workbench import Bench, from_text, removal

Shape = tuple[int, ...]


def model(
    body: str,
    weights: Mapping[str, Shape],
    inputs: str,
    outputs: str = "float[A, B, C] y",
    opset: int = 23,
) -> onnx.ModelProto:
    """A graph whose weights are random, of the given shapes."""
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 0.5, s).astype(np.float32) for n, s in weights.items()}
    proto = from_text(body, arrays, inputs=inputs, outputs=outputs, opset=opset)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return proto


def found(proto: onnx.ModelProto, *, blocks: bool = True) -> list[tuple[str, int]]:
    """Kind and size of every group, sorted."""
    return sorted((g.kind, g.size) for g in Bench(proto).analyse(blocks=blocks).groups)


def reasons(proto: onnx.ModelProto, node: str, *, blocks: bool = True) -> set[str]:
    """What `node` says of what stays."""
    return {u.reason for u in Bench(proto).analyse(blocks=blocks).unpruned if u.node == node}


def shortened(
    proto: onnx.ModelProto, *, blocks: bool = True, leave: int = 1, only: Sequence[str] = ()
) -> ir.Model:
    """The graph after `leave` units of every cell of every group (or those of a kind) left."""
    bench = Bench(proto)
    graph = bench.analyse(blocks=blocks)
    groups = [g for g in graph.groups if not only or g.kind in only]
    counts = {g.name: [c.size - leave for c in g.cells] for g in groups}
    return bench.pruned(bench.plan(graph, removal(graph, counts)))


def node(pruned: ir.Model, op: str) -> ir.Node:
    """The only node of an op type."""
    (hit,) = [n for n in pruned.graph if n.op_type == op]
    return hit


def attributes(pruned: ir.Model, op: str) -> dict[str, object]:
    return {a.name: a.value for a in node(pruned, op).attributes.values()}


def weight(pruned: ir.Model, op: str, i: int) -> np.ndarray:
    """Contents of an initializer that a node reads."""
    value = node(pruned, op).inputs[i]
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()
