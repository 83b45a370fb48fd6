"""Trimming: find, choose, cut, and show that nothing changed for what is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from graphprune.errors import CertificateError, NothingGainedError, UsageError
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session, find_trials
from graphprune.passes.trim_vocabulary import TrimVocabularyPass, VocabularyUse
from graphprune.vocabulary.find import as_ids, find_vocabulary
from graphprune.vocabulary.tokenizer import Kept, TokenizerFile

Array = np.ndarray[Any, Any]
Progress = Callable[..., None]


@dataclass(frozen=True)
class TrimReport:
    """What trimming did.

    Attributes:
        source: The model.
        tables: Initializers of token embeddings.
        heads: Other initializers that were cut along tokens.
        rows: Tokens of the model before.
        tokens: Tokens of the tokenizer before.
        kept: Tokens afterwards.
        special: Of these, special or added ones.
        corpus: Of these, others that occur in the corpus.
        parts: Of these, parts, bytes and characters.
        unknown: Share of the corpus' words that the tokenizer did not know before.
        texts: Lines of the corpus.
        removed_bytes: Of the model's weights.
        logits: Outputs that are shorter now: one number for each token that is kept.
        exact: Outputs that were equal bit by bit.
        close: Outputs that were equal to float error only: products over fewer tokens are added up
            in another order.
        checked: Runs that were compared.
        notes: What is not as before.
    """

    source: str
    tables: tuple[str, ...]
    heads: tuple[str, ...]
    rows: int
    tokens: int
    kept: int
    special: int
    corpus: int
    parts: int
    unknown: float
    texts: int
    removed_bytes: int
    logits: tuple[str, ...]
    exact: tuple[str, ...]
    close: tuple[str, ...]
    checked: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Trimmed:
    """A model and its tokenizer over fewer tokens.

    Attributes:
        model: Not yet written.
        tokenizer: The text of its tokenizer.json.
        kept: Old id of each token.
        report: Figures.
    """

    model: ir.Model
    tokenizer: str
    kept: Array
    report: TrimReport


def trim_vocabulary(
    model: Any,
    tokenizer: str | Path,
    corpus: str | Path,
    *,
    dims: Mapping[str, int] | None = None,
    threads: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trimmed:
    """Keep the tokens that a corpus needs, in the model and in its tokenizer.

    Args:
        model: A path, or a model in memory.
        tokenizer: Its tokenizer.json.
        corpus: A text file, UTF-8, one text a line.
        dims: Sizes of dynamic dimensions for the check.
        threads: Of onnxruntime.
        seed: Of the other inputs of the check.
        progress: Told each stage.

    Raises:
        UsageError: A file that cannot be read, a tokenizer of another model, a corpus without a
            known token.
        UnsupportedModelError: The model computes with token ids, or across tokens.
        NothingGainedError: Every token is kept.
        CertificateError: Outputs for kept tokens would differ.
    """
    tell = progress or (lambda *_: None)
    tell("load")
    loaded = load(Path(model) if isinstance(model, str) else model)
    original = loaded.model
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(original)
    file = TokenizerFile(Path(tokenizer))
    use = find_vocabulary(original, file.size)
    tell("tokenize")
    kept = file.needed(_lines(Path(corpus)), str(corpus))
    if kept.ids.size >= use.rows:
        raise NothingGainedError(f"all {use.rows:,} tokens are needed: nothing can be trimmed")
    text = file.trimmed(kept.ids)
    _check_tokens(file, text, kept, Path(corpus))
    tell("rewrite")
    result = original.clone()
    TrimVocabularyPass(use, kept.ids)(result)
    tell("check")
    exact, close, runs = _check(original, result, use, kept, dims, threads, seed)
    cut = [original.graph.initializers[n].const_value for n in use.axes]
    removed = sum(t.nbytes * (use.rows - kept.ids.size) // use.rows for t in cut if t is not None)
    return Trimmed(
        result,
        text,
        kept.ids,
        TrimReport(
            source=str(loaded.path or "model in memory"),
            tables=use.tables,
            heads=tuple(n for n in use.axes if n not in use.tables),
            rows=use.rows,
            tokens=file.size,
            kept=int(kept.ids.size),
            special=kept.special,
            corpus=kept.corpus,
            parts=kept.parts,
            unknown=kept.unknown,
            texts=kept.lines,
            removed_bytes=removed,
            logits=use.outputs,
            exact=exact,
            close=close,
            checked=runs,
            notes=use.notes,
        ),
    )


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.rstrip("\r\n") for line in file)
    except OSError as error:
        raise UsageError(f"cannot read corpus {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"corpus {path} is not UTF-8 text") from error


def _check_tokens(file: TokenizerFile, text: str, kept: Kept, corpus: Path) -> None:
    """The first texts are cut into the same tokens by both tokenizers."""
    from tokenizers import Tokenizer

    new = Tokenizer.from_str(text)
    new.no_padding()
    new.no_truncation()
    lines = list(itertools.islice(_lines(corpus), len(kept.sample)))
    for line, ids, now in zip(lines, kept.sample, new.encode_batch(lines), strict=True):
        if as_ids(np.array(ids, np.int64), kept.ids).tolist() != now.ids:
            raise CertificateError(
                f"the trimmed tokenizer cuts '{line[:60]}' into other tokens: nothing was written"
            )


def _check(
    before: ir.Model,
    after: ir.Model,
    use: VocabularyUse,
    kept: Kept,
    dims: Mapping[str, int] | None,
    threads: int,
    seed: int,
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Both models on texts of the corpus: outputs that are equal bit by bit, those that are close."""
    stream = np.array([i for ids in kept.sample for i in ids] or kept.ids, np.int64)
    rng = np.random.default_rng(seed)
    equal: dict[str, bool] = {}
    runs = 0
    with Session(before, threads=threads) as old, Session(after, threads=threads) as new:
        for trial in find_trials(before, dims, seed, old):
            for _ in range(3):
                feeds, fed = dict(trial.feeds), dict(trial.feeds)
                for name in use.inputs:
                    shape, dtype = trial.feeds[name].shape, trial.feeds[name].dtype
                    start = int(rng.integers(stream.size))
                    ids = np.resize(np.roll(stream, -start), shape).astype(dtype)
                    feeds[name], fed[name] = ids, as_ids(ids, kept.ids)
                first, second = old.run(feeds), new.run(fed)
                runs += 1
                for name, array in first.items():
                    taken = array[..., kept.ids] if name in use.outputs else array
                    taken = as_ids(array, kept.ids) if name in use.echoes else taken
                    same = _same(name, taken, second[name], use)
                    equal[name] = equal.get(name, True) and same
    exact = tuple(n for n, e in equal.items() if e)
    return exact, tuple(n for n, e in equal.items() if not e), runs


def _same(name: str, a: Array, b: Array, use: VocabularyUse) -> bool:
    """Equal bit by bit? Raises CertificateError where not even to float error."""
    if a.shape == b.shape and a.tobytes() == b.tobytes():
        return True
    if use.notes and name not in use.echoes and (name in use.outputs or a.dtype.kind in "iu"):
        return False  # probabilities, or new ids: the notes say so
    scale = float(np.abs(a).max(initial=0)) or 1.0
    if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=1e-5 * scale, equal_nan=True):
        raise CertificateError(
            f"output '{name}' differs for tokens that are kept: nothing was written"
        )
    return False
