"""What stands in the weights of a BERT before anything is pruned: layers, and tokens by their length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from tools._common import Record
from tools.bert_cases import ROLES, Subject, encoder, read, tables, word_table

Array = np.ndarray[Any, Any]

THRESHOLDS = (0.001, 0.01, 0.03)
NEAR_ZERO = 0.01
"""|w| of an entry of an embedding that is called near zero."""


def magnitudes(subject: Subject) -> list[Record]:
    """One record for each weight: layer, role, mean |w|, share of |w| below each of `THRESHOLDS`."""
    model = read(subject.path)
    named = [("embeddings", w.name.split(".")[-2].split("_")[0], w) for w in tables(model)]
    named += [
        (str(i // len(ROLES)), ROLES[i % len(ROLES)], w) for i, w in enumerate(encoder(model))
    ]
    found = []
    for layer, role, weight in named:
        size = np.abs(weight.array())
        below = [float((size < t).mean()) for t in THRESHOLDS]
        found.append({"layer": layer, "role": role, "mean": float(size.mean()), "below": below})
    return found


def lengths(tokens: Sequence[str]) -> Array:
    """Characters of each token, without the `##` of what goes on a word; 0 for what is in brackets."""
    bare = [t.removeprefix("##") for t in tokens]
    return np.array([0 if t[0] == "[" and t[-1] == "]" and t[1:-1] else len(t) for t in bare])


class Rows:
    """Norm, near-zero entries, length and id of every row that belongs to a token of text."""

    def __init__(self, subject: Subject) -> None:
        table = word_table(read(subject.path), len(subject.tokens)).array()
        size = lengths(subject.tokens)
        self.ids = np.flatnonzero(size)
        self.length = size[self.ids]
        self.whole = np.array([not subject.tokens[i].startswith("##") for i in self.ids])
        self.facts = {
            "norm": np.linalg.norm(table, axis=1)[self.ids],
            "near zero": (np.abs(table) < NEAR_ZERO).mean(axis=1)[self.ids],
        }

    def correlations(self) -> Iterator[Record]:
        """Spearman's rank correlation of each fact with length and id, and the other way held."""
        for fact, values in self.facts.items():
            for group, chosen in {
                "all": np.ones(len(self.ids), bool),
                "whole words": self.whole,
                "pieces (##)": ~self.whole,
            }.items():
                if chosen.sum() < 8:
                    continue
                y, length, ids = (x[chosen] for x in (values, self.length, self.ids))
                pairs = {
                    "length": stats.spearmanr(length, y),
                    "id": stats.spearmanr(ids, y),
                    "length, id held": partial_rank(length, y, ids),
                }
                for other, (r, p) in pairs.items():
                    yield {
                        "fact": fact,
                        "tokens": group,
                        "n": int(chosen.sum()),
                        "with": other,
                        "r": float(r),
                        "p": float(p),
                    }


def partial_rank(x: Array, y: Array, held: Array) -> tuple[float, float]:
    """Spearman's partial correlation of x and y given a third, and its two-sided p-value."""
    ranks = [stats.rankdata(v) for v in (x, y, held)]
    xy, xz, yz = (np.corrcoef(ranks[i], ranks[j])[0, 1] for i, j in ((0, 1), (0, 2), (1, 2)))
    r = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    free = len(x) - 3
    t = r * np.sqrt(free / max(1 - r**2, 1e-30))
    return float(r), float(2 * stats.t.sf(abs(t), free))
