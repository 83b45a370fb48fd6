"""Where calibration inputs come from: files, a folder of files, a callable, or a generator.

- `.npz`: arrays named like the model's inputs; `.npy`: the one input of a one-input model.
- A folder: every such file in it, by name. Where each `.npy` is named after an input, together they
  are one set of arrays.
- A folder with images below it: see `graphprune.data.images`.
- A text file with a tokenizer file: see `graphprune.data.text`.
- `random`, `random:LOW:HIGH`: see `graphprune.data.noise`.
- `zoo:NAME`: the unlabelled inputs that ship with that model.
- `module:callable`: called without arguments, gives (or yields) feeds: dicts from input to array.
- From Python also the callable itself, an array, a dict of arrays, or an iterable of feeds.

Arrays are sliced along their first axis, which counts samples; feeds are taken as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.images import SUFFIXES, image_files, image_stacks
from graphprune.data.imported import import_callable, line_of
from graphprune.data.noise import is_random, noise_feeds
from graphprune.data.text import text_feeds
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


@dataclass(frozen=True)
class Reading:
    """How a source is to be read, beside where it is.

    Attributes:
        samples: As many are wanted, at most.
        step: Samples in one stack of those that are made here (images, texts).
        images: Preprocessing of images, as the user declared it.
        tokenizer: The tokenizer file for texts.
        max_length: Tokens of a text at most.
        seed: Of random inputs.
        dims: Sizes of dynamic dimensions, for random inputs.
    """

    samples: int = 256
    step: int = 8
    images: str | None = None
    tokenizer: str | os.PathLike[str] | None = None
    max_length: int | None = None
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)


def read_source(source: Any, model: ir.Model, reading: Reading) -> Iterator[Stack | Feed]:
    """Everything that `source` holds, one file, batch or feed at a time.

    Raises:
        UsageError: A file that is not there or not readable, an empty folder, a callable that
            raises or gives something else than feeds, an option that is for other sources.
    """
    path = Path(source) if isinstance(source, str | Path) and os.path.exists(source) else None
    images = path is not None and path.is_dir() and not _arrays(path) and bool(image_files(path))
    texts = path is not None and path.is_file() and path.suffix not in (".npz", ".npy")
    if reading.images is not None and not images:
        raise UsageError(f"calib_images is for a folder of images, which {_shown(source)} is not")
    if not texts and (reading.tokenizer is not None or reading.max_length is not None):
        raise UsageError(
            f"tokenizer and max_length are for a text file, which {_shown(source)} is not"
        )
    if path is None and is_random(source):
        for i, feed in enumerate(
            noise_feeds(model, source, reading.samples, reading.seed, dict(reading.dims))
        ):
            yield Feed(feed, f"random feed {i}")
    elif images:
        assert path is not None
        for name, array in image_stacks(path, model, reading.images, reading.step):
            yield Stack({name: array}, str(path))
    elif texts and reading.tokenizer is not None:
        assert path is not None
        tokenizer = Path(reading.tokenizer)
        length, count = reading.max_length, reading.samples
        for feed in text_feeds(path, tokenizer, model, length, reading.step, count):
            yield Stack(feed, str(path))
    elif path is None and isinstance(source, str) and source.startswith("zoo:"):
        from graphprune.zoo import get

        for i, feed in enumerate(get(source).calibration()):
            yield Feed(feed, f"{source}, feed {i}")
    elif isinstance(source, str) and path is None and ":" in source:
        yield from _feeds(import_callable(source, "calibration source"), source)
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


def _shown(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "the given source"


def _arrays(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".npz", ".npy"))


def _files(path: Path) -> Iterator[Stack]:
    if not path.exists():
        raise UsageError(
            f"no calibration data at {path}: give .npz or .npy files, a folder of them or of images, "
            "a text file, module:callable, zoo:NAME, or random"
        )
    if not path.is_dir():
        yield _stack(path)
        return
    found = _arrays(path)
    if not found:
        raise UsageError(
            f"the calibration folder {path} holds no .npz or .npy file and no image "
            f"({', '.join(SUFFIXES)})"
        )
    several = len(found) > 1 and all(p.suffix == ".npy" for p in found)
    counts = {len(_stack(p).arrays[""]) for p in found} if several else set()
    if several and len(counts) == 1 and not any(p.stem.isdecimal() for p in found):
        yield Stack({p.stem: _stack(p).arrays[""] for p in found}, str(path))
        return
    for file in found:
        yield _stack(file)


def _stack(path: Path) -> Stack:
    if path.suffix not in (".npz", ".npy"):
        raise UsageError(
            f"calibration file {path} is neither .npz nor .npy: a text file needs --tokenizer "
            "tokenizer.json"
        )
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


def _feeds(make: Callable[[], Any], name: str) -> Iterator[Feed]:
    try:
        items = iter(make())
    except Exception as error:
        raise UsageError(
            f"calibration source {name} gives no feeds: {type(error).__name__}: {line_of(error)}"
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
                f"{line_of(error)}"
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
