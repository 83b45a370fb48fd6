"""Axes over tokens, from tables of embeddings through the graph to heads and logits.

A tied head is a table in a matrix product, and logits are what comes out; a head of its own weights
is one whose outputs are as many as the table has rows and reach an output of the model. Everything on
the way must treat tokens one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphprune.errors import UnsupportedModelError
from graphprune.onnx.operands import attribute, op_names
from graphprune.rules.context import node_name
from graphprune.vocabulary.lookups import ids_behind, initializer_behind, table_inputs

_UNARY = op_names("Identity Cast Tanh Sigmoid Neg Exp Clip DequantizeLinear QuantizeLinear")
_BINARY = op_names("Add Sub Mul Div Where Max Min PRelu Pow")


class _RefusedError(Exception):
    """Something that does not treat tokens one by one."""


class TokenAxes:
    """Everything that has an axis over tokens.

    Args:
        model: Constants lifted to initializers.
        rows: Length of the axis.
        tables: Initializers whose first axis it is.

    Attributes:
        axes: Initializer -> its axis over tokens.
        values: Activations whose last axis is over tokens, in order (a set).
        notes: What is not as before, for the user.
    """

    def __init__(self, model: ir.Model, rows: int, tables: Sequence[ir.Value]) -> None:
        self.model = model
        self.rows = rows
        self.tables = tables
        self.axes: dict[str, int] = {}
        self.values: dict[str, None] = {}
        self.notes: list[str] = []

    def follow(self) -> None:
        """Tables and what is made of them; then heads of their own weights.

        Raises:
            UnsupportedModelError: Something on the way mixes tokens.
        """
        try:
            self._spread({id(t): (t, -2) for t in self.tables})
        except _RefusedError as error:
            raise UnsupportedModelError(str(error)) from error
        for value in list(self.model.graph.initializers.values()):
            if value.name in self.axes or value.const_value is None:
                continue
            shape = tuple(int(d) for d in value.const_value.shape.numpy())
            if len(shape) != 2 or self.rows not in shape:
                continue
            for axis in (i for i in (1, 0) if shape[i] == self.rows):
                if self._is_head(value, axis - 2):
                    break

    def _is_head(self, value: ir.Value, axis: int) -> bool:
        """Follow a weight as a head; where it is none (as wide by chance) forget what was found."""
        before = dict(self.axes), dict(self.values), list(self.notes)
        try:
            self._spread({id(value): (value, axis)})
            if any(
                v.name in self.values and v.name not in before[1] for v in self.model.graph.outputs
            ):
                return True
        except _RefusedError:
            pass
        self.axes, self.values, self.notes = before
        return False

    def note_whole_outputs(self) -> None:
        """Outputs that seem to be over tokens and were not followed."""
        for value in self.model.graph.outputs:
            last = value.shape[-1] if value.shape is not None and len(value.shape) else None
            if last == self.rows and value.name not in self.values:
                self.notes.append(
                    f"output '{value.name}' still has {self.rows:,} numbers a place, in the old order: "
                    "how its head is computed is not followed"
                )

    def _spread(self, axis_of: dict[int, tuple[ir.Value, int]]) -> None:
        """Follow axes over tokens; -1 is the last axis of a value."""
        for value, axis in axis_of.values():
            self._initializer_axis(value, axis)
        for node in self.model.graph:
            at = [
                (i, axis_of[id(v)][1])
                for i, v in enumerate(node.inputs)
                if v is not None and id(v) in axis_of
            ]
            if not at:
                continue
            made = self._through(node, dict(at), axis_of)
            if made is not None:
                out = node.outputs[0]
                axis_of[id(out)] = (out, made)
                if initializer_behind(out) is None and not _constant(out):
                    self.values[out.name or ""] = None

    def _initializer_axis(self, value: ir.Value, axis: int) -> None:
        tensor = value.const_value
        assert tensor is not None
        rank = len(tensor.shape)
        known = self.axes.setdefault(value.name or "", axis + rank)
        others = value.is_graph_output() or value.is_graph_input()
        if known != axis + rank or others or tensor.shape.numpy()[axis] != self.rows:
            raise _RefusedError(f"'{value.name}' is used in several ways, of which one is by token")

    def _through(
        self, node: ir.Node, at: dict[int, int], axis_of: dict[int, tuple[ir.Value, int]]
    ) -> int | None:
        """The axis over tokens of what a node makes; None where nothing it makes has one."""
        op, (first, axis) = node.op_type, next(iter(at.items()))
        places = table_inputs(node)
        refused = _RefusedError(
            f"node '{node_name(node)}' ({op}) mixes tokens, which trimming would change"
        )
        if places is not None and places[0] == first:
            rank = _rank(node.inputs[first])
            if ids_behind(node.inputs[places[1]]) is not None and axis == -(rank or 2):
                return None
            raise refused
        if op in ("Shape", "Size"):
            return None
        if op in _UNARY:
            if op == "DequantizeLinear":
                self._scales(node, axis, refused)
            return axis
        if op == "Transpose":
            perm = attribute(node, "perm")
            length = len(perm) if perm is not None else _rank(node.inputs[0])
            if length is None:
                raise refused
            order = list(perm) if perm is not None else list(range(length))[::-1]
            return order.index(axis + length) - length
        if op == "MatMul":
            if len(at) == 1 and first == 1 and axis == -1:
                return -1
            raise refused
        if op == "Gemm":
            return self._gemm(node, at, axis_of, refused)
        if op in _BINARY:
            return self._binary(node, at, axis_of, refused)
        if op in ("Softmax", "LogSoftmax", "ArgMax", "TopK"):
            rank = _rank(node.inputs[0])
            along = attribute(node, "axis", 0 if op == "ArgMax" else -1)
            along = along - rank if along >= 0 and rank is not None else along
            if axis != -1 or along != -1:
                raise refused
            if op in ("Softmax", "LogSoftmax"):
                self.notes.append(
                    f"'{node_name(node)}' ({op}) normalises over the tokens that are kept: "
                    "probabilities are larger than before"
                )
                return -1
            self.notes.append(f"'{node_name(node)}' ({op}) gives token ids of the new tokenizer")
            return None
        if op in ("Gather", "Slice", "Squeeze", "Unsqueeze") and axis == -1 and first == 0:
            if self._beside(node):
                return -1
            raise refused
        raise refused

    def _beside(self, node: ir.Node) -> bool:
        """Whether a node picks along other axes than the last."""
        rank = _rank(node.inputs[0])
        if node.op_type == "Gather":
            along = attribute(node, "axis", 0)
            return along != -1 and (along < 0 or (rank is not None and along < rank - 1))
        where = attribute(node, "axes")
        place = 3 if node.op_type == "Slice" else 1
        given = node.inputs[place] if place < len(node.inputs) else None
        if where is None and given is not None:
            tensor = given.const_value
            where = None if tensor is None else tensor.numpy().reshape(-1).tolist()
        if where is None or rank is None:
            return False
        total = rank + len(where) if node.op_type == "Unsqueeze" else rank
        return all((a if a < 0 else a - total) != -1 for a in where)

    def _scales(self, node: ir.Node, axis: int, refused: _RefusedError) -> None:
        """Scales and zero points of a quantised table: one, or one a token."""
        for value in node.inputs[1:]:
            if value is None:
                continue
            tensor = value.const_value
            if tensor is None:
                raise refused
            if tensor.size > 1:
                rank = _rank(node.inputs[0])
                along = attribute(node, "axis", 1)
                along = along - rank if along >= 0 and rank is not None else along
                if len(tensor.shape) != 1:
                    raise refused
                if along == axis:
                    self._initializer_axis(value, -1)

    def _gemm(
        self,
        node: ir.Node,
        at: dict[int, int],
        axis_of: dict[int, tuple[ir.Value, int]],
        refused: _RefusedError,
    ) -> int:
        turned = bool(attribute(node, "transB"))
        if set(at) != {1} or at[1] != (-2 if turned else -1):
            raise refused
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            self._operand(bias, axis_of, refused)
        return -1

    def _binary(
        self,
        node: ir.Node,
        at: dict[int, int],
        axis_of: dict[int, tuple[ir.Value, int]],
        refused: _RefusedError,
    ) -> int:
        axes = set(at.values())
        if len(axes) != 1:
            raise refused
        axis = axes.pop()
        for i, value in enumerate(node.inputs):
            if value is None or i in at:
                continue
            if axis == -1:
                self._operand(value, axis_of, refused)
            elif value.const_value is None or value.const_value.size != 1:
                raise refused
        return axis

    def _operand(
        self, value: ir.Value, axis_of: dict[int, tuple[ir.Value, int]], refused: _RefusedError
    ) -> None:
        """The other operand of an elementwise op on logits: one number a token, or for all."""
        tensor = value.const_value
        if tensor is not None and value.is_initializer():
            if len(tensor.shape) == 0 or tensor.shape.numpy()[-1] == 1:
                return
            self._initializer_axis(value, -1)
            axis_of[id(value)] = (value, -1)
            return
        if id(value) in axis_of and axis_of[id(value)][1] == -1:
            return
        if value.shape is not None and (len(value.shape) == 0 or value.shape[-1] == 1):
            return
        raise refused


def _rank(value: ir.Value | None) -> int | None:
    if value is None:
        return None
    if value.const_value is not None:
        return len(value.const_value.shape)
    return None if value.shape is None else len(value.shape)


def _constant(value: ir.Value) -> bool:
    """Made of initializers alone: a transposed table has no axis of activations."""
    node = value.producer()
    if node is None:
        return value.is_initializer()
    return all(v is None or v.is_initializer() or _constant(v) for v in node.inputs)
