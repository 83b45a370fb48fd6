"""N:M storage: of every M elements along an axis at most N are not zero.

N values of each group are stored, and which of the C(M, N) sets of places they have as one number
of ceil(log2 C(M, N)) bits: 2:4 takes 3 bits for four elements. A group of fewer values is filled up
with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LENGTHS = (4, 8, 16)
"""Values of M that are looked for."""

_SAMPLE = 4096


def size(n: int, m: int, groups: int, itemsize: int) -> int:
    """Bytes of `groups` groups."""
    return groups * n * itemsize + -(-groups * _code_bits(n, m) // 8)


def cheapest(
    mask: Array, shape: Sequence[int], itemsize: int, nonzero: int, least: int
) -> tuple[str, int] | None:
    """The smallest N:M format of fewer than `least` bytes: its name and bytes.

    Args:
        mask: Which elements are not zero, flat.
        shape: Of the tensor.
        itemsize: Bytes of an element.
        nonzero: How many elements are not zero.
        least: Bytes to stay below.
    """
    best = None
    for m in LENGTHS:
        for axis, length in enumerate(shape):
            if length % m or not nonzero:
                continue
            groups = mask.size // m
            # No group holds more than the fullest one of a sample: most tensors end here.
            if size(-(-nonzero // groups), m, groups, itemsize) >= least:
                continue
            block = mask.reshape(math.prod(shape[:axis]), length, -1)
            for part in (block[: max(1, _SAMPLE // length), : m * 64, :64], block):
                n = int(_COUNTS[_which(part, part.shape, m, 1)].max())
                if n >= m or size(n, m, groups, itemsize) >= least:
                    break
            else:
                best, least = f"{n}:{m}@{axis}", size(n, m, groups, itemsize)
    return None if best is None else (best, least)


def encode(bits: Array, shape: Sequence[int], n: int, m: int, axis: int) -> list[Array]:
    """Codes, packed, then values, group by group."""
    groups = np.ascontiguousarray(np.moveaxis(bits.reshape(shape), axis, -1)).reshape(-1)
    _, codes, full = _tables(n, m)
    which = _which(groups != 0, groups.shape, m, 0)
    width = _code_bits(n, m)
    spread = np.unpackbits(codes[which].astype(">u2").view(np.uint8).reshape(-1, 2), axis=1)
    return [np.packbits(spread[:, 16 - width :]), groups[_spread(full[which], m)]]


def decode(
    data: Array, shape: Sequence[int], kind: np.dtype[Any], n: int, m: int, axis: int
) -> Array:
    """The elements, flat. Raises ValueError or IndexError for what cannot be."""
    if not 0 < n < m or m not in LENGTHS or axis >= len(shape) or shape[axis] % m:
        raise ValueError(f"no pattern of the shape {tuple(shape)}")
    count = math.prod(shape) // m
    width = _code_bits(n, m)
    coded = -(-count * width // 8)
    masks, _, _ = _tables(n, m)
    spread = np.zeros((count, 16), np.uint8)
    spread[:, 16 - width :] = np.unpackbits(data[:coded], count=count * width).reshape(-1, width)
    code = np.packbits(spread, axis=1).view(">u2").reshape(-1)
    groups = np.zeros(count * m, kind)
    groups[_spread(masks[code], m)] = np.ascontiguousarray(data[coded:]).view(kind)
    moved = [d for i, d in enumerate(shape) if i != axis]
    back = np.moveaxis(groups.reshape(*moved, shape[axis]), -1, axis)
    return np.ascontiguousarray(back).reshape(-1)


def _which(mask: Array, shape: Sequence[int], m: int, axis: int) -> Array:
    """For each group the places that are taken, as the bits of a number."""
    moved = np.ascontiguousarray(np.moveaxis(mask.reshape(shape), axis, -1))
    packed = np.packbits(moved.reshape(-1), bitorder="little")
    if m == 16:
        return packed.view("<u2")
    if m == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: mask.size // 4]


def _spread(numbers: Array, m: int) -> Array:
    """The inverse of `_which` for a flat mask."""
    if m == 16:
        numbers = numbers.astype("<u2").view(np.uint8)
    elif m == 4:
        odd = numbers.size % 2
        pairs = np.append(numbers, np.zeros(odd, numbers.dtype)).reshape(-1, 2)
        numbers = pairs[:, 0] | pairs[:, 1] << 4
        spread = np.unpackbits(numbers.astype(np.uint8), bitorder="little").view(bool)
        return spread[: spread.size - 4 * odd]
    return np.unpackbits(numbers.astype(np.uint8, copy=False), bitorder="little").view(bool)


def _code_bits(n: int, m: int) -> int:
    return (math.comb(m, n) - 1).bit_length()


_COUNTS = np.unpackbits(np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.uint8
)
"""How many bits of a number of 16 bits are one."""


@lru_cache(maxsize=16)
def _tables(n: int, m: int) -> tuple[Array, Array, Array]:
    """The sets of n places as bits; for any set of at most n its number, and that set as bits."""
    masks = np.flatnonzero(_COUNTS[: 1 << m] == n).astype(np.uint16)
    full = np.arange(1 << m)
    for _ in range(n):  # the lowest free places are filled up with zeros
        full = np.where(_COUNTS[full] < n, full | (full + 1), full)
    rank = np.zeros(1 << m, np.uint16)
    rank[masks] = np.arange(masks.size)
    return masks, rank[full], full.astype(np.uint16)
