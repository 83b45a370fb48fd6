"""What each node of the pruned graph reads: the same value, or just what the plan left of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.certify.graphs import (
    constant,
    constants_only,
    node_key,
    sizes_only,
)
from graphprune.certify.match import Match
from graphprune.certify.record import Record
from graphprune.certify.statistics import averaged
from graphprune.cut import pruned_shape, take
from graphprune.plan import Plan

Array = np.ndarray[Any, Any]

_SIZE_OPERANDS = {
    "Reshape": {1},
    "Expand": {1},
    "Slice": {1, 2},
    "Split": {1},
    "Tile": {1},
    "Pad": {1},
    "Resize": {3},
    "ConstantOfShape": {0},
    "Range": {0, 1, 2},
    "Gather": {1},
    "OneHot": {1},
}
"""Operands that hold sizes or indices: they may change, the op is checked by what it moves."""
_SHORTER = {"Concat", "Sum", "Max", "Min", "Mean"}
"""Ops that may lose operands of which nothing is left."""
_CHUNK = 1 << 26


class Operands:
    """Compares operands, node by node.

    Attributes:
        renamed: See `Structure`.
        stand_ins: See `Structure`.
        quiet: Values of both graphs that are computed from sizes and constants alone.
    """

    def __init__(
        self, original: ir.Model, pruned: ir.Model, plan: Plan, found: Match, record: Record
    ) -> None:
        self.renamed: dict[str, list[str]] = {}
        self.stand_ins: dict[str, list[ir.TensorProtocol]] = {}
        self.quiet: set[ir.Value] = set()
        self._constants: set[ir.Value] = set()
        for graph in (original.graph, pruned.graph):
            fixed = constants_only(graph)
            self._constants |= fixed
            self.quiet |= fixed | sizes_only(graph, fixed)
        self._cuts = {(u.node, u.input, u.initializer): u.cuts for u in plan.initializers}
        self._plan = plan
        self._empties = any(c.count == 0 for cuts in plan.tensors.values() for c in cuts)
        self._match = found
        self._record = record
        self._before, self._after = original.graph, pruned.graph
        self._top = {original.graph, pruned.graph}
        self._left = set(found.values.values())
        self._seen: set[tuple[int, int, bytes]] = set()

    def check(self) -> None:
        """Check every operand of every node that both graphs have."""
        for node, origin in self._match.nodes.items():
            if node.op_type != origin.op_type:
                continue  # reported already
            for i, (want, got) in enumerate(self._slots(node, origin)):
                reason = self._operand(node, origin, i, want, got)
                if reason:
                    self._record.fail(origin, f"input {i} {reason}")
        for mine, theirs in zip(self._after.outputs, self._before.outputs, strict=True):
            source = theirs.producer()
            if source is None or mine.producer() is not None:
                continue  # passed through as before, or computed: seen when both are run
            if constant(mine) is None or self._other(theirs, mine):
                self._record.fail(source, f"the graph's output '{theirs.name}' is not computed")

    def _slots(
        self, node: ir.Node, origin: ir.Node
    ) -> Iterable[tuple[ir.Value | None, ir.Value | None]]:
        """(expected, actual) operands, in the original's positions."""
        want, got = list(origin.inputs), list(node.inputs)
        if origin.op_type in _SHORTER and len(got) < len(want):
            kept = [v for i, v in enumerate(want) if not self._emptied(origin, i, v)]
            if len(kept) == len(got):
                return zip(kept, got, strict=True)
        length = max(len(want), len(got))
        want += [None] * (length - len(want))
        got += [None] * (length - len(got))
        return zip(want, got, strict=True)

    def _emptied(self, origin: ir.Node, i: int, value: ir.Value | None) -> bool:
        name = "" if value is None else value.name or ""
        cuts = self._cuts.get((node_key(origin), i, name), self._plan.tensors.get(name, ()))
        return any(c.count == 0 for c in cuts)

    def _operand(
        self,
        node: ir.Node,
        origin: ir.Node,
        i: int,
        want: ir.Value | None,
        got: ir.Value | None,
    ) -> str:
        if want is None and got is None:
            return ""
        size = i in _SIZE_OPERANDS.get(origin.op_type, ())
        if want is None or got is None:
            if size and want is None and got in self.quiet:
                return ""
            if want in self.quiet and want not in self._constants:
                self._record.note(origin, f"input {i} (computed from sizes) is left out")
                return ""
            return "was added" if want is None else f"('{want.name}') is missing"
        if self._match.values.get(got) is want and not (got in self.quiet and want in self.quiet):
            return ""
        if want in self._constants and got in self._constants:
            return self._contents(origin, i, want, got, size)
        if want in self._constants:
            tensor = constant(want)
            whole = tensor is not None and tensor.dtype.is_integer()
            return "" if whole and got in self.quiet else f"('{want.name}') is no constant any more"
        if want in self.quiet:
            return "" if got in self.quiet else f"reads '{got.name}' instead of a size"
        return self._other(want, got)

    def _other(self, want: ir.Value, got: ir.Value) -> str:
        """An operand that is another value than in the original: an error where the original's is
        still there; else something that must equal it, which running both will show."""
        fixed = got in self._constants
        complaint = f"reads {'the constant ' * fixed}'{got.name}' instead of '{want.name}'"
        if want in self._left and (fixed or got in self._match.values):
            return complaint
        if fixed and not self._empties:  # only what reads nothing any more can be constant
            return complaint
        if want.graph not in self._top:
            return complaint
        name, tensor = want.name or "", constant(got)
        if tensor is not None:
            self.stand_ins.setdefault(name, []).append(tensor)
            return ""
        if got.graph not in self._top:
            return complaint
        # Of blocks in a row that vanished, what went in stands for the result of each of them.
        others = self.renamed.setdefault(got.name or "", [])
        if name not in others:
            others.append(name)
        return ""

    def _touched(self, origin: ir.Node) -> bool:
        """Whether the plan cuts something that the node reads or writes."""
        names = [v.name for v in (*origin.inputs, *origin.outputs) if v is not None]
        key = node_key(origin)
        return any(n in self._plan.tensors for n in names) or any(
            (key, i, v.name or "") in self._cuts
            for i, v in enumerate(origin.inputs)
            if v is not None
        )

    # --- contents ---------------------------------------------------------------------------------

    def _contents(self, origin: ir.Node, i: int, want: ir.Value, got: ir.Value, size: bool) -> str:
        """Bit by bit: the use must hold what the plan leaves of the original's."""
        before, after = constant(want), constant(got)
        if before is None or after is None:  # computed by nodes that are checked themselves
            same = self._match.values.get(got) is want
            return "" if same else f"reads '{got.name}' instead of '{want.name}'"
        count = self._counted(origin)
        if count is not None and before.size == 1:
            self._record.checked += 1
            return _factor(origin, want, before, after, count)
        cuts = self._cuts.get((node_key(origin), i, want.name or ""), ())
        key = (
            id(before),
            id(after),
            repr([(c.axis, c.blocks, c.kept.tobytes()) for c in cuts]).encode(),
        )
        if key in self._seen:
            return ""
        self._record.checked += 1
        if before is after and not cuts:
            return ""
        if before.dtype != after.dtype:
            return f"('{want.name}') has type {after.dtype} instead of {before.dtype}"
        shape = tuple(int(d) for d in before.shape.numpy())
        resized = (size and self._touched(origin)) or origin.outputs[0] in self.quiet
        if resized and before.dtype.is_integer():
            return ""
        try:
            wanted = pruned_shape(shape, cuts)
        except IndexError:
            return f"('{want.name}'): the plan cuts an axis it does not have"
        if wanted != tuple(int(d) for d in after.shape.numpy()):
            return f"('{want.name}') has shape {after.shape} instead of {list(wanted)}"
        if _same_storage(before, after) and not cuts:
            self._seen.add(key)
            return ""
        place = _first_difference(take(before.numpy(), cuts), after.numpy())
        if place is not None:
            what = "what the plan leaves of it" if cuts else "the original's"
            return f"('{want.name}') is not {what} (first at {place})"
        self._seen.add(key)
        return ""

    def _counted(self, origin: ir.Node) -> float | None:
        """Counted / kept entries of a mean that is written by hand; None for other nodes."""
        axes = self._plan.statistics_nodes.get(node_key(origin))
        value = averaged(origin) if axes and origin.op_type in ("Mul", "Div") else None
        if axes is None or value is None:
            return None
        cuts = self._plan.tensors.get(value.name or "", ())
        return float(np.prod([c.size / max(c.count, 1) for c in cuts if c.axis in axes]))


