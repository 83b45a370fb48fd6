"""Finding one's way in an `ir.Model`: names of nodes, values by name, what a node reads.

Names are all that original, plan and pruned graph share, so they are resolved here, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx_ir as ir

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def node_key(node: ir.Node) -> str:
    """What a plan calls a node: its name or, where it has none, its first output's."""
    if node.name:
        return node.name
    return next((v.name for v in node.outputs if v.name), "") or node.op_type


def describe(node: ir.Node) -> str:
    """`Conv 'layer1.conv'`: how messages name a node."""
    return f"{node.op_type} '{node_key(node)}'"


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The bodies of an If, Loop or Scan; empty for other nodes."""
    if not node.attributes:
        return []
    found: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            found.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            found.extend(attr.as_graphs())
    return found


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """All nodes in topological order, those of bodies before the node that holds them."""
    for node in graph:
        for body in subgraphs(node):
            yield from all_nodes(body)
        yield node


def all_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """`graph` and the bodies inside it, outermost first."""
    yield graph
    for node in graph:
        for body in subgraphs(node):
            yield from all_graphs(body)


def defined(graph: ir.Graph) -> Iterator[ir.Value]:
    """Activations that a graph itself defines: its inputs, then its nodes' outputs."""
    yield from (v for v in graph.inputs if not v.is_initializer())
    for node in graph:
        yield from (v for v in node.outputs if v.name)


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initializer or the output of a Constant node, else None."""
    if value is None:
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value if value.is_initializer() else None
    if producer.op_type != "Constant" or producer.domain not in ("", "ai.onnx"):
        return None
    if value.const_value is not None:
        return value.const_value
    attr = producer.attributes.get("value")
    if attr is not None and attr.type == ir.AttributeType.TENSOR:
        return attr.as_tensor()
    attr = next(iter(producer.attributes.values()), None)
    if attr is None or attr.type == ir.AttributeType.SPARSE_TENSOR:
        return None
    return ir.tensor(attr.value)


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node needs from outside: its inputs and what its bodies capture, each once."""
    found: dict[ir.Value, None] = {v: None for v in node.inputs if v is not None}
    for body in subgraphs(node):
        inner: set[ir.Value] = set()
        for graph in all_graphs(body):
            inner.update(graph.inputs)
            inner.update(graph.initializers.values())
            for inside in graph:
                inner.update(inside.outputs)
        for graph in all_graphs(body):
            for inside in graph:
                found.update({v: None for v in inside.inputs if v is not None and v not in inner})
            found.update({v: None for v in graph.outputs if v not in inner})
    return list(found)


def constants_only(graph: ir.Graph) -> set[ir.Value]:
    """Initializers, and values computed from constants alone, in `graph` and its bodies."""
    found = {v for g in all_graphs(graph) for v in g.initializers.values()}
    for node in _outer_first(graph):
        fixed = all(v in found for v in node.inputs if v is not None)
        if fixed and not subgraphs(node) and not is_random(node):
            found.update(node.outputs)
    return found


def sizes_only(graph: ir.Graph, constants: set[ir.Value]) -> set[ir.Value]:
    """Values computed from shapes and constants alone, in `graph` and its bodies.

    They hold sizes (or are filled with constants), which pruning changes; whatever they size is
    checked itself.
    """
    found: set[ir.Value] = set()
    for node in _outer_first(graph):
        if subgraphs(node) or is_random(node):
            continue
        varying = [v for v in node.inputs if v is not None and v not in constants]
        if node.op_type in ("Shape", "Size") or (varying and all(v in found for v in varying)):
            found.update(node.outputs)
    return found


def _outer_first(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        yield node
        for body in subgraphs(node):
            yield from _outer_first(body)


def downstream(graph: ir.Graph, names: Collection[str], keys: Collection[str]) -> set[str]:
    """Names of activations that depend on the values `names` or on nodes called `keys`."""
    found = set(names)
    for node in graph:
        inside = [inner for body in subgraphs(node) for inner in all_nodes(body)]
        own = {v.name for v in reads(node)} | {v.name for n in inside for v in n.outputs}
        if own & found or any(node_key(n) in keys for n in (node, *inside)):
            found.update(v.name for v in node.outputs if v.name)
    return found


def is_random(node: ir.Node) -> bool:
    """Whether two runs of the node differ by design."""
    return node.op_type in _RANDOM and node.domain in ("", "ai.onnx")


def nodes_by_key(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """All nodes of `graph` and its bodies by `node_key` (names need not be unique in ONNX)."""
    found: dict[str, list[ir.Node]] = {}
    for node in all_nodes(graph):
        found.setdefault(node_key(node), []).append(node)
    return found


def values_by_name(graphs: Iterable[ir.Graph]) -> dict[str, list[ir.Value]]:
    """Activations by name; two branches of an If may each define the same one."""
    found: dict[str, list[ir.Value]] = {}
    for graph in graphs:
        for value in defined(graph):
            found.setdefault(value.name or "", []).append(value)
    return found
