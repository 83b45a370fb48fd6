"""The pack file: a head, stored tensors, the rest of each file, an index, a foot.

    head     8 bytes magic, u32 version
    blocks   one for each stretch of a file (`graphprune.sparse.layout`), in its cheapest format
             (`graphprune.sparse.formats`), then for each file what is not in a stretch, deflated
    index    JSON, deflated: files, stretches, lengths, checksums
    foot     u64 length of the index, u32 CRC-32 of the index, u32 CRC-32 of the foot so far

Numbers are little-endian; blocks and index follow each other without a gap up to the end of the
file, and each byte is covered by the magic, the version, a CRC-32 or the lengths. CRC-32 finds
every change of up to 32 neighbouring bits, so every single byte. SHA-256 of every restored file is
in the index too.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from graphprune.errors import UnsupportedModelError
from graphprune.sparse.formats import DamagedError, decode
from graphprune.sparse.layout import PIECE

MAGIC = b"\x89GPP\r\n\x1a\n"
VERSION = 1
_HEAD = struct.Struct("<8sI")
_FOOT = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_INDEX_LIMIT = 1 << 30
HEAD_BYTES = _HEAD.size


@dataclass(frozen=True)
class Block:
    """One stretch of a file, as it is stored.

    Attributes:
        offset: First byte in the restored file.
        itemsize: Bytes of an element.
        shape: Elements along each axis.
        format: See `graphprune.sparse.formats`.
        nonzero: Elements that are not zero.
        length: Bytes in the pack.
        crc: CRC-32 of these bytes.
        name: Of the tensor.
        dtype: Of the tensor; empty for bytes between tensors.
    """

    offset: int
    itemsize: int
    shape: tuple[int, ...]
    format: str
    nonzero: int
    length: int
    crc: int
    name: str
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes in the restored file."""
        count = self.itemsize
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class PackedFile:
    """One file of a model.

    Attributes:
        location: Seen from the model's folder; empty for the model itself.
        size: Bytes.
        sha256: Of its bytes.
        blocks: Its stretches, in order.
        rest: Bytes in the pack of what is in no stretch, deflated.
        rest_crc: CRC-32 of these bytes.
    """

    location: str
    size: int
    sha256: str
    blocks: tuple[Block, ...]
    rest: int
    rest_crc: int


def write_head(file: BinaryIO) -> None:
    """The first bytes."""
    file.write(_HEAD.pack(MAGIC, VERSION))


def write_index(file: BinaryIO, files: Sequence[PackedFile]) -> None:
    """Index and foot."""
    plain = [
        {
            "location": f.location,
            "size": f.size,
            "sha256": f.sha256,
            "rest": [f.rest, f.rest_crc],
            "blocks": [
                [
                    b.offset,
                    b.itemsize,
                    b.shape,
                    b.format,
                    b.nonzero,
                    b.length,
                    b.crc,
                    b.name,
                    b.dtype,
                ]
                for b in f.blocks
            ],
        }
        for f in files
    ]
    text = json.dumps({"files": plain}, separators=(",", ":"))
    index = zlib.compress(text.encode(), 6)
    foot = _FOOT.pack(len(index), zlib.crc32(index))
    file.write(index + foot + _CRC.pack(zlib.crc32(foot)))


