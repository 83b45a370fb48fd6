"""What each movement op does, in numpy, and which of its axes it leaves where they are.

An entry of `MOVES` is a pair: the op on arrays, and its links: sets of axes (of inputs and outputs)
that are one axis, or that are regrouped among themselves. Semantics: ONNX operator reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Dims = tuple[int, ...]
Place = tuple[str, int, int]  # ("in" | "out", which of them, axis)


class UncheckedError(ValueError):
    """The check cannot be made (a size is not known before the graph runs); says why."""


@dataclass(frozen=True, eq=False)
class Move:
    """One op in one of the two graphs.

    Attributes:
        node: For its attributes.
        inputs: Dims of its data inputs.
        outputs: Dims of its outputs.
        contents: What each of its inputs holds, None where that is not constant.
    """

    node: ir.Node
    inputs: tuple[Dims, ...]
    outputs: tuple[Dims, ...]
    contents: tuple[Array | None, ...]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.value

    def axis(self, default: int, rank: int | None = None) -> int:
        """The `axis` attribute, non-negative."""
        rank = len(self.inputs[0]) if rank is None else rank
        axis = int(self.attr("axis", default))
        return axis + rank if axis < 0 else axis

    def ints(self, index: int, name: str) -> list[int] | None:
        """A list of ints, given as input `index` or as an attribute; None where omitted."""
        if index < len(self.node.inputs) and self.node.inputs[index] is not None:
            array = self.contents[index]
            if array is None:
                raise UncheckedError(f"{name} is not known before the graph runs")
            return [int(n) for n in array.reshape(-1)]
        found = self.attr(name)
        return None if found is None else [int(n) for n in found]


# --- ops that keep axes in place ------------------------------------------------------------------


def _same_axes(move: Move, acting: Sequence[int]) -> list[list[Place]]:
    """Links of an op that does something along `acting` only, all operands having one rank."""
    rank = len(move.inputs[0])
    busy = {a % rank for a in acting}
    return [
        [("in", i, a) for i in range(len(move.inputs))]
        + [("out", j, a) for j in range(len(move.outputs))]
        for a in range(rank)
        if a not in busy
    ]


def _transpose(move: Move, arrays: list[Array]) -> list[Array]:
    return [np.transpose(arrays[0], move.attr("perm"))]


def _transpose_links(move: Move) -> list[list[Place]]:
    rank = len(move.inputs[0])
    perm = move.attr("perm") or range(rank)[::-1]
    return [[("in", 0, int(a)), ("out", 0, b)] for b, a in enumerate(perm)]


def _slices(move: Move) -> dict[int, slice]:
    starts, ends = move.ints(1, "starts"), move.ints(2, "ends")
    if starts is None or ends is None:
        raise UncheckedError("its bounds are not known before the graph runs")
    axes = move.ints(3, "axes") or list(range(len(starts)))
    steps = move.ints(4, "steps") or [1] * len(starts)
    rank = len(move.inputs[0])
    bounds = zip(axes, starts, ends, steps, strict=True)
    return {a % rank: slice(start, end, step) for a, start, end, step in bounds}


def _slice(move: Move, arrays: list[Array]) -> list[Array]:
    chosen = _slices(move)
    return [arrays[0][tuple(chosen.get(a, slice(None)) for a in range(arrays[0].ndim))]]


def _split(move: Move, arrays: list[Array]) -> list[Array]:
    axis = move.axis(0)
    sizes = [dims[axis] for dims in move.outputs]
    if sum(sizes) != arrays[0].shape[axis]:
        raise ValueError(f"pieces {sizes} of an axis of {arrays[0].shape[axis]}")
    return list(np.split(arrays[0], np.cumsum(sizes)[:-1], axis=axis))


def _concat(move: Move, arrays: list[Array]) -> list[Array]:
    return [np.concatenate(arrays, axis=move.axis(0))]


def _tile(move: Move, arrays: list[Array]) -> list[Array]:
    repeats = move.ints(1, "repeats")
    if repeats is None:
        raise UncheckedError("its repeats are not known before the graph runs")
    return [np.tile(arrays[0], repeats)]


def _tile_links(move: Move) -> list[list[Place]]:
    repeats = move.ints(1, "repeats") or []
    return _same_axes(move, [a for a, n in enumerate(repeats) if n != 1])


def _pads(move: Move) -> dict[int, tuple[int, int]]:
    pads = move.ints(1, "pads")
    if pads is None:
        raise UncheckedError("its pads are not known before the graph runs")
    rank = len(move.inputs[0])
    axes = move.ints(3, "axes") or list(range(rank))
    half = len(pads) // 2
    return {a % rank: (pads[i], pads[i + half]) for i, a in enumerate(axes)}


def _pad(move: Move, arrays: list[Array]) -> list[Array]:
    array = arrays[0]
    for axis, (before, after) in _pads(move).items():
        cut = [slice(None)] * array.ndim
        cut[axis] = slice(max(-before, 0), array.shape[axis] - max(-after, 0))
        array = array[tuple(cut)]
        width = [(0, 0)] * array.ndim
        width[axis] = (max(before, 0), max(after, 0))
        mode = move.attr("mode", "constant")
        if mode == "constant":
            array = np.pad(array, width, constant_values=-1)
        else:
            array = np.pad(array, width, mode=mode)
    return [array]


def _gather(move: Move, arrays: list[Array]) -> list[Array]:
    indices = move.contents[1]
    if indices is None:
        raise UncheckedError("its indices are not known before the graph runs")
    return [np.take(arrays[0], indices, axis=move.axis(0))]


def _gather_links(move: Move) -> list[list[Place]]:
    indices = move.contents[1]
    if indices is None:
        raise UncheckedError("its indices are not known before the graph runs")
    axis, shift = move.axis(0), indices.ndim - 1
    return [
        [("in", 0, a), ("out", 0, a if a < axis else a + shift)]
        for a in range(len(move.inputs[0]))
        if a != axis
    ]


def _broadcast(move: Move, arrays: list[Array]) -> list[Array]:
    return [np.broadcast_to(arrays[0], move.outputs[0])]


def _broadcast_links(move: Move) -> list[list[Place]]:
    lead = len(move.outputs[0]) - len(move.inputs[0])
    return [[("in", 0, a), ("out", 0, a + lead)] for a in range(len(move.inputs[0]))] + [
        [("out", 0, b)] for b in range(lead)
    ]


# --- ops that regroup axes ------------------------------------------------------------------------


def _reshape(move: Move, arrays: list[Array]) -> list[Array]:
    return [arrays[0].reshape(move.outputs[0])]


def _reshape_links(move: Move) -> list[list[Place]]:
    """Smallest runs of axes whose products agree."""
    source, target = move.inputs[0], move.outputs[0]
    links: list[list[Place]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        start = (i, j)
        left = right = 1
        while True:
            if left <= right and i < len(source):
                left *= source[i]
                i += 1
            elif j < len(target):
                right *= target[j]
                j += 1
            else:
                break
            if left == right:
                break
        if i == start[0] and j == start[1]:
            break
        places: list[Place] = [("in", 0, a) for a in range(start[0], i)]
        links.append(places + [("out", 0, b) for b in range(start[1], j)])
    return links


def _depth_to_space(move: Move, arrays: list[Array]) -> list[Array]:
    n, c, h, w = arrays[0].shape
    block = int(move.attr("blocksize"))
    inner = c // block**2
    if move.attr("mode", "DCR") == "DCR":
        split = arrays[0].reshape(n, block, block, inner, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        split = arrays[0].reshape(n, inner, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [split.reshape(n, inner, h * block, w * block)]


def _space_to_depth(move: Move, arrays: list[Array]) -> list[Array]:
    n, c, h, w = arrays[0].shape
    block = int(move.attr("blocksize"))
    split = arrays[0].reshape(n, c, h // block, block, w // block, block)
    return [split.transpose(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)]


def _depth_links(_: Move) -> list[list[Place]]:
    return [[("in", 0, a), ("out", 0, a)] for a in (0, 2, 3)]


def _space_links(_: Move) -> list[list[Place]]:
    return [[("in", 0, 0), ("out", 0, 0)]]


Apply = Callable[[Move, list[Array]], list[Array]]
Links = Callable[[Move], list[list[Place]]]

MOVES: dict[str, tuple[Apply, Links]] = {
    "Transpose": (_transpose, _transpose_links),
    "Slice": (_slice, lambda move: _same_axes(move, list(_slices(move)))),
    "Split": (_split, lambda move: _same_axes(move, [move.axis(0)])),
    "Concat": (_concat, lambda move: _same_axes(move, [move.axis(0)])),
    "Tile": (_tile, _tile_links),
    "Pad": (
        _pad,
        lambda move: _same_axes(move, [a for a, p in _pads(move).items() if p != (0, 0)]),
    ),
    "Gather": (_gather, _gather_links),
    "Expand": (_broadcast, _broadcast_links),
    "DepthToSpace": (_depth_to_space, _depth_links),
    "SpaceToDepth": (_space_to_depth, _space_links),
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), (_reshape, _reshape_links)
    ),
}
VARIADIC = {"Concat"}
