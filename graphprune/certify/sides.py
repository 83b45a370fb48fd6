"""The two graphs that are run side by side: cut into pieces, with what both must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphprune.certify.compare import COARSEST, TOLERANCES, Tolerance
from graphprune.certify.emit import PREFIX
from graphprune.certify.graphs import reads
from graphprune.certify.pieces import Piece, Runner, make_piece
from graphprune.cut import Cut
from graphprune.onnx.shapes import Shapes


@dataclass(frozen=True, eq=False)
class Pair:
    """Names of a tensor in the pruned graph and of what it must equal in the original."""

    pruned: str
    original: str


@dataclass(frozen=True, eq=False)
class Sides:
    """All that runs at one or more bindings share.

    Attributes:
        original: The original, for what values mean.
        twin: The masked original.
        pruned: The pruned graph.
        cuts: Tensor name -> its cuts.
        renamed: Pruned name -> original names, where consumers in the pruned graph read another
            value than in the original, which must therefore be equal.
        stand_ins: Original name -> constants of the pruned graph that must equal it everywhere.
        dtypes: Element types of the original's values by name.
        twin_pieces: Consecutive nodes of the twin that run together.
        pruned_pieces: The same for the pruned graph; as many.
        runners: For the twin and the pruned graph.
        layerwise: Check every node of the pruned graph on the original's values.
    """

    original: ir.Model
    twin: ir.Model
    pruned: ir.Model
    cuts: Mapping[str, Sequence[Cut]]
    renamed: Mapping[str, Sequence[str]]
    stand_ins: Mapping[str, Sequence[ir.TensorProtocol]]
    dtypes: Mapping[str, ir.DataType]
    twin_pieces: Sequence[Piece]
    pruned_pieces: Sequence[Sequence[Piece]]
    runners: tuple[Runner, Runner]
    layerwise: bool


def with_renamed(
    cuts: Mapping[str, Sequence[Cut]], renamed: Mapping[str, Sequence[str]], shapes: Shapes
) -> dict[str, Sequence[Cut]]:
    """Cuts of tensors that the plan does not name, because what stands for them is named: a
    value that is only passed on is cut as its source is. `shapes` are the original's: where the
    two differ, it is what is left of the source that stands for the whole of the other."""
    dims = {v.name: d for v, d in shapes.dims.items()} if renamed else {}
    passed = {
        old: cuts[new]
        for new, several in renamed.items()
        for old in several
        if new in cuts and old not in cuts and dims.get(new) == dims.get(old)
    }
    return {**cuts, **passed}


def align(original: ir.Graph, other: ir.Graph, ends: Sequence[int]) -> list[list[ir.Node]]:
    """Cut the nodes of `other` where `ends` cuts those of `original`, by the names of outputs.

    Nodes that only `other` has go with the node before them.
    """
    index = {v.name: i for i, node in enumerate(original) for v in node.outputs if v.name}
    parts: list[list[ir.Node]] = [[]]
    for node in other:
        place = max((index[v.name] for v in node.outputs if v.name in index), default=-1)
        while len(parts) < len(ends) and place >= ends[len(parts) - 1]:
            parts.append([])
        parts[-1].append(node)
    parts.extend([] for _ in range(len(ends) - len(parts)))
    return parts


def pieces_of(parts: Sequence[Sequence[ir.Node]]) -> list[Piece]:
    """One piece for each part; names of the twin's own that no later part reads are hidden."""
    pieces: list[Piece] = []
    later: set[str] = set()
    for part in reversed(parts):
        needed = set(later)
        piece = make_piece(part, lambda name: name.startswith(PREFIX) and name not in needed)  # noqa: B023
        pieces.append(piece)
        later |= set(piece.inputs)
    return pieces[::-1]


def tolerances(graph: ir.Graph, dtypes: Mapping[str, ir.DataType]) -> dict[str, Tolerance]:
    """The tolerance of each tensor: that of the coarsest float type on the way to it."""
    order = [*TOLERANCES.values(), COARSEST]
    rank: dict[str, int] = {}

    def own(value: ir.Value) -> int:
        dtype = dtypes.get(value.name or "") or value.dtype
        if dtype is None or not dtype.is_floating_point():
            return 0
        names = list(TOLERANCES)
        name = {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())
        return names.index(name) if name in names else len(names)

    for value in graph.inputs:
        rank[value.name or ""] = own(value)
    for node in graph:
        before = max((rank.get(v.name or "", 0) for v in reads(node)), default=0)
        for value in node.outputs:
            rank[value.name or ""] = max(before, own(value))
    return {name: order[r] for name, r in rank.items()}


def last_uses(sides: Sides) -> dict[str, int]:
    """Name -> last piece that reads it, in either graph, or compares it."""
    last: dict[str, int] = {}

    def use(name: str, k: int) -> None:
        last[name] = max(last.get(name, -1), k)

    for k, piece in enumerate(sides.twin_pieces):
        for name in (*piece.inputs, *piece.outputs):
            use(name, k)
    for k, parts in enumerate(sides.pruned_pieces):
        for part in parts:
            for name in (*part.inputs, *part.outputs):
                use(name, k)
                for old in sides.renamed.get(name, ()):
                    use(old, k)
            for node in part.nodes:
                for value in reads(node):
                    for name in (value.name or "", *sides.renamed.get(value.name or "", ())):
                        use(name, k)
    return last
