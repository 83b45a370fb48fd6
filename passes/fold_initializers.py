"""Fold everything that is computed from initializers and constants alone.

Exporters put weights behind Constant, Identity, Transpose, Cast, Slice, Concat, Reshape, ... nodes
(LSTM gates reordered, tied embeddings transposed, weights in Constant nodes). After this pass every
weight is an initializer, under the name of the value that the graph's layers read:

1. Constant nodes become initializers;
2. a node whose inputs are all initializers is evaluated, its outputs become initializers;
3. an Identity gives way to what it repeats, and nodes that compute the same share one result, also
   where they stand in different bodies;
4. small results are stored, large ones (over 1 MB) are computed when they are read, so that no
   second copy of the weights stands in memory;
5. constant nodes and initializers that nothing reads any more are dropped.

Not folded: QuantizeLinear / DequantizeLinear (the pair carries meaning), random ops, control flow,
sequences and strings, ops of other domains, outputs of the graph, initializers that are inputs of
the graph too (a caller may replace them), and whatever would make the file larger (an Expand of a
scalar, the transpose of an embedding table that is looked up as well: `passes/fold_growth.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphprune.onnx.operands import op_names
from graphprune.onnx.shape_values import evaluate
from graphprune.onnx.sweep import Sweep
from graphprune.passes.fold_growth import Equal, find_equal, is_constant, worth_folding

__all__ = ["FoldInitializersPass"]

_NOT_FOLDED = op_names(
    "Bernoulli DequantizeLinear Dropout DynamicQuantizeLinear If Loop Multinomial "
    "QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Scan"
)
ORIGIN = "graphprune.folded_from"
"""Metadata of an initializer that is the transpose of one: its name, then the permutation."""
_LAZY_BYTES = 1 << 20
_NO_LIMIT = 1 << 62

Array = np.ndarray[Any, Any]


class FoldInitializersPass(ir.passes.InPlacePass):
    """Fold nodes computed from initializers alone; see the module's text for the cases.

    Args:
        leave: Names of values whose nodes stay: those of a graph that this one is compared with.
    """

    def __init__(self, leave: Collection[str] = ()) -> None:
        self.leave = leave

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fold in the top graph and all nested ones."""
        sweep = Sweep(model.opset_imports, {})
        opset = model.opset_imports.get("", 0)
        for graph in [model.graph, *model.graph.subgraphs()]:
            for value in graph.initializers.values():
                if value.const_value is not None:
                    sweep.tensor(value, value.const_value)
        modified = False
        for node in self._nodes(model):
            if node.op_type == "Constant" and _may_fold(node):
                modified = _fold_constant(node, sweep, opset) or modified
        found = _candidates(self._nodes(model), sweep)
        unread = _drop_unread(found)
        candidates = [node for node in found if node not in unread]
        modified = modified or bool(unread)
        equal = find_equal(model, candidates)
        wanted = worth_folding(candidates, equal, sweep)
        done: dict[ir.Node, list[ir.Value]] = {}
        for node in candidates:
            if node in wanted or node.op_type == "Identity":
                modified = _fold(node, sweep, opset, equal, done) or modified
        for graph in [model.graph, *model.graph.subgraphs()]:
            modified = _drop_unused(graph) or modified
        return ir.passes.PassResult(model, modified)

    def _nodes(self, model: ir.Model) -> list[ir.Node]:
        return [
            node
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if not any(output.name in self.leave for output in node.outputs)
        ]


