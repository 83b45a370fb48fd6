"""Writing a model: whole or not at all, the same bytes for the same graph."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir

from graphprune.errors import UsageError
from graphprune.onnx.load import stored_tensors
from graphprune.onnx.runtime import PROTOBUF_LIMIT


def external_name(path: Path) -> str:
    """Name of the file beside `path` that takes its external data."""
    return f"{path.name}.data"


def save(model: ir.Model, path: str | Path, external: bool | None = None) -> list[Path]:
    """Write `model` to `path`; nothing is left behind where that fails or is interrupted.

    Opset, IR version, names and metadata are written as they stand. External data goes to one file
    beside it (`NAME.onnx.data`), streamed tensor by tensor. Both files are written completely, in a
    temporary folder on the same disk, before they are renamed: first the data, then the model.

    Args:
        model: The graph; its tensors may be lazy or lie in other files (also the target's own).
        path: The file to write. An existing one is replaced.
        external: True: weights of over 1 KiB go to a separate file. False: one file, where it
            stays under protobuf's 2 GB. None: separate where a tensor of
            the model still lies in a file (pass `Loaded.external_data` once tensors were replaced).

    Returns:
        The files written.

    Raises:
        UsageError: The folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    tensors = stored_tensors(model)
    if external is None:
        external = any(isinstance(t, ir.ExternalTensor) for t in tensors)
    external = external or sum(t.nbytes for t in tensors) > PROTOBUF_LIMIT
    if not external and any(isinstance(t, ir.ExternalTensor) for t in tensors):
        model = ir.external_data.load_to_model(model.clone())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            target = Path(folder, path.name)
            # Other tensors of the same model may still be read from the files being replaced: the
            # old files live on until the last reader lets go of them.
            ir.save(
                model,
                target,
                format="protobuf",
                external_data=external_name(path) if external else None,
                size_threshold_bytes=1024,
            )
            written = sorted(Path(folder).iterdir(), key=lambda f: f == target)
            for file in written:
                _flush(file)
            for file in written:
                os.replace(file, path.parent / file.name)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return [path.parent / file.name for file in reversed(written)]


def _flush(path: Path) -> None:
    """Bring a file to the disk before its name becomes the target's."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
