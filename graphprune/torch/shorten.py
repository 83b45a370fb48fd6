"""A captured module without some of its layers, as a graph.

What comes into a layer stands for what goes out; what nothing needs any more goes, and so does what a
layer that left writes in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import fx

from graphprune.errors import UsageError
from graphprune.plan import LayerCut
from graphprune.torch.call import in_place, is_view
from graphprune.torch.capture import Captured
from graphprune.torch.layers import layers_of


def shortened(captured: Captured, layers: Sequence[LayerCut]) -> Captured:
    """The module without `layers`. Nodes that stay keep their names; weights are shared.

    Args:
        captured: The whole module; not changed.
        layers: Of it, in any order.

    Raises:
        UsageError: It does not have these layers, or they ask for a linear map.
    """
    if not layers:
        return captured
    known = {n.name: n for n in captured.nodes}
    for cut in layers:
        if cut.linear is not None:
            raise UsageError(
                f"'{cut.name}' is to be replaced by a linear map, which only ONNX models can have: "
                "leave linear_layers out"
            )
        if cut.source not in known or cut.output not in known:
            raise UsageError(
                f"the plan takes out the layer '{cut.name}', which this module does not have"
            )
    order = {n: i for i, n in enumerate(captured.nodes)}
    cuts = sorted(layers, key=lambda c: order[known[c.output]])
    inside = {n for c in cuts for n in _between(captured.nodes, known[c.source], known[c.output])}
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    stands: dict[fx.Node, fx.Node] = {}
    for cut in cuts:
        source = known[cut.source]
        stands[known[cut.output]] = stands.get(source, source)
    live = _live(captured.nodes, stands, inside)
    for node in captured.nodes:
        if node in live:
            new[node] = graph.node_copy(node, lambda n: new[stands.get(n, n)])
            new[node].meta = dict(node.meta)
    graph.set_codegen(captured.graph_module.graph._codegen)
    graph.lint()
    made = fx.GraphModule(captured.graph_module, graph)
    made.train(captured.training)
    weights = captured.weights
    left = {weights.names[n] for n in weights.names if n in live}
    dropped = tuple(dict.fromkeys(n for n in weights.names.values() if n not in left))
    return replace(captured, graph_module=made, dropped=dropped)


def named_layers(captured: Captured, layers: Sequence[LayerCut]) -> tuple[LayerCut, ...]:
    """Layers of another form of the module (its ONNX export), found here by their names.

    Raises:
        UsageError: There is none of such a name.
    """
    known = {layer.name: layer for layer in layers_of(captured)}
    for cut in layers:
        if cut.name not in known:
            raise UsageError(
                f"the plan takes out the layer '{cut.name}', which this module does not have"
            )
    found = [(cut, known[cut.name]) for cut in layers]
    return tuple(replace(cut, source=of.source, output=of.output) for cut, of in found)


def _between(nodes: Sequence[fx.Node], source: fx.Node, output: fx.Node) -> set[fx.Node]:
    """Nodes that depend on `source` and that `output` depends on."""
    below: set[fx.Node] = {source}
    for node in nodes:
        if any(n in below for n in node.all_input_nodes):
            below.add(node)
    above: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node in below and node not in above and node is not source:
            above.add(node)
            waiting += node.all_input_nodes
    return above


def _live(
    nodes: Sequence[fx.Node], stands: Mapping[fx.Node, fx.Node], inside: set[fx.Node]
) -> set[fx.Node]:
    """Nodes that are needed: by the outputs, or since they write into what is."""
    live: set[fx.Node] = set()

    def need(node: fx.Node) -> None:
        waiting = [node]
        while waiting:
            found = waiting.pop()
            found = stands.get(found, found)
            if found not in live:
                live.add(found)
                waiting += found.all_input_nodes

    for node in nodes:
        if node.op in ("placeholder", "output"):
            need(node)
    written = dict(_written(nodes, inside))
    readers = _readers(nodes, written)
    changed = True
    while changed:
        changed = False
        for node, memory in written.items():
            if node not in live and _matters(memory, live, readers):
                need(node)
                changed = True
    return live


def _written(nodes: Sequence[fx.Node], inside: set[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Nodes that write in place, outside of layers that leave, with what made the memory."""
    memory: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        first = node.args[0] if node.op == "call_function" and node.args else None
        if not isinstance(first, fx.Node):
            continue
        if in_place(node) or is_view(node):
            memory[node] = memory.get(first, first)
            if in_place(node) and node not in inside:
                yield node, memory[node]


def _readers(
    nodes: Sequence[fx.Node], written: Mapping[fx.Node, fx.Node]
) -> dict[str, list[fx.Node]]:
    """Path of a module -> the nodes that read its weights, but for those that only write."""
    found: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if node.op == "get_attr" and not str(node.target).endswith(".training"):
            path = str(node.target).rpartition(".")[0]
            found.setdefault(path, []).extend(u for u in node.users if u not in written)
    return found


def _matters(memory: fx.Node, live: set[fx.Node], readers: Mapping[str, Sequence[fx.Node]]) -> bool:
    """Whether what is written is read: of a buffer, whether its module still is."""
    if memory.op != "get_attr":
        return memory in live
    others = readers.get(str(memory.target).rpartition(".")[0], ())
    return not others or any(n in live for n in others)
