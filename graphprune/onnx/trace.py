"""Running the label rules over an ONNX graph: from a model and its shapes to sites."""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

import graphprune.rules.onnx  # noqa: F401  (registers the rules)
from graphprune.analysis.site import Link, Residual, Site, Statistic
from graphprune.labels import Algebra, Labels
from graphprune.onnx.shapes import Shapes
from graphprune.rules.context import Findings, OpContext, is_weight, node_name
from graphprune.rules.onnx.mean import summed
from graphprune.rules.registry import registry

STRONG = {
    *(ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE),
    *(ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2),
    *(ir.DataType.INT4, ir.DataType.UINT4),
}


@dataclass(frozen=True, eq=False)
class Trace:
    """Labels of a whole model.

    Attributes:
        alg: Labels, equalities, pins, balances, hints.
        sites: Every tracked activation and initializer use, in graph order.
        statistics: Nodes whose statistics run over tracked channels.
        residuals: Nodes that join the widths of two producers by addition.
        links: What each node connects.
    """

    alg: Algebra
    sites: tuple[Site, ...]
    statistics: tuple[Statistic, ...]
    residuals: tuple[Residual, ...]
    links: tuple[Link, ...]


def trace(
    model: ir.Model,
    shapes: Shapes,
    other: Shapes | None = None,
    *,
    blocks: bool = True,
    grid: int = 16,
) -> Trace:
    """Push labels through `model`.

    Args:
        model: Canonical (functions inlined, initializer-only subgraphs folded).
        shapes: Sizes at the binding of the analysis.
        other: Sizes at another binding: where they differ, an axis is dynamic.
        blocks: Whole heads and groups leave (True), or channels inside them (False).
        grid: Grouped convolutions with fewer than two grid steps of channels in a group give up
            whole groups.
    """
    run = _Run(model, shapes, other, Algebra(blocks=blocks, grid=grid))
    run.graph(model.graph)
    run.tie_tables()
    run.pin_ambiguous()
    for value in model.graph.outputs:
        run.alg.space.node = value.name or ""
        state = run.found.states.get(value)
        if state is not None:
            run.alg.pin(state.factors, f"it is the model's output '{value.name}'")
    return run.result(shapes, other)