def _factor(
    origin: ir.Node,
    want: ir.Value,
    before: ir.TensorProtocol,
    after: ir.TensorProtocol,
    count: float,
) -> str:
    """The factor of a mean must be that of the original, for what is kept."""
    ratio = count if origin.op_type == "Mul" else 1 / count
    one, other = (np.asarray(t.numpy()).astype(np.float64) for t in (before, after))
    near = 1e-6 if before.dtype.itemsize >= 4 else 1e-2
    alike = before.dtype == after.dtype and one.shape == other.shape
    if alike and np.allclose(other, one * ratio, rtol=near, atol=0):
        return ""
    return f"('{want.name}') is not the factor of a mean over what is kept"


def _same_storage(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Both are the same bytes of the same file."""
    return (
        isinstance(a, ir.ExternalTensor)
        and isinstance(b, ir.ExternalTensor)
        and (a.path, a.offset, a.length) == (b.path, b.offset, b.length)
    )


def _first_difference(want: Array, got: Array) -> list[int] | None:
    """Place of the first entry whose bits differ; None where there is none."""
    want, got = np.ascontiguousarray(want), np.ascontiguousarray(got)
    if want.dtype.kind == "O":
        unequal = np.flatnonzero(want.reshape(-1) != got.reshape(-1))
        return _unravel(int(unequal[0]), want.shape) if unequal.size else None
    size = want.dtype.itemsize
    a, b = want.reshape(-1).view(np.uint8), got.reshape(-1).view(np.uint8)
    for start in range(0, a.size, _CHUNK):
        piece = a[start : start + _CHUNK] != b[start : start + _CHUNK]
        if piece.any():
            return _unravel((start + int(piece.argmax())) // size, want.shape)
    return None


def _unravel(index: int, shape: tuple[int, ...]) -> list[int]:
    return [int(i) for i in np.unravel_index(index, shape)] if shape else []
