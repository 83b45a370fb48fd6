"""Where kept entries go: movement ops, elementwise ops and contractions, on indices alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from graphprune.certify.graphs import node_key
from graphprune.certify.match import Match
from graphprune.certify.movement import (
    Dims,
    Move,
    UncheckedError,
    check_move,
    data_inputs,
    is_movement,
)
from graphprune.certify.record import Record
from graphprune.certify.sides import with_renamed
from graphprune.cut import Cut, pruned_shape
from graphprune.onnx.operands import ELEMENTWISE
from graphprune.onnx.shapes import Shapes
from graphprune.plan import Plan


class Places:
    """Checks, at the plan's binding, of every node that a cut tensor passes."""

    def __init__(
        self,
        plan: Plan,
        found: Match,
        before: Shapes,
        after: Shapes,
        renamed: Mapping[str, Sequence[str]],
        record: Record,
    ) -> None:
        self._tensors = with_renamed(plan.tensors, renamed, before)
        self._match = found
        self._before = before
        self._after = after
        self._record = record
        self._uses = {(u.node, u.input, u.initializer): u.cuts for u in plan.initializers}

    def check(self) -> None:
        """Check every node that both graphs have."""
        for node, origin in self._match.nodes.items():
            if node.op_type != origin.op_type:
                continue  # noted already
            try:
                reasons = list(self._node(node, origin))
            except UncheckedError as error:
                self._record.note(origin, f"not followed entry by entry: {error}")
                continue
            for reason in reasons:
                self._record.fail(origin, reason)

    def _node(self, node: ir.Node, origin: ir.Node) -> Iterable[str]:
        cuts = [self._cuts(origin, i) for i in range(len(origin.inputs))]
        outputs = [self._tensors.get(v.name or "", ()) for v in origin.outputs]
        if not any(cuts) and not any(outputs):
            return
        if is_movement(origin):
            self._record.checked += 1
            which = data_inputs(origin)
            reason = self._move(origin.op_type, node, origin, which, cuts, outputs)
            if reason:
                yield reason
        elif origin.op_type in ELEMENTWISE:
            self._record.checked += 1
            for i, value in enumerate(origin.inputs):
                if value is None or i >= len(node.inputs):
                    continue
                if node.inputs[i] not in self._match.values and not value.is_initializer():
                    continue  # a stand-in, which may be broadcast: compared by running both
                reason = self._move("Expand", node, origin, [i], cuts, outputs)
                if reason:
                    yield f"input {i} {reason}"
        else:
            yield from _contraction(origin, cuts, outputs, self._rank)

    def _cuts(self, origin: ir.Node, i: int) -> Sequence[Cut]:
        value = origin.inputs[i]
        if value is None:
            return ()
        use = self._uses.get((node_key(origin), i, value.name or ""))
        return use if use is not None else self._tensors.get(value.name or "", ())

    def _move(
        self,
        op: str,
        node: ir.Node,
        origin: ir.Node,
        which: Sequence[int],
        cuts: Sequence[Sequence[Cut]],
        outputs: Sequence[Sequence[Cut]],
    ) -> str:
        before = self._side(origin, which, self._before)
        if op == "Concat" and len(node.inputs) < len(which):  # emptied operands are gone
            after = self._side(node, data_inputs(node), self._after)
            after = Move(node, before.inputs, after.outputs, after.contents)
        else:
            after = self._side(node, which, self._after)
        if len(node.outputs) < len(origin.outputs):  # emptied results are gone
            there = {v.name: d for v, d in zip(node.outputs, after.outputs, strict=True)}
            shapes = zip(origin.outputs, before.outputs, outputs, strict=True)
            dims = [there.get(v.name, pruned_shape(d, c)) for v, d, c in shapes]
            after = replace(after, outputs=tuple(dims))
        return check_move(op, before, after, [cuts[i] for i in which], outputs)

    def _side(self, node: ir.Node, which: Sequence[int], shapes: Shapes) -> Move:
        return Move(
            node,
            tuple(self._dims(node.inputs[i], shapes) for i in which),
            tuple(self._dims(v, shapes) for v in node.outputs),
            tuple(None if v is None else shapes.values.get(v) for v in node.inputs),
        )

    def _dims(self, value: ir.Value | None, shapes: Shapes) -> Dims:
        if value is None or value not in shapes.dims:
            name = "an operand" if value is None else f"'{value.name}'"
            raise UncheckedError(f"the shape of {name} is not known")
        return shapes.dims[value]

    def _rank(self, value: ir.Value | None) -> int:
        return len(self._dims(value, self._before))


# --- contractions ---------------------------------------------------------------------------------


def _contraction(
    node: ir.Node,
    cuts: Sequence[Sequence[Cut]],
    outputs: Sequence[Sequence[Cut]],
    rank_of: Callable[[ir.Value | None], int],
) -> Iterable[str]:
    """Summed axes keep the same on both sides; free axes keep what the result keeps."""
    if node.op_type not in ("MatMul", "Gemm", "Conv"):
        return
    pairs: list[tuple[str, Sequence[Cut], int, Sequence[Cut], int]] = []
    a, b, y = cuts[0], cuts[1], outputs[0]
    if node.op_type == "MatMul":
        ranks = [rank_of(v) for v in (node.inputs[0], node.inputs[1], node.outputs[0])]
        pairs.append(("summed axis", a, ranks[0] - 1, b, max(ranks[1] - 2, 0)))
        if ranks[0] > 1 and ranks[1] > 1:
            pairs.append(("rows", a, ranks[0] - 2, y, ranks[2] - 2))
            pairs.append(("columns", b, ranks[1] - 1, y, ranks[2] - 1))
    elif node.op_type == "Gemm":
        flip_a, flip_b = (bool(_int(node, n, 0)) for n in ("transA", "transB"))
        pairs.append(("summed axis", a, 0 if flip_a else 1, b, 1 if flip_b else 0))
        pairs.append(("rows", a, 1 if flip_a else 0, y, 0))
        pairs.append(("columns", b, 0 if flip_b else 1, y, 1))
    else:
        if _int(node, "group", 1) == 1:
            pairs.append(("input channels", a, 1, b, 1))
        pairs.append(("output channels", b, 0, y, 1))
        if len(cuts) > 2 and node.inputs[2] is not None:
            pairs.append(("bias", cuts[2], 0, y, 1))
    for what, left, i, right, j in pairs:
        one, other = _plain(left, i), _plain(right, j)
        if isinstance(one, str) or isinstance(other, str):
            continue
        if (one is None) != (other is None) or (
            one is not None and other is not None and not np.array_equal(one, other)
        ):
            yield f"the plan keeps different {what} on the two sides"


def _int(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None else int(attr.value)


def _plain(cuts: Sequence[Cut], axis: int) -> np.ndarray | str | None:
    """Indices kept of an axis; None where it is whole, a string where they differ by block."""
    found = next((c for c in cuts if c.axis == axis), None)
    if found is None:
        return None
    return "by block" if found.blocks else found.kept
