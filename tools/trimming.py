"""Trim a model's vocabulary to a corpus, and compare whole sentences before and after.

    python -m tools.trimming MODEL TOKENIZER CORPUS --other TEXTS

Runs sentences of the corpus through both models, each with its own tokenizer, and counts the same
tokens and outputs that are equal bit by bit. Of other texts it says how many are still cut alike,
how much is unknown and how much longer they get.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.measure.size import file_bytes
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.onnx.save import save
from graphprune.vocabulary.trim import trim_vocabulary


def feeds(session: Session, encoded: Any) -> dict[str, np.ndarray]:
    """Inputs by their usual names."""
    roles = {"mask": encoded.attention_mask, "type": encoded.type_ids, "ids": encoded.ids}
    return {
        name: np.array([next(x for role, x in roles.items() if role in name)], np.int64)
        for name in session.input_names
    }


def main() -> None:
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "tokenizer", "corpus"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--sentences", type=int, default=400)
    given = parser.parse_args()
    made = trim_vocabulary(given.model, given.tokenizer, given.corpus)
    old, new = Tokenizer.from_file(str(given.tokenizer)), Tokenizer.from_str(made.tokenizer)
    for each in (old, new):
        each.no_padding()
        each.no_truncation()
    lines = given.corpus.read_text(encoding="utf-8").splitlines()
    chosen = np.random.default_rng(0).permutation(len(lines))[: given.sentences]
    tokens = equal = 0
    with Session(load(given.model).model) as before, Session(made.model) as after:
        for line in (lines[i] for i in chosen):
            a, b = old.encode(line), new.encode(line)
            tokens += a.tokens == b.tokens
            x, y = before.run(feeds(before, a)), after.run(feeds(after, b))
            equal += all(x[n].tobytes() == y[n].tobytes() for n in x if x[n].dtype.kind == "f")
    with tempfile.TemporaryDirectory() as folder:
        save(made.model, Path(folder, "model.onnx"))
        size = file_bytes(Path(folder, "model.onnx"))
    print(f"tokens {made.report.rows:,} -> {made.report.kept:,}")
    print(f"bytes {file_bytes(given.model):,} -> {size:,}")
    print(f"of {len(chosen)} sentences: same tokens {tokens}, outputs equal bit by bit {equal}")
    if given.other:
        texts = given.other.read_text(encoding="utf-8").splitlines()
        a, b = old.encode_batch(texts), new.encode_batch(texts)
        alike = sum(x.tokens == y.tokens for x, y in zip(a, b, strict=True))
        counts = [sum(len(e.tokens) for e in x) for x in (a, b)]
        unknown = sum(e.tokens.count("[UNK]") for e in b)
        print(f"other texts: {alike} of {len(texts)} cut alike, {unknown / counts[1]:.2%} unknown,")
        print(f"{counts[1] / counts[0]:.2f} times as many tokens")


if __name__ == "__main__":
    main()