def read_index(file: BinaryIO, size: int, name: str) -> tuple[PackedFile, ...]:
    """The files in a pack.

    Args:
        file: Open for reading.
        size: Of the file, in bytes.
        name: What a message calls it.

    Raises:
        UnsupportedModelError: It is no pack, of another version, or damaged.
    """
    head = file.read(_HEAD.size)
    if head[:8] != MAGIC:
        raise UnsupportedModelError(f"{name} is not a pack (or its first bytes are damaged)")
    if len(head) < _HEAD.size or size < _HEAD.size + _FOOT.size + _CRC.size:
        raise damaged(name, "it is truncated")
    version = _HEAD.unpack(head)[1]
    if version != VERSION:
        raise UnsupportedModelError(
            f"{name} is a pack of version {version}, this graphprune reads {VERSION}: "
            "update graphprune, or the file is damaged"
        )
    file.seek(size - _FOOT.size - _CRC.size)
    foot, check = file.read(_FOOT.size), file.read(_CRC.size)
    length, crc = _FOOT.unpack(foot)
    start = size - _FOOT.size - _CRC.size - length
    if _CRC.unpack(check)[0] != zlib.crc32(foot) or start < _HEAD.size:
        raise damaged(name, "its end is missing or changed")
    file.seek(start)
    index = file.read(length)
    if zlib.crc32(index) != crc:
        raise damaged(name, "its index is changed")
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(index, _INDEX_LIMIT)
        files = tuple(_file(f) for f in json.loads(text)["files"])
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(name, "its index cannot be read") from error
    stored = sum(f.rest + sum(b.length for b in f.blocks) for f in files)
    if _HEAD.size + stored != start or not files or files[0].location:
        raise damaged(name, "lengths of its parts and of the file differ")
    return files


def _file(data: Any) -> PackedFile:
    blocks = []
    at = 0
    for entry in data["blocks"]:
        offset, itemsize, shape, form, nonzero, length, crc, name, dtype = entry
        numbers = (offset, itemsize, nonzero, length, crc, *shape)
        if any(not isinstance(x, int) or x < 0 for x in numbers) or itemsize not in (1, 2, 4, 8):
            raise ValueError("no number of bytes")
        block = Block(
            offset, itemsize, tuple(shape), str(form), nonzero, length, crc, str(name), str(dtype)
        )
        if block.nbytes > PIECE or block.length > block.nbytes or offset < at:
            raise ValueError("a stretch of impossible length")
        at = offset + block.nbytes
        blocks.append(block)
    size, (rest, rest_crc), location = data["size"], data["rest"], data["location"]
    if any(not isinstance(x, int) or x < 0 for x in (size, rest, rest_crc)) or at > size:
        raise ValueError("no number of bytes")
    path = PurePosixPath(location)
    if path.is_absolute() or ".." in path.parts or "\\" in location or ":" in location:
        raise ValueError("a file outside of the model's folder")
    return PackedFile(location, size, str(data["sha256"]), tuple(blocks), rest, rest_crc)


def restored(file: BinaryIO, packed: PackedFile, start: int, name: str) -> Iterator[memoryview]:
    """The bytes of one restored file, piece by piece.

    Args:
        file: The pack, open for reading.
        packed: The file's entry.
        start: Where in the pack its blocks begin.
        name: What a message calls the pack.

    Raises:
        UnsupportedModelError: A part is damaged.
    """
    at = start + sum(b.length for b in packed.blocks)
    file.seek(at)
    data = _checked(file.read(packed.rest), packed.rest, packed.rest_crc, name, "the graph")
    rest = packed.size - sum(b.nbytes for b in packed.blocks)
    try:
        unpacker = zlib.decompressobj()
        between = memoryview(unpacker.decompress(data, rest + 1))
    except zlib.error as error:
        raise damaged(name, "the graph in it cannot be read") from error
    if len(between) != rest:
        raise damaged(name, "the graph in it has another length")
    file.seek(start)
    written = used = 0
    for block in packed.blocks:
        gap = block.offset - written
        yield between[used : used + gap]
        used += gap
        stored = _checked(file.read(block.length), block.length, block.crc, name, f"'{block.name}'")
        try:
            bits = decode(block.format, stored, block.shape, block.itemsize, block.nonzero)
        except DamagedError as error:
            raise damaged(name, f"'{block.name}' in it does not fit its format") from error
        yield bits.data.cast("B") if bits.size else memoryview(b"")
        written = block.offset + block.nbytes
    yield between[used:]


def _checked(data: bytes, length: int, crc: int, name: str, what: str) -> bytes:
    if len(data) != length or zlib.crc32(data) != crc:
        raise damaged(name, f"{what} in it is changed")
    return data


def damaged(name: str, why: str) -> UnsupportedModelError:
    """What is wrong with a pack, in one line."""
    return UnsupportedModelError(f"{name} is damaged: {why}; get it again, or pack the model again")
