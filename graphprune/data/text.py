"""A text file, one text a line, as calibration inputs of a model that takes token ids.

The tokenizer is a `tokenizer.json` of the `tokenizers` library. Which input is which is read from
their names: ids, mask, token types, positions; the only input of a model is its ids. Texts of about
the same length share a batch (`graphprune.data.padding`) and are padded to the longest of them, or
to the model's length where that is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphprune.data.imported import line_of
from graphprune.data.padding import in_turns
from graphprune.errors import UsageError
from graphprune.onnx.bindings import real_inputs
from graphprune.onnx.feeds import index_range

Array = np.ndarray[Any, Any]

LONGEST = 128
"""Tokens of a text where nothing else says how many: rarely more are needed to see what is used."""

_ROLES = (
    ("types", re.compile(r"type|segment", re.IGNORECASE)),
    ("mask", re.compile(r"mask", re.IGNORECASE)),
    ("positions", re.compile(r"position|pos_ids", re.IGNORECASE)),
    ("ids", re.compile(r"ids|tokens?$|^input$", re.IGNORECASE)),
)
_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")


@dataclass(frozen=True, eq=False)
class _Reader:
    """What is needed to turn lines into feeds."""

    encode: Callable[[Sequence[str]], list[Any]]
    roles: Mapping[str, str]
    dtypes: Mapping[str, np.dtype[Any]]
    pad: int
    left: bool
    fixed: int | None
    rows: int | None
    types: int | None
    names: tuple[str, str]
    """Of the text file and the tokenizer file, for messages."""

    def encoded(self, lines: Sequence[tuple[int, str]]) -> list[Any]:
        found = self.encode([line for _, line in lines])
        for (number, _), one in zip(lines, found, strict=True):
            self._check(number, one)
        return found

    def feed(self, encoded: Sequence[Any]) -> dict[str, Array]:
        width = self.fixed or max(len(e.ids) for e in encoded)
        shape = (len(encoded), width)
        ids, mask = np.full(shape, self.pad, np.int64), np.zeros(shape, np.int64)
        types = np.zeros(shape, np.int64)
        for row, one in enumerate(encoded):
            n = len(one.ids)
            span = slice(width - n, width) if self.left else slice(0, n)
            ids[row, span], mask[row, span], types[row, span] = one.ids, 1, one.type_ids
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        arrays = {"ids": ids, "mask": mask, "types": types, "positions": positions}
        return {n: arrays[role].astype(self.dtypes[n]) for n, role in self.roles.items()}

    def _check(self, number: int, one: Any) -> None:
        text, tokenizer = self.names
        if not one.ids:
            raise UsageError(f"line {number} of {text} has no tokens: take it out")
        if self.rows is not None and max(one.ids) >= self.rows:
            raise UsageError(
                f"token {max(one.ids)} of line {number} of {text} is beyond the model's table of "
                f"{self.rows} rows: is {tokenizer} the model's own tokenizer?"
            )
        if self.types is not None and max(one.type_ids) >= self.types:
            raise UsageError(
                f"{tokenizer} gives token type {max(one.type_ids)}, the model has {self.types}: is "
                "it the model's own tokenizer?"
            )


def text_feeds(
    path: Path, tokenizer: Path, model: ir.Model, max_length: int | None, step: int, count: int
) -> Iterator[dict[str, Array]]:
    """Inputs of the model for `step` texts of about the same length each; empty lines are left out.

    Args:
        path: UTF-8, one text a line.
        tokenizer: A tokenizer.json.
        model: Its inputs say what is wanted.
        max_length: Tokens of a text at most; None: as the model's shape or the tokenizer says, else
            `LONGEST`.
        step: Texts in one batch.
        count: As many texts from the start of the file are taken, at most.

    Raises:
        UsageError: The library is missing, a file cannot be read, an input is none that a tokenizer
            gives, the tokenizer does not fit.
    """
    reader = _reader(path, tokenizer, model, max_length)
    encoded = reader.encoded(list(islice(_lines(path), count)))
    for batch in in_turns(encoded, lambda one: len(one.ids), step):
        yield reader.feed(batch)


def _reader(path: Path, file: Path, model: ir.Model, max_length: int | None) -> _Reader:
    inputs = real_inputs(model)
    roles = _roles(inputs)
    tokens = _tokenizer(file)
    fixed = {v.name: d for v in inputs if isinstance(d := _length(v), int)}
    if len(set(fixed.values())) > 1:
        raise UsageError(f"the model's inputs have different fixed lengths: {fixed}")
    width = next(iter(fixed.values()), None)
    said = (tokens.truncation or {}).get("max_length")
    padding = tokens.padding or {}
    longest = max_length or width or min(said or LONGEST, LONGEST)
    if width is not None and longest > width:
        raise UsageError(f"max_length {longest} is more than the {width} tokens the model takes")
    pad = padding.get("pad_id")
    if pad is None:
        pad = next((i for p in _PADS if (i := tokens.token_to_id(p)) is not None), 0)
    left = padding.get("direction") == "left"
    try:
        tokens.no_padding()
        tokens.enable_truncation(longest)
    except Exception as error:  # the library raises plain exceptions
        raise UsageError(f"{file} cannot be cut to {longest} tokens: {line_of(error)}") from error

    def encode(lines: Sequence[str]) -> list[Any]:
        return list(tokens.encode_batch(list(lines)))

    tables = {role: index_range(v).rows for v in inputs for n, role in roles.items() if n == v.name}
    dtypes = {v.name or "": np.dtype(v.dtype.numpy()) for v in inputs if v.dtype is not None}
    return _Reader(
        encode,
        roles,
        dtypes,
        int(pad),
        left,
        width,
        tables.get("ids"),
        tables.get("types"),
        (str(path), str(file)),
    )


def _roles(inputs: Sequence[ir.Value]) -> dict[str, str]:
    if len(inputs) == 1:
        return {inputs[0].name or "": "ids"}
    found: dict[str, str] = {}
    for value in inputs:
        name = value.name or ""
        role = next((role for role, words in _ROLES if words.search(name)), None)
        if role is None or role in found.values():
            raise UsageError(
                f"input '{name}' is none that a tokenizer gives (ids, mask, token types, "
                "positions): give .npz files or module:callable"
            )
        found[name] = role
    if "ids" not in found.values():
        names = ", ".join(f"'{n}'" for n in found)
        raise UsageError(f"none of the inputs {names} takes token ids, which is what a text gives")
    return found


def _length(value: ir.Value) -> int | None:
    if value.shape is None or len(value.shape) != 2:
        raise UsageError(
            f"input '{value.name}' is not [texts, tokens]: give .npz files or module:callable"
        )
    dim = value.shape[1]
    return dim if isinstance(dim, int) and dim > 0 else None


def _tokenizer(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UsageError(
            "a text file needs the tokenizers library: pip install 'graphprune[text]'"
        ) from error
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain exceptions
        raise UsageError(f"cannot read tokenizer {file}: {line_of(error)}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    found = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    found += 1
                    yield number, line.strip()
    except OSError as error:
        raise UsageError(f"cannot read calibration texts {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"calibration texts {path} are not UTF-8: {line_of(error)}") from error
    if not found:
        raise UsageError(f"{path} holds no text: it takes one a line")
