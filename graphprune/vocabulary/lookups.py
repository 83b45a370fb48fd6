"""Where token ids enter a model: tables that are looked up by them, and what else reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.operands import VIEWS, attribute, op_names
from graphprune.rules.context import node_name

_VIEWS = VIEWS | op_names("Cast Expand Slice Concat")
_HARMLESS = op_names("Shape Size ArgMax ArgMin")


@dataclass(frozen=True, eq=False)
class Lookup:
    """A table of which the rows are picked by an integer input of the model.

    Attributes:
        ids: Name of the input.
        table: The initializer.
        rows: Its length.
    """

    ids: str
    table: ir.Value
    rows: int


@dataclass
class IdUses:
    """What is done with token ids beside looking up tables.

    Attributes:
        constants: Single ids that the graph compares with: (node, input).
        echoes: Graph outputs that are ids as they came in.
        notes: What is not as before, for the user.
    """

    constants: list[tuple[str, int]] = field(default_factory=list)
    echoes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lookups(graph: ir.Graph) -> Iterator[Lookup]:
    """Every lookup by an integer input, in the order of the nodes."""
    for node in graph:
        places = table_inputs(node)
        if places is None:
            continue
        table = initializer_behind(node.inputs[places[0]])
        source = ids_behind(node.inputs[places[1]])
        if table is None or source is None or table.const_value is None:
            continue
        shape = table.const_value.shape
        if len(shape) == 2:
            yield Lookup(source.name or "", table, int(shape.numpy()[0]))


def table_inputs(node: ir.Node) -> tuple[int, int] | None:
    """Which inputs of a node are a table and the ids."""
    if node.op_type == "Gather" and attribute(node, "axis", 0) == 0:
        return 0, 1
    if node.op_type == "EmbedLayerNormalization":
        return 2, 0
    return None


def initializer_behind(value: ir.Value | None) -> ir.Value | None:
    """The initializer behind a value, through ops that keep its first axis."""
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in ("Identity", "Cast", "DequantizeLinear"):
            return None
        value = node.inputs[0]
    return value


def ids_behind(value: ir.Value | None) -> ir.Value | None:
    """The integer graph input of which a value has the numbers."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        if node is None or node.op_type not in _VIEWS:
            return None
        value = node.inputs[0]
    if value is None or value.is_initializer() or value.dtype is None:
        return None
    return value if value.dtype in (ir.DataType.INT64, ir.DataType.INT32) else None


def captures(graph: ir.Graph, found: Sequence[Lookup]) -> bool:
    """Whether the body of a loop or branch reads a table or ids from outside."""
    tables = {id(x.table) for x in found}
    inputs = {x.ids for x in found}
    values = [v for n in graph for v in n.inputs if v is not None]
    return any(id(v) in tables or (v.is_graph_input() and v.name in inputs) for v in values)


def follow_ids(value: ir.Value, tables: Sequence[ir.Value], found: IdUses) -> None:
    """Add what is done with token ids to `found`.

    Raises:
        UnsupportedModelError: The model computes with them.
    """
    if value.is_graph_output():
        found.echoes.append(value.name or "")
        found.notes.append(f"output '{value.name}' gives the token ids back, the new ones")
    for use in value.uses():
        node, i = use.node, use.idx
        places = table_inputs(node)
        if places is not None and i == places[1]:
            table = initializer_behind(node.inputs[places[0]])
            if any(table is t for t in tables):
                continue
        elif node.op_type == "Equal":
            other = node.inputs[1 - i]
            if other is not None and other.is_initializer():
                found.constants.append((node.name or node.outputs[0].name or "", 1 - i))
                continue
        elif node.op_type in _HARMLESS:
            continue
        elif node.op_type in _VIEWS and i == 0 and node.op_type != "Concat":
            cast = attribute(node, "to") if node.op_type == "Cast" else None
            if cast is None or cast in (ir.DataType.INT64, ir.DataType.INT32):
                follow_ids(node.outputs[0], tables, found)
                continue
        raise UnsupportedModelError(
            f"node '{node_name(node)}' ({node.op_type}) computes with token ids, which trimming "
            "would change"
        )
