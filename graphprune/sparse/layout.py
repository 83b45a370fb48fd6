"""Where in an ONNX file the bytes of tensors lie, without reading one of them.

The file is walked as protobuf lays it out: a message is a run of fields, each a number, a kind and
a value, and a nested message is a value like any other. Whatever is not a tensor's data stays as it
is, so that the file can be put together again byte for byte, whoever wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graphprune.errors import UnsupportedModelError

LEAST = 64
"""Data of fewer bytes stays with the graph."""

PIECE = 1 << 25
"""Bytes of a tensor that are looked at in one go: a longer one is stored in pieces."""


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file that are stored as a tensor, or a piece of one.

    Attributes:
        offset: First byte in the file.
        itemsize: Bytes of an element: 1, 2, 4 or 8.
        shape: Elements along each axis.
        name: Of the tensor, as a report calls it.
        dtype: Of the tensor, as a report calls it; empty for bytes between tensors.
    """

    offset: int
    itemsize: int
    shape: tuple[int, ...]
    name: str
    dtype: str

    @property
    def nbytes(self) -> int:
        """Length."""
        return self.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class FileLayout:
    """One file of a model.

    Attributes:
        location: Its path, seen from the model's folder; empty for the model itself.
        size: Bytes.
        stretches: Where tensors lie, in order, without overlap.
    """

    location: str
    size: int
    stretches: tuple[Stretch, ...]


def layout(path: Path, data: memoryview) -> list[FileLayout]:
    """The files of a model, the model itself first.

    Args:
        path: Of the model.
        data: Its bytes, mapped.

    Raises:
        UnsupportedModelError: It is no ONNX model, or its external data is not where it says.
    """
    try:
        tensors = list(_tensors(data, 0, len(data), onnx.ModelProto.DESCRIPTOR))
    except (_DamagedError, DecodeError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} is truncated, damaged or not an ONNX model") from error
    if not _has_graph(data):
        raise UnsupportedModelError(f"{path} has no graph: it is not an ONNX model")
    inner: list[Stretch] = []
    outer: dict[str, list[Stretch]] = {}
    for tensor, holes in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location, stretch = _external(tensor, path)
            outer.setdefault(location, []).append(stretch)
            continue
        for start, end in holes:
            if end - start >= LEAST:
                inner.append(_stretch(tensor, start, end - start))
    files = [FileLayout("", len(data), tuple(_pieces(inner)))]
    for location, stretches in sorted(outer.items()):
        size = (path.parent / location).stat().st_size
        files.append(FileLayout(location, size, tuple(_pieces(_covering(stretches, size)))))
    return files


class _DamagedError(Exception):
    """Bytes that are no protobuf message."""


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _DamagedError


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, kind, start of the field, start and end of its value."""
    while at < end:
        first = at
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        start = at
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, start = _varint(data, at, end)
            at = start + length
        elif kind == 5:
            at += 4
        else:
            raise _DamagedError
        if at > end or number == 0:
            raise _DamagedError
        yield number, kind, first, start, at


def _has_graph(data: memoryview) -> bool:
    number = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
    return any(f[0] == number and f[1] == 2 for f in _fields(data, 0, len(data)))


@lru_cache(maxsize=64)
def _inside(message: Any) -> dict[int, Any]:
    """Fields of a kind of message in which a tensor can be: number -> kind of message."""
    return {
        f.number: f.message_type
        for f in message.fields
        if f.message_type is not None and _reaches(f.message_type, frozenset())
    }


def _reaches(message: Any, seen: frozenset[str]) -> bool:
    if message.full_name == onnx.TensorProto.DESCRIPTOR.full_name:
        return True
    return message.full_name not in seen and any(
        f.message_type is not None and _reaches(f.message_type, seen | {message.full_name})
        for f in message.fields
    )


_DATA = ("raw_data", "float_data", "double_data")
_DATA_FIELDS = frozenset(onnx.TensorProto.DESCRIPTOR.fields_by_name[n].number for n in _DATA)


def _tensors(
    data: memoryview, at: int, end: int, message: Any
) -> Iterator[tuple[onnx.TensorProto, list[tuple[int, int]]]]:
    """Every tensor without its data, and where its data lies."""
    if message.full_name == onnx.TensorProto.DESCRIPTOR.full_name:
        rest: list[memoryview] = []
        holes: list[tuple[int, int]] = []
        for number, kind, first, start, stop in _fields(data, at, end):
            if number in _DATA_FIELDS and kind == 2:
                holes.append((start, stop))
            else:
                rest.append(data[first:stop])
        tensor = onnx.TensorProto()
        tensor.ParseFromString(b"".join(rest))
        yield tensor, holes
        return
    inside = _inside(message)
    for number, kind, _, start, stop in _fields(data, at, end):
        if kind == 2 and number in inside:
            yield from _tensors(data, start, stop, inside[number])


def _stretch(tensor: onnx.TensorProto, offset: int, nbytes: int) -> Stretch:
    name = tensor.name or "(constant)"
    try:
        dtype = ir.DataType(tensor.data_type)
        bits = 0 if dtype == ir.DataType.STRING else dtype.bitwidth
    except (ValueError, TypeError):
        return Stretch(offset, 1, (nbytes,), name, "?")
    shape = tuple(int(d) for d in tensor.dims)
    if bits % 8 or math.prod(shape) * bits // 8 != nbytes or min(shape, default=0) < 0 or not bits:
        return Stretch(offset, 1, (nbytes,), name, dtype.name.lower())  # several to the byte
    if bits > 64:  # complex128: its two halves
        bits, shape = bits // 2, (*shape, 2)
    return Stretch(offset, bits // 8, shape, name, dtype.name.lower())


def _external(tensor: onnx.TensorProto, path: Path) -> tuple[str, Stretch]:
    from graphprune.onnx.proto_checks import locate

    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    size = locate(location, path.parent, tensor.name).stat().st_size
    try:
        dtype = ir.DataType(tensor.data_type)
        needed = -(-math.prod(tensor.dims) * dtype.bitwidth // 8)
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
    except (ValueError, TypeError):
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > size:
        raise UnsupportedModelError(
            f"external data of tensor '{tensor.name}' does not lie in '{location}' ({size} bytes): "
            "is the download complete?"
        )
    return PurePosixPath(location).as_posix(), _stretch(tensor, offset, length)


def _covering(stretches: Sequence[Stretch], size: int) -> Iterator[Stretch]:
    """The tensors of a file and what lies between them; what overlaps others is bytes between."""
    at = 0
    for s in sorted(stretches, key=lambda s: (s.offset, -s.nbytes)):
        if s.offset < at or not s.nbytes:
            continue
        if s.offset > at:
            yield Stretch(at, 1, (s.offset - at,), "(padding)", "")
        yield s
        at = s.offset + s.nbytes
    if at < size:
        yield Stretch(at, 1, (size - at,), "(padding)", "")


def _pieces(stretches: Sequence[Stretch] | Iterator[Stretch]) -> Iterator[Stretch]:
    """Long tensors in pieces: of whole rows where a row is short enough, else of elements."""
    for s in stretches:
        if s.nbytes <= PIECE:
            yield s
            continue
        row = s.nbytes // s.shape[0]
        shape = s.shape if row <= PIECE else (s.nbytes // s.itemsize,)
        row = s.nbytes // shape[0]
        step = PIECE // row
        for first in range(0, shape[0], step):
            rows = min(step, shape[0] - first)
            offset = s.offset + first * row
            yield Stretch(offset, s.itemsize, (rows, *shape[1:]), s.name, s.dtype)