class _Run:
    def __init__(self, model: ir.Model, shapes: Shapes, other: Shapes | None, alg: Algebra) -> None:
        self.other = other.dims if other is not None else None
        self.alg = alg
        self.found = Findings()
        self.shapes = shapes
        self.opsets = model.opset_imports
        self.order: dict[ir.Node, int] = {}

    def graph(self, graph: ir.Graph) -> None:
        for node in graph:
            self.order[node] = len(self.order)
            self.node(node)

    def node(self, node: ir.Node) -> None:
        self.alg.space.node = node_name(node)
        ctx = OpContext(
            node,
            self.alg,
            self.found,
            self.shapes.dims,
            self.shapes.values,
            self.graph,
            self.other,
        )
        rule = registry.find(node.domain, node.op_type, self.opsets.get(node.domain))
        missing = [v for v in node.inputs if v is not None and v not in self.shapes.dims]
        read = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        missing += [v for v in read if v not in self.shapes.dims]
        if rule is not None and rule.boundary:
            self._pin_known(node, rule.boundary)
        elif missing:
            self._pin_known(node, f"the shape of '{missing[0].name}' is not known")
        elif rule is None:
            domain = f"{node.domain}." if node.domain else ""
            self._pin_known(node, f"no rule for the op {domain}{node.op_type}")
        else:
            rule.labels(ctx)
        self.alg.space.node = node_name(node)

    def _pin_known(self, node: ir.Node, reason: str) -> None:
        for value in [*node.inputs, *captured(node)]:
            state = self.found.states.get(value) if value is not None else None
            if state is not None:
                self.alg.pin(state.factors, reason)

    def tie_tables(self) -> None:
        """A table that is looked up and multiplied by as well (an embedding that is the head too)
        stays one tensor: the same of it leaves in all its uses."""
        tables: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
        for node, i in self.found.uses:
            value = node.inputs[i]
            assert value is not None
            tables.setdefault(value, []).append((node, i))
        for uses in tables.values():
            lookups = [(node, i) for node, i in uses if node.op_type == "Gather" and i == 0]
            if not lookups or len(lookups) == len(uses):
                continue
            first = self.found.uses[lookups[0]]
            self.alg.space.node = node_name(lookups[0][0])
            for use in uses:
                mine = self.found.uses[use]
                rows = [f for f in mine.factors if first.on(f.removal) is None]
                self.alg.pin(rows, "a table that is looked up keeps its rows")
                self.alg.meet([first, mine], blocks=False)

    def pin_ambiguous(self) -> None:
        """A plan names values and nodes: what shares its name with another must stay whole."""
        values: dict[str, list[ir.Value]] = {}
        for value in self.found.states:
            values.setdefault(value.name or "", []).append(value)
        for name, found in values.items():
            if len(found) > 1:
                self.alg.space.node = name
                for value in found:
                    factors = self.found.states[value].factors
                    self.alg.pin(factors, f"two tensors are called '{name}'")
        uses: dict[tuple[str, int, str], list[tuple[ir.Node, int]]] = {}
        for node, i in self.found.uses:
            read = node.inputs[i]
            assert read is not None
            uses.setdefault((node_name(node), i, read.name or ""), []).append((node, i))
        for (name, _, initializer), alike in uses.items():
            if len(alike) > 1:
                self.alg.space.node = name
                for use in alike:
                    reason = f"two nodes called '{name}' read '{initializer}'"
                    self.alg.pin(self.found.uses[use].factors, reason)

    def result(self, shapes: Shapes, other: Shapes | None) -> Trace:
        sites: list[Site] = []
        links: list[Link] = []
        states, uses = self.found.states, self.found.uses
        for node, order in self.order.items():
            name = node_name(node)
            reads: list[str] = []
            for i, value in enumerate(node.inputs):
                if value is None:
                    continue
                use = uses.get((node, i))
                if use is not None and use.factors:
                    sites.append(
                        Site(
                            value.name or "",
                            name,
                            node.op_type,
                            i,
                            use.shape,
                            use.factors,
                            frozenset(),
                            value.dtype in STRONG,
                            order,
                            owner(node, value),
                        )
                    )
                    reads.append(value.name or "")
                elif value in states and states[value].factors:
                    reads.append(value.name or "")
            writes = []
            for value in [*body_inputs(node), *node.outputs]:
                state = states.get(value)
                if state is None or not state.factors:
                    continue
                writes.append(value.name or "")
                sites.append(
                    Site(
                        value.name or "",
                        name,
                        node.op_type,
                        -1,
                        state.shape,
                        state.factors,
                        _dynamic(value, state.shape, other),
                        False,
                        order,
                    )
                )
            if reads or writes:
                links.append(Link(name, node.op_type, tuple(reads), tuple(writes)))
        statistics = tuple(
            Statistic(node_name(n), n.op_type, axes, self._first(n).factors)
            for n, axes in self.found.statistics.items()
        )
        residuals = tuple(
            Residual(node_name(n), states[n.outputs[0]].factors)
            for n in self.found.residuals
            if n.outputs[0] in states
        )
        return Trace(self.alg, tuple(sites), statistics, residuals, tuple(links))

    def _first(self, node: ir.Node) -> Labels:
        """Labels of what a node takes statistics of."""
        total = summed(node)
        node = node if total is None else total[0]
        value = node.inputs[0]
        assert value is not None
        return self.found.uses[node, 0] if is_weight(value) else self.found.states[value]


def owner(node: ir.Node, value: ir.Value) -> str:
    """What the user calls the layer that a weight belongs to.

    The path of its torch module where the exporter noted it; else the name of the initializer up to
    its last dot, where that is a path; else nothing.
    """
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    if len(scopes) > 1 and scopes[-2]:
        return str(scopes[-2])
    path, dot, _ = (value.name or "").rpartition(".")
    return path if dot else ""


def captured(node: ir.Node) -> list[ir.Value]:
    """Everything that is read in the bodies of a node, and what they give back."""
    found: list[ir.Value] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            for inner in graph:
                found.extend(v for v in inner.inputs if v is not None)
                found.extend(captured(inner))
            found.extend(graph.outputs)
    return found


def body_inputs(node: ir.Node) -> list[ir.Value]:
    """Inputs of the bodies of a Loop or Scan: no node makes them, yet they carry labels."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return [value for graph in graphs for value in graph.inputs]


def _dynamic(value: ir.Value, shape: tuple[int, ...], other: Shapes | None) -> frozenset[int]:
    if other is None or value not in other.dims:
        return frozenset()
    return frozenset(
        a for a, (n, m) in enumerate(zip(shape, other.dims[value], strict=True)) if n != m
    )
