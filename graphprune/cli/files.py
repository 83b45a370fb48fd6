"""Which files a command reads and writes, checked before the long work starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from graphprune.errors import UsageError

ZOO = "zoo:"


def model_file(model: str) -> Path:
    """The file behind MODEL. Raises UsageError where there is no such file or zoo model."""
    if model.startswith(ZOO):
        from graphprune.zoo import get

        return Path(get(model.removeprefix(ZOO)).path)
    path = Path(model)
    if path.is_dir():
        raise UsageError(f"{model} is a folder: give the .onnx file inside it")
    if not path.exists():
        raise UsageError(f"no such file: {model}")
    return path


def default_output(model: str | Path, ending: str) -> Path:
    """The name of MODEL with another ending beside it; for a zoo model in the current folder."""
    name = str(model)
    if name.startswith(ZOO):
        return Path(f"{name.removeprefix(ZOO)}{ending}")
    path = Path(model)
    return path.with_name(f"{path.name.removesuffix('.onnx')}{ending}")


def check_outputs(source: Path, outputs: Mapping[str, Path | None], overwrite: bool) -> None:
    """Refuse outputs that cannot or must not be written, before any work is done.

    Args:
        source: The model that is read. It is never replaced, whatever `overwrite` says.
        outputs: Option -> file; the model's own is called `-o`.
        overwrite: Existing files may be replaced.

    Raises:
        UsageError: With the option, the file and what to do.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        _check_free(option, path, overwrite)
        _check_not_source(option, path, source)
        where = path.parent.resolve() / path.name
        if where in seen:
            raise UsageError(f"{option} and {seen[where]} both write {path}")
        seen[where] = option
        _check_folder(option, path.parent)
        if option == "-o":
            _check_external(path, source, overwrite)


def _check_free(option: str, path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: give a file name")
    if path.exists() and not path.is_file():
        raise UsageError(f"{option} {path} is no ordinary file")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{option} {path} exists: choose another name or add --overwrite")


def _check_not_source(option: str, path: Path, source: Path) -> None:
    if path.exists() and source.exists() and os.path.samefile(path, source):
        raise UsageError(f"{option} {path} is the input: the input is never overwritten")


def _check_folder(option: str, folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{option}: the folder {folder} does not exist")
    try:
        handle, name = tempfile.mkstemp(prefix=".graphprune-", dir=folder)
    except OSError as error:
        raise UsageError(f"{option}: cannot write into {folder}: {error.strerror}") from error
    os.close(handle)
    os.unlink(name)


def _check_external(path: Path, source: Path, overwrite: bool) -> None:
    """The file that would take external data: it may be in use, even by the input itself."""
    from graphprune.onnx.save import external_name

    data = path.with_name(external_name(path))
    if not os.path.lexists(data):
        return
    if os.path.realpath(data) in _weight_files(source):
        raise UsageError(
            f"-o {path} would overwrite {data}, which holds weights of the input: "
            "choose another name"
        )
    if not overwrite:
        raise UsageError(
            f"-o {path} may need {data}, which exists: choose another name or add --overwrite"
        )


def _weight_files(source: Path) -> set[str]:
    """Real paths of the input's external data; none where it cannot be read."""
    from graphprune.measure.size import external_files

    try:
        return {str(file) for file in external_files(source)}
    except Exception:  # a damaged file is refused by the loader, with the right exit code
        return set()
