"""The formats in which a tensor can be stored, with their exact sizes in bytes.

An element is its bits, an unsigned integer of 1, 2, 4 or 8 bytes, and zero means that all its bits
are zero: -0.0 is stored as any other value, and a NaN keeps its payload. `n` elements of `b` bytes,
of which `k` are not zero, take

| format | bytes | what is stored |
|---|---|---|
| dense | n b | every element |
| bitmap | ceil(n / 8) + k b | a bit for each element, then the values |
| coo | k (sum of w(d) over the axes d + b) | the coordinates of each value, axis by axis |
| coo-flat | k (w(n) + b) | the place of each value in the flat tensor |
| coo-gap8 | k b + (k + sum of floor(gap / 255)) | zeros before each value; 255: 255 zeros, no value |
| coo-gap16 | k b + 2 (k + sum of floor(gap / 65535)) | the same in 16 bits |
| csr | r w(c + 1) + k (w(c) + b) | values in each row, then the column of each |
| csc | c w(r + 1) + k (w(r) + b) | values in each column, then the row of each |
| N:M@axis | N b n / M + ceil(n / M ceil(log2 C(M, N)) / 8) | N values of each M, which ones as one number |

w(s) is the least of 1, 2, 4, 8 bytes that holds the numbers 0 to s - 1. csr and csc see the tensor
as a matrix: r is its first axis, c all the others. All numbers are little-endian.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphprune.sparse import patterns

Array = np.ndarray[Any, Any]

ORDER = ("dense", "bitmap", "csr", "csc", "coo", "coo-flat", "coo-gap8", "coo-gap16")
"""All formats but N:M. Among equally small ones the first is taken."""

_GAPS = {"coo-gap8": 1, "coo-gap16": 2}
_PATTERN = re.compile(r"(\d+):(\d+)@(\d+)")


class DamagedError(ValueError):
    """Stored bytes that no tensor of the given shape is stored as."""


def width(size: int) -> int:
    """w(size): bytes of an unsigned integer that holds 0 to size - 1."""
    return next(w for w in (1, 2, 4, 8) if size <= 256**w)


def closed_sizes(shape: Sequence[int], itemsize: int, nonzero: int) -> dict[str, int]:
    """Sizes of the formats that need nothing but the number of values."""
    n = math.prod(shape)
    found = {"dense": n * itemsize, "bitmap": -(-n // 8) + nonzero * itemsize}
    if len(shape) > 1:
        r, c = shape[0], math.prod(shape[1:])
        found["csr"] = r * width(c + 1) + nonzero * (width(c) + itemsize)
        found["csc"] = c * width(r + 1) + nonzero * (width(r) + itemsize)
        found["coo"] = nonzero * (sum(width(d) for d in shape) + itemsize)
    found["coo-flat"] = nonzero * (width(n) + itemsize)
    return found


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor to be stored.

    Attributes:
        bits: The elements, flat, unsigned integers.
        shape: Its product is the length of `bits`.
    """

    bits: Array
    shape: tuple[int, ...]

    @cached_property
    def mask(self) -> Array:
        """Which elements are not zero."""
        return np.asarray(self.bits != 0)

    @cached_property
    def places(self) -> Array:
        """Where they are."""
        return np.flatnonzero(self.mask)

    @cached_property
    def gaps(self) -> Array:
        """Zeros before each of them."""
        return np.asarray(np.diff(self.places, prepend=-1) - 1)

    @cached_property
    def longest(self) -> int:
        """The longest of these."""
        return int(self.gaps.max(initial=0))


