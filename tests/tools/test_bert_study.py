"""The study of a BERT on a tiny one: equal shares leave, records are kept, the page is filled."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from graphprune.errors import UsageError
from tools import bert_runs
from tools._common import Results
from tools.bert_cases import Subject, encoder, read, with_head

pytest.importorskip("transformers")

VOCABULARY, WIDTH = 60, 48


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    import torch

    from models_zoo.builders.torchvision_shim import torchvision

    torchvision()
    from transformers import BertConfig, BertModel

    from models_zoo.builders.export import export
    from tools.accuracy_modules import Embedder

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    embedder = Embedder.__new__(Embedder)
    torch.nn.Module.__init__(embedder)
    embedder.bert = BertModel(config, add_pooling_layer=False)
    ids = torch.arange(16).reshape(2, 8)
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    path = tmp_path_factory.mktemp("bert") / "tiny.onnx"
    axes = {n: {0: "batch", 1: "length"} for n in example}
    export(embedder.eval(), example, path, axes=axes, output_names=("sentence",))
    texts = np.random.default_rng(0).integers(0, VOCABULARY, (64, 8))

    def feed(rows):
        return {"input_ids": rows, "attention_mask": np.ones_like(rows)}

    from graphprune.onnx.runtime import Session

    with Session(path) as session:
        whole = session.run(feed(texts[:16]))["sentence"]

    def score(run):
        now = run(feed(texts[:16]))["sentence"]
        lengths = np.linalg.norm(whole, axis=1) * np.linalg.norm(now, axis=1)
        return {"cosine": ((whole * now).sum(1) / np.maximum(lengths, 1e-12)).mean()}

    return Subject(
        "tiny",
        path,
        with_head(path, path.with_name("headed.onnx"), "sentence"),
        score,
        lambda seed, count: [feed(texts[i : i + 8]) for i in range(16, 64, 8)],
        ["[CLS]", *("a" * (1 + i % 9) for i in range(VOCABULARY - 1))],
        Counter(texts[:16].ravel().tolist()),
    )


def test_matrices_are_found_in_order_of_their_roles(subject: Subject) -> None:
    assert [w.shape for w in encoder(read(subject.path))] == 2 * [
        *4 * [(WIDTH, WIDTH)],
        (WIDTH, 4 * WIDTH),
        (4 * WIDTH, WIDTH),
    ]


def test_a_head_that_changes_nothing(subject: Subject) -> None:
    assert subject.quality(subject.headed)["cosine"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("way", bert_runs.WAYS)
def test_each_way_removes_the_share(subject: Subject, way: str) -> None:
    share = Fraction(1, 2) if way == "layers" else Fraction(1, 6)
    options = {**bert_runs.WAYS[way](share), "align": 1}
    found = bert_runs.structured(subject, 48, 0, options)
    assert found["removed"] == pytest.approx(float(share), abs=0.02)
    assert found["refitted"]["cosine"] > 0.3
    assert found["certificate"] in ("exact", "statistics")


def test_rows_leave_by_length_and_never_those_in_brackets(subject: Subject) -> None:
    order = bert_runs.row_order(subject, "longest tokens")
    assert order[-1] == 0
    assert len(subject.tokens[order[0]]) == 9
    few, many = (bert_runs.rows(subject, "longest tokens", s) for s in (0.1, 0.7))
    assert few["hit"] < many["hit"]
    assert few["cosine"] > many["cosine"]


def test_rank_correlation_given_a_third() -> None:
    from tools.bert_tokens import partial_rank

    random = np.random.default_rng(0)
    held = random.normal(size=500)
    x, y = held + 0.1 * random.normal(size=500), held + 0.1 * random.normal(size=500)
    r, p = partial_rank(x, y, held)
    assert abs(r) < 0.15
    assert p > 1e-3
    r, p = partial_rank(x, x + 0.01 * random.normal(size=500), held)
    assert r > 0.8
    assert p < 1e-50


def test_records_are_kept_and_the_page_is_filled(subject: Subject, tmp_path: Path) -> None:
    from tools.bert_pages import write
    from tools.bert_study import run

    page, results = tmp_path / "bert.md", Results(tmp_path / "r.json")
    found = run(subject, results, 48, 1, ("rows",))
    known = dict(found)
    assert run(subject, Results(tmp_path / "r.json"), 48, 1, ("rows",)) == known
    names = ("weights", "tokens", "rows", "single")
    other = "<!-- table: other/rows -->\nstays\n<!-- end -->"
    page.write_text(
        "words\n" + "".join(f"<!-- table: tiny/{n} -->\n<!-- end -->\n" for n in names) + other
    )
    write(subject, found, page)
    text = page.read_text()
    assert text.startswith("words")
    assert "stays" in text
    assert f"{known['tiny | rows | longest tokens | 0.5']['cosine']:.3f}" in text
    assert "not run" in text
    picture = tmp_path / "bert-tiny.svg"
    first = picture.read_bytes()
    write(subject, found, page)
    assert picture.read_bytes() == first
    assert page.read_text() == text
    page.write_text("<!-- table: tiny/nothing -->\n<!-- end -->")
    with pytest.raises(UsageError, match="nothing"):
        write(subject, found, page)
