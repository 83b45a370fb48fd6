"""Where calibration inputs come from: files, a folder of files, or a callable.

- `.npz`: arrays named like the model's inputs; `.npy`: the one input of a one-input model.
- A folder: every such file in it, by name. Where each `.npy` is named after an input, together they
  are one set of arrays.
- `module:callable`: called without arguments, gives (or yields) feeds: dicts from input to array.
- From Python also the callable itself, an array, a dict of arrays, or an iterable of feeds.

Arrays are sliced along their first axis, which counts samples; feeds are taken as they are.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import UsageError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Stack:
    """Arrays by input name, of which the first axis counts samples.

    Attributes:
        arrays: Input name -> array; the name is empty for the only input of a model.
        name: What a message calls them.
    """

    arrays: Mapping[str, Array]
    name: str


@dataclass(frozen=True, eq=False)
class Feed:
    """One call of the model: arrays by input name, and what a message calls them."""

    arrays: Mapping[str, Array]
    name: str


def read_source(source: Any) -> Iterator[Stack | Feed]:
    """Everything that `source` holds, one file or feed at a time.

    Raises:
        UsageError: A file that is not there or not readable, an empty folder, a callable that
            raises or gives something else than feeds.
    """
    if isinstance(source, str) and not os.path.exists(source) and ":" in source:
        yield from _feeds(_imported(source), source)
    elif isinstance(source, str | Path):
        yield from _files(Path(source))
    elif isinstance(source, np.ndarray):
        yield Stack({"": source}, "the calibration array")
    elif isinstance(source, Mapping):
        yield Stack(dict(source), "the calibration arrays")
    elif callable(source):
        yield from _feeds(source, getattr(source, "__name__", "the calibration callable"))
    else:
        yield from _feeds(lambda: source, "the calibration inputs")


def _files(path: Path) -> Iterator[Stack]:
    if not path.exists():
        raise UsageError(
            f"no calibration data at {path}: give .npz or .npy files, a folder of them, or "
            "module:callable"
        )
    if not path.is_dir():
        yield _stack(path)
        return
    found = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
    if not found:
        raise UsageError(f"the calibration folder {path} holds no .npz or .npy file")
    several = len(found) > 1 and all(p.suffix == ".npy" for p in found)
    counts = {len(_stack(p).arrays[""]) for p in found} if several else set()
    if several and len(counts) == 1 and not any(p.stem.isdecimal() for p in found):
        yield Stack({p.stem: _stack(p).arrays[""] for p in found}, str(path))
        return
    for file in found:
        yield _stack(file)


def _stack(path: Path) -> Stack:
    if path.suffix not in (".npz", ".npy"):
        raise UsageError(f"calibration file {path} is neither .npz nor .npy")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return Stack({"": np.atleast_1d(loaded)}, str(path))
        with loaded:
            return Stack({name: loaded[name] for name in loaded.files}, str(path))
    except (OSError, ValueError, EOFError, KeyError) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"cannot read calibration file {path}: {text}") from error
    except Exception as error:  # a damaged archive: zipfile and zlib have their own errors
        raise UsageError(f"calibration file {path} is damaged ({type(error).__name__})") from error


def _imported(source: str) -> Callable[[], Any]:
    module, _, name = source.rpartition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a user's module may raise anything
        raise UsageError(
            f"cannot import calibration source {source}: {type(error).__name__}: {_line(error)}"
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"calibration source {source} is no callable")
    return found  # type: ignore[no-any-return]


def _feeds(make: Callable[[], Any], name: str) -> Iterator[Feed]:
    try:
        items = iter(make())
    except Exception as error:
        raise UsageError(
            f"calibration source {name} gives no feeds: {type(error).__name__}: {_line(error)}"
        ) from error
    count = 0
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except Exception as error:
            raise UsageError(
                f"calibration source {name} raised at feed {count}: {type(error).__name__}: "
                f"{_line(error)}"
            ) from error
        if isinstance(item, np.ndarray):
            item = {"": item}
        if not isinstance(item, Mapping):
            raise UsageError(
                f"calibration source {name} gave {type(item).__name__} as feed {count}: a feed is "
                "a dict from input name to array"
            )
        yield Feed({k: np.asarray(v) for k, v in item.items()}, f"feed {count} of {name}")
        count += 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"