def cheapest(tensor: Tensor) -> tuple[str, int, int]:
    """The smallest format of a tensor: its name, its bytes, and how many elements are not zero.

    What depends on where the values are is only computed for formats that can still win, so the
    result is the minimum over all formats.
    """
    bits, shape, mask = tensor.bits, tensor.shape, tensor.mask
    b = bits.itemsize
    nonzero = int(np.count_nonzero(mask))
    best, least = "dense", bits.size * b
    if nonzero == bits.size:
        return best, least, nonzero
    for name, size in closed_sizes(shape, b, nonzero).items():
        if size < least:
            best, least = name, size
    for name, w in _GAPS.items():
        size = nonzero * (w + b)
        if size < least and tensor.longest >= 256**w - 1:
            size += w * int((tensor.gaps // (256**w - 1)).sum())
        if size < least:
            best, least = name, size
    found = patterns.cheapest(mask, shape, b, nonzero, least)
    if found is not None:
        best, least = found
    return best, least, nonzero


def encode(name: str, tensor: Tensor) -> list[Array]:
    """The sections of a stored tensor, to be written one after another."""
    bits, shape = tensor.bits, tensor.shape
    if name == "dense":
        return [bits]
    if found := _PATTERN.fullmatch(name):
        n, m, axis = map(int, found.groups())
        return patterns.encode(bits, shape, n, m, axis)
    mask = tensor.mask
    if name == "bitmap":
        return [np.packbits(mask), bits[mask]]
    if name == "csc":
        matrix = mask.reshape(shape[0], -1)
        across = np.ascontiguousarray(matrix.T)
        counts = across.sum(axis=1, dtype=np.int64)
        rows = np.flatnonzero(across) % shape[0]
        values = np.ascontiguousarray(bits.reshape(shape[0], -1).T)[across]
        return [_small(counts, shape[0] + 1), _small(rows, shape[0]), values]
    places = tensor.places
    values = bits[places]
    if name == "csr":
        columns = math.prod(shape[1:])
        counts = mask.reshape(shape[0], -1).sum(axis=1, dtype=np.int64)
        return [_small(counts, columns + 1), _small(places % columns, columns), values]
    if name == "coo":
        axes = np.unravel_index(places, tuple(shape))
        return [*(_small(a, d) for a, d in zip(axes, shape, strict=True)), values]
    if name == "coo-flat":
        return [_small(places, bits.size), values]
    return [_escaped(tensor.gaps, tensor.longest, _GAPS[name]), values]


def decode(name: str, data: Any, shape: Sequence[int], itemsize: int, nonzero: int) -> Array:
    """The elements of a stored tensor, flat: the inverse of `encode`.

    Args:
        name: The format.
        data: All sections, as one buffer.
        shape: Of the tensor.
        itemsize: Bytes of an element.
        nonzero: Elements that are not zero.

    Raises:
        DamagedError: The bytes do not fit the shape, the format or the count.
    """
    try:
        bits = _decode(name, np.frombuffer(data, np.uint8), shape, itemsize, nonzero)
    except (ValueError, IndexError, StopIteration) as error:
        raise DamagedError(f"{name}: {error}") from error
    if np.count_nonzero(bits) != nonzero:
        raise DamagedError(f"{name}: {nonzero} values were stored")
    return bits


def _decode(name: str, data: Array, shape: Sequence[int], itemsize: int, nonzero: int) -> Array:
    n, kind = math.prod(shape), np.dtype(f"<u{itemsize}")
    if name == "dense":
        return _view(data, kind, n)
    if found := _PATTERN.fullmatch(name):
        return patterns.decode(data, shape, kind, *map(int, found.groups()))
    bits = np.zeros(n, kind)
    index, values = data[: data.size - nonzero * itemsize], data[data.size - nonzero * itemsize :]
    values = _view(values, kind, nonzero)
    if name == "bitmap":
        if index.size != -(-n // 8):
            raise DamagedError(f"{index.size} bytes for {n} bits")
        bits[np.unpackbits(index, count=n).view(bool)] = values
    elif name in ("csr", "csc"):
        rows, columns = shape[0], math.prod(shape[1:])
        outer, inner = (rows, columns) if name == "csr" else (columns, rows)
        cut = outer * width(inner + 1)
        counts = _wide(index[:cut], width(inner + 1), outer)
        first = np.repeat(np.arange(outer), counts)
        second = _wide(index[cut:], width(inner), nonzero)
        one, two = (first, second) if name == "csr" else (second, first)
        bits[np.ravel_multi_index((one, two), (rows, columns))] = values
    elif name == "coo":
        axes, start = [], 0
        for d in shape:
            end = start + width(d) * nonzero
            axes.append(_wide(index[start:end], width(d), nonzero))
            start = end
        if start != index.size:
            raise DamagedError(f"{index.size} bytes of coordinates, where {start} are needed")
        bits[np.ravel_multi_index(tuple(axes), tuple(shape))] = values
    elif name == "coo-flat":
        bits[_wide(index, width(n), nonzero)] = values
    elif name in _GAPS:
        w = _GAPS[name]
        steps = _wide(index, w, index.size // w)
        real = steps != 256**w - 1
        bits[np.cumsum(steps + real)[real] - 1] = values
    else:
        raise DamagedError("an unknown format")
    return bits


def _escaped(gaps: Array, longest: int, w: int) -> Array:
    most = 256**w - 1
    if longest < most:
        return gaps.astype(f"<u{w}")
    escapes = gaps // most
    steps = np.full(gaps.size + int(escapes.sum()), most, f"<u{w}")
    steps[np.cumsum(escapes + 1) - 1] = gaps % most
    return steps


def _small(numbers: Array, size: int) -> Array:
    return numbers.astype(f"<u{width(size)}")


def _view(data: Array, kind: np.dtype[Any], count: int) -> Array:
    if data.size != count * kind.itemsize:
        raise DamagedError(f"{data.size} bytes, where {count * kind.itemsize} are needed")
    return np.ascontiguousarray(data).view(kind)


def _wide(data: Array, w: int, count: int) -> Array:
    return _view(data, np.dtype(f"<u{w}"), count).astype(np.int64)
