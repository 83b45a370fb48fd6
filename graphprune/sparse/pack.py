"""Packing a model's files, and giving them back byte for byte."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.files import write_atomically
from graphprune.sparse.container import (
    HEAD_BYTES,
    Block,
    PackedFile,
    damaged,
    read_index,
    restored,
    write_head,
    write_index,
)
from graphprune.sparse.formats import Tensor, cheapest, encode
from graphprune.sparse.layout import FileLayout, Stretch, layout
from graphprune.sparse.reports import PackReport, TensorSize

Progress = Callable[[float], None]

_CHUNK = 1 << 22


def pack(model: str | Path, target: str | Path, progress: Progress | None = None) -> PackReport:
    """Write a model and its external data as one compact file.

    Args:
        model: An ONNX file.
        target: The file to write; an existing one is replaced.
        progress: Told the share that is done.

    Raises:
        UsageError: A file cannot be read or written.
        UnsupportedModelError: It is no ONNX model.
    """
    path = Path(model)
    report: list[PackReport] = []

    def write(file: BinaryIO) -> None:
        with _mapped(path) as data:
            layouts = layout(path, data)
            total = sum(f.size for f in layouts) or 1
            done = 0
            write_head(file)
            packed = []
            for each in layouts:

                def tell(at: int, before: int = done) -> None:
                    if progress is not None:
                        progress((before + at) / total)

                with _mapped(path.parent / each.location if each.location else path) as source:
                    packed.append(_pack_file(file, each, source, tell))
                done += each.size
            write_index(file, packed)
            report.append(_report(packed, file.tell()))

    write_atomically(Path(target), write)
    return report[0]


def unpack(
    pack: str | Path, target: str | Path | None, progress: Progress | None = None
) -> PackReport:
    """Restore the files of a pack, or only check it.

    Args:
        pack: A file that `pack` wrote.
        target: The ONNX file to write, external data beside it under its old names; existing files
            are replaced. None: check that everything can be restored, write nothing.
        progress: Told the share that is done.

    Raises:
        UsageError: A file cannot be read or written.
        UnsupportedModelError: It is no pack, or damaged; nothing is written.
    """
    path = Path(pack)
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    with file:
        files = read_index(file, size, str(path))
        if target is None:
            for f, pieces in _all_restored(file, files, str(path), progress):
                _hashed(f, pieces, str(path), lambda piece: None)
        else:
            _write_all(file, files, path, Path(target), progress)
    return _report(files, size)


def contents(pack: str | Path) -> PackReport:
    """What is in a pack, from its index. Raises as `unpack`."""
    path = Path(pack)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _report(read_index(file, size, str(path)), size)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            if file.name.endswith(".onnx"):
                raise UnsupportedModelError(f"{path} is empty")
            yield memoryview(b"")
            return
        # Not closed by hand: what an error's traceback still holds of it would make that fail.
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _pack_file(
    file: BinaryIO, source: FileLayout, data: memoryview, tell: Callable[[int], None]
) -> PackedFile:
    digest = hashlib.sha256()
    between = zlib.compressobj(6)
    rest: list[bytes] = []
    blocks = []
    at = 0
    for stretch in source.stretches:
        _skip(data[at : stretch.offset], digest, between, rest)
        piece = data[stretch.offset : stretch.offset + stretch.nbytes]
        digest.update(piece)
        blocks.append(_pack_stretch(file, stretch, piece))
        piece.release()
        at = stretch.offset + stretch.nbytes
        tell(at)
    _skip(data[at:], digest, between, rest)
    rest.append(between.flush())
    deflated = b"".join(rest)
    file.write(deflated)
    return PackedFile(
        source.location,
        source.size,
        digest.hexdigest(),
        tuple(blocks),
        len(deflated),
        zlib.crc32(deflated),
    )


def _skip(data: memoryview, digest: Any, between: Any, rest: list[bytes]) -> None:
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        digest.update(chunk)
        rest.append(between.compress(chunk))
        chunk.release()
    data.release()


def _pack_stretch(file: BinaryIO, stretch: Stretch, data: memoryview) -> Block:
    bits = np.frombuffer(data, np.uint8).copy().view(f"<u{stretch.itemsize}")
    tensor = Tensor(bits, stretch.shape)
    name, size, nonzero = cheapest(tensor)
    crc = written = 0
    for section in encode(name, tensor):
        if section.size:
            raw = np.ascontiguousarray(section).data.cast("B")
            crc = zlib.crc32(raw, crc)
            written += file.write(raw)
    assert written == size
    return Block(
        stretch.offset,
        stretch.itemsize,
        stretch.shape,
        name,
        nonzero,
        size,
        crc,
        stretch.name,
        stretch.dtype,
    )


def _all_restored(
    file: BinaryIO, files: tuple[PackedFile, ...], name: str, progress: Progress | None
) -> Iterator[tuple[PackedFile, Iterator[memoryview]]]:
    start = HEAD_BYTES
    total = sum(f.size for f in files) or 1
    done = 0
    for packed in files:
        yield packed, restored(file, packed, start, name)
        start += packed.rest + sum(b.length for b in packed.blocks)
        done += packed.size
        if progress is not None:
            progress(done / total)


def _hashed(
    packed: PackedFile,
    pieces: Iterator[memoryview],
    name: str,
    write: Callable[[memoryview], Any],
) -> None:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        write(piece)
    if digest.hexdigest() != packed.sha256:
        raise damaged(name, "a restored file is not what was packed")


def _write_all(
    file: BinaryIO,
    files: tuple[PackedFile, ...],
    path: Path,
    target: Path,
    progress: Progress | None,
) -> None:
    """All files into a temporary folder first, then each under its name, the model last."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            made = []
            for i, (packed, pieces) in enumerate(_all_restored(file, files, str(path), progress)):
                place = Path(folder, str(i))
                with place.open("wb") as out:
                    _hashed(packed, pieces, str(path), out.write)
                    out.flush()
                    os.fsync(out.fileno())
                made.append((place, target.parent / packed.location if packed.location else target))
            for place, final in reversed(made):
                final.parent.mkdir(parents=True, exist_ok=True)
                os.replace(place, final)
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror or error}") from error


def _report(files: tuple[PackedFile, ...] | list[PackedFile], packed: int) -> PackReport:
    tensors: list[TensorSize] = []
    for f in files:
        last = None
        for b in f.blocks:
            if not b.dtype:
                continue
            elements = math.prod(b.shape)
            size = TensorSize(
                b.name, b.dtype, b.shape, (b.format,), elements, b.nonzero, b.nbytes, b.length
            )
            if last is not None and last.name == b.name and last.offset + last.nbytes == b.offset:
                old = tensors.pop()
                size = TensorSize(
                    b.name,
                    b.dtype,
                    old.shape,
                    tuple(dict.fromkeys((*old.formats, b.format))),
                    old.elements + elements,
                    old.nonzero + b.nonzero,
                    old.dense + b.nbytes,
                    old.stored + b.length,
                )
            tensors.append(size)
            last = b
    original = sum(f.size for f in files)
    return PackReport(tuple(f.location for f in files), original, packed, tuple(tensors))