def _may_fold(node: ir.Node) -> bool:
    """Going by what the node is."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _NOT_FOLDED or node.graph is None:
        return False
    if "Sequence" in node.op_type or (not node.inputs and node.op_type != "Constant"):
        return False
    return not any(output.is_graph_output() for output in node.outputs)


def _candidates(nodes: Sequence[ir.Node], sweep: Sweep) -> list[ir.Node]:
    """Nodes that may be folded, going by what they are and what they are computed from."""
    found: dict[ir.Node, None] = {}
    for node in nodes:
        if not node.inputs or not _may_fold(node):
            continue
        if all(v is None or is_constant(v) or v.producer() in found for v in node.inputs):
            sweep.node(node)
            if all(_is_known(v, sweep) for v in node.outputs if v.name):
                found[node] = None
    return list(found)


def _drop_unread(nodes: Sequence[ir.Node]) -> set[ir.Node]:
    """Remove what nothing reads, from the last node to the first; the removed ones."""
    dropped = set()
    for node in reversed(nodes):
        if not any(output.uses() for output in node.outputs):
            _remove(node)
            dropped.add(node)
    return dropped


def _is_known(value: ir.Value, sweep: Sweep) -> bool:
    return value in sweep.dims and value in sweep.dtypes and value not in sweep.unknown


def _fold_constant(node: ir.Node, sweep: Sweep, opset: int) -> bool:
    assert isinstance(node.graph, ir.Graph)
    output = node.outputs[0]
    if "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
        _replace(node, [_renamed(tensor, output.name or "")], sweep, node.graph)
        return True
    sweep.node(node)
    results = _results(node, sweep, opset) if _is_known(output, sweep) else None
    if results is None:
        return False
    _replace(node, results, sweep, node.graph)
    return True


def _fold(
    node: ir.Node, sweep: Sweep, opset: int, equal: Equal, done: dict[ir.Node, list[ir.Value]]
) -> bool:
    if not all(v is None or is_constant(v) for v in node.inputs):
        return False  # what it reads was left, or could not be evaluated
    if node.op_type == "Identity" and node.inputs[0] is not None:
        ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
        _remove(node)
        return True
    first = equal.first[node]
    if first in done:
        for output, value in zip(node.outputs, done[first], strict=True):
            ir.convenience.replace_all_uses_with(output, value)
        _remove(node)
        return True
    results = _results(node, sweep, opset)
    if results is None:
        return False
    home = equal.home[first] if first is node else node.graph
    assert isinstance(home, ir.Graph)
    origin = _origin(node)
    done[node] = _replace(node, results, sweep, home)
    if origin:
        done[node][0].metadata_props[ORIGIN] = origin
    return True


def _origin(node: ir.Node) -> str:
    """What a transposed weight was called, and how its axes lie: what a plan is translated by."""
    source = node.inputs[0]
    if node.op_type != "Transpose" or source is None or source.shape is None:
        return ""
    reverse = [int(a) for a in reversed(range(len(source.shape)))]
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else reverse
    return f"{source.name} {' '.join(map(str, perm))}"


def _results(node: ir.Node, sweep: Sweep, opset: int) -> list[ir.TensorProtocol | None] | None:
    """One tensor per output that is read; None where the node must stay."""
    tensors = [None if v is None else v.const_value for v in node.inputs]
    bare = ir.Node(
        node.domain,
        node.op_type,
        [None] * len(node.inputs),
        attributes=list(node.attributes.values()),
        num_outputs=len(node.outputs),
        version=node.version or opset,
    )
    results: list[ir.TensorProtocol | None] = []
    for index, output in enumerate(node.outputs):
        if not output.name:
            results.append(None)
            continue
        dtype = sweep.dtypes[output]
        lazy = _lazy(bare, tensors, index, dtype, sweep.dims[output], output.name)
        if lazy.nbytes > _LAZY_BYTES:
            results.append(lazy)
            continue
        try:
            results.append(ir.tensor(lazy.numpy(), dtype=dtype, name=output.name))
        except Exception:  # an op the reference implementation lacks stays a node
            return None
    return results


def _lazy(
    node: ir.Node,
    tensors: Sequence[ir.TensorProtocol | None],
    index: int,
    dtype: ir.DataType,
    dims: Sequence[int],
    name: str,
) -> ir.LazyTensor:
    def compute() -> ir.TensorProtocol:
        arrays = [None if t is None else np.asarray(t.numpy()) for t in tensors]
        return ir.tensor(_run(node, arrays)[index], dtype=dtype, name=name)

    return ir.LazyTensor(compute, dtype, ir.Shape(dims), name=name)


def _run(node: ir.Node, arrays: Sequence[Array | None]) -> Sequence[Array]:
    """The node's outputs on constants: by our own table, else by onnx's reference evaluator."""
    result = evaluate(node, arrays, [None if a is None else a.shape for a in arrays], _NO_LIMIT)
    if result is not None:
        return result
    from onnx.reference import ReferenceEvaluator

    names = ["" if a is None else f"i{i}" for i, a in enumerate(arrays)]
    proto = onnx.NodeProto(
        op_type=node.op_type, input=names, output=[f"o{i}" for i in range(len(node.outputs))]
    )
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    graph = onnx.helper.make_graph(
        [proto],
        "folded",
        [_info(n, a) for n, a in zip(names, arrays, strict=True) if a is not None],
        [onnx.ValueInfoProto(name=o) for o in proto.output],
    )
    opsets = [onnx.helper.make_opsetid("", node.version or onnx.defs.onnx_opset_version())]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    feeds = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    outputs = ReferenceEvaluator(model).run(None, feeds)
    return [np.asarray(a) for a in outputs]


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    dtype = int(ir.DataType.from_numpy(array.dtype))
    return onnx.helper.make_tensor_value_info(name, dtype, array.shape)


def _renamed(tensor: ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    """The same contents under another name: the tensor itself may be the caller's."""
    if tensor.dtype == ir.DataType.STRING:
        return tensor
    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(lambda: tensor, tensor.dtype, shape, name=name)


def _replace(
    node: ir.Node,
    results: Sequence[ir.TensorProtocol | None],
    sweep: Sweep,
    home: ir.Graph,
) -> list[ir.Value]:
    """Put initializers of `home` in the place of the node's outputs, under the same names."""
    values = []
    for output, tensor in zip(node.outputs, results, strict=True):
        if tensor is None:
            values.append(output)
            continue
        value = ir.Value(
            name=output.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
            metadata_props=dict(output.metadata_props),
        )
        sweep.tensor(value, tensor)
        ir.convenience.replace_all_uses_with(output, value)
        home.register_initializer(value)
        values.append(value)
    _remove(node)
    return values


def _remove(node: ir.Node) -> None:
    graph = node.graph
    assert graph is not None
    graph.remove(node, safe=True)


def _drop_unused(graph: ir.Graph) -> bool:
    dropped = False
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_input() and not value.is_graph_output():
            del graph.initializers[name]
            dropped = True
    return dropped
