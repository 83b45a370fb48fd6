"""What the study of a BERT looks at: the model, its encoder and tokens, and what makes it good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.sparse.weights import Weight, prunable
from tools.accuracy_case import Feeds, Run, Scores

EMBEDDINGS, HEAD = "*embeddings*", "bert_study.head"
"""Initializers that are not the encoder: the tables, and the projection of `with_head`."""
ROLES = ("Q", "K", "V", "O", "FFN-in", "FFN-out")
"""The matrices of a layer in the order in which a BERT uses them."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A BERT that makes embeddings of texts.

    Attributes:
        name: On the command line.
        path: The ONNX file.
        headed: The same behind an identity matrix: `with_head`.
        score: What runs a model -> figures by name, the first is the metric.
        calibrate: (seed, count) -> feeds.
        tokens: The vocabulary, by id.
        counts: How often each token that occurs does so in what the metric is measured on.
        dims: Sizes of dynamic dimensions.
    """

    name: str
    path: Path
    headed: Path
    score: Callable[[Run], Scores]
    calibrate: Callable[[int, int], list[Feeds]]
    tokens: Sequence[str]
    counts: Counter[int]
    dims: dict[str, int] = field(default_factory=dict)

    def quality(self, model: Any) -> Scores:
        """Figures of a model in memory or in a file."""
        with Session(model) as session:
            return {k: round(float(v), 4) for k, v in self.score(session.run).items()}


def with_head(path: Path, made: Path, name: str) -> Path:
    """The model with an identity matrix between the embedding and the output.

    The hidden width of an embedder is that of its output, which must stay; behind the matrix it is
    free, and the matrix is what a refit writes the embedding with. Other outputs go: they would hold
    the width, too.

    Args:
        path: The model.
        made: Where the other one is written, if it is not there.
        name: Of the output that holds the embedding.
    """
    if made.exists():
        return made
    model = onnx.load(path)
    graph = model.graph
    kept = [o for o in graph.output if o.name == name]
    del graph.output[:]
    graph.output.extend(kept)
    tables = (i.dims for i in graph.initializer if "word_embeddings" in i.name)
    width, inner = next(tables)[1], f"{name}.inner"
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner if n == name else n for n in names]
    matrix = onnx.numpy_helper.from_array(np.eye(width, dtype=np.float32), HEAD)
    graph.initializer.append(matrix)
    graph.node.append(onnx.helper.make_node("MatMul", [inner, HEAD], [name], HEAD))
    onnx.save(model, made)
    return made


def encoder(model: Any) -> list[Weight]:
    """The matrices of the layers, in order: `ROLES` again and again."""
    return [w for w in prunable(model) if "embeddings" not in w.name and w.name != HEAD]


def tables(model: Any) -> list[Weight]:
    """The embeddings."""
    return [w for w in prunable(model) if "embeddings" in w.name]


def word_table(model: Any, rows: int) -> Weight:
    """The embedding of words: the table with a row for every token."""
    return next(w for w in tables(model) if w.shape[0] == rows)


def nonzero(model: Any) -> int:
    """Weights of the encoder's matrices that are not zero."""
    return sum(int(np.count_nonzero(w.array())) for w in encoder(model))


def real(name: str, packages: Path, cache: Path, scored: Any) -> Subject:
    """`minilm-l6` or `minilm-l3` of tools/accuracy_texts.py."""
    from tools import accuracy_texts as texts
    from tools import real_data

    make, output = {
        "minilm-l6": (texts.minilm_l6, "sentence"),
        "minilm-l3": (texts.minilm_l3, "461"),
    }[name]
    case = make(packages, cache, scored)
    tokenizer: Any = texts.tokenizer(packages)
    ids = tokenizer.get_vocab()
    news = real_data.rated(packages, "nytEditorialSnippets")
    chosen = np.random.default_rng(0).permutation(len(news))[: scored.news]
    counts = Counter(i for e in tokenizer.encode_batch([news[j][1] for j in chosen]) for i in e.ids)
    headed = with_head(case.path, cache / f"{name}-headed.onnx", output)
    tokens = sorted(ids, key=ids.__getitem__)
    return Subject(
        name, case.path, headed, case.score, case.calibrate, tokens, counts, dict(case.dims)
    )


def read(path: Path) -> Any:
    """The model of a file."""
    return load(path).model
