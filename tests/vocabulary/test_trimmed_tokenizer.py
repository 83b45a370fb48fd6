"""Texts whose tokens are all kept are cut into the same tokens."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer
from vocabulary_cases import KINDS, WORDS, trained, write

from graphprune.errors import UsageError
from graphprune.vocabulary.tokenizer import TokenizerFile


def trim(folder: Path, kind: str, seed: int = 0):
    tokenizer, corpus = write(folder, kind, seed)
    file = TokenizerFile(tokenizer)
    kept = file.needed(corpus.read_text(encoding="utf-8").splitlines(), "corpus")
    return file, kept, Tokenizer.from_str(file.trimmed(kept.ids)), corpus


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_texts_of_kept_tokens_are_cut_alike(tmp_path, kind, seed):
    file, kept, new, corpus = trim(tmp_path, kind, seed)
    old = file.tokenizer
    assert kept.ids.size < 0.75 * file.size
    assert new.get_vocab_size(with_added_tokens=True) == kept.ids.size
    rng = random.Random(seed)
    known = corpus.read_text(encoding="utf-8").splitlines()
    texts = [" ".join(rng.choices(known, k=5)) for _ in range(50)] + WORDS
    new.no_padding()
    inside = set(kept.ids.tolist())
    compared = left = 0
    for text in texts:
        before, after = old.encode(text), new.encode(text)
        if set(before.ids) <= inside:
            compared += 1
            assert after.tokens == before.tokens
            assert kept.ids[after.ids].tolist() == before.ids
        else:
            left += 1
    assert compared > 60
    assert left > 20
    pair = new.encode(known[0], known[1])
    assert kept.ids[pair.ids].tolist() == old.encode(known[0], known[1]).ids


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_other_words_of_known_characters_are_spelled(tmp_path, kind):
    _, _, new, corpus = trim(tmp_path, kind)
    letters = sorted({c for c in corpus.read_text(encoding="utf-8").lower() if c.isalpha()})
    new.no_padding()
    tokens = new.encode("".join(letters[::-1])).tokens
    assert len(tokens) > 3
    assert "[UNK]" not in tokens


def test_every_byte_stays(tmp_path):
    _, _, new, _ = trim(tmp_path, "bytes")
    new.no_padding()
    text = "Ωß\u0007\U0001f600 zq"
    assert new.decode(new.encode(text).ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_renumbered_everywhere(tmp_path, kind):
    file, kept, new, _ = trim(tmp_path, kind)
    data = json.loads(file.trimmed(kept.ids))
    ids = {t["content"]: t["id"] for t in data["added_tokens"]}
    assert ids == {t: new.token_to_id(t) for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")}
    assert sorted(new.get_vocab(with_added_tokens=True).values()) == list(range(kept.ids.size))
    assert data["padding"]["pad_id"] == ids["[PAD]"]
    assert kept.special + kept.corpus + kept.parts == kept.ids.size
    before, after = file.tokenizer.get_vocab(True), new.get_vocab(True)
    assert all(kept.ids[i] == before[t] for t, i in after.items())


def test_merges_of_a_kept_token_stay(tmp_path):
    file, kept, _, _ = trim(tmp_path, "bytes")
    data = json.loads(file.trimmed(kept.ids))
    vocab = data["model"]["vocab"]
    made = {
        "".join(m) if isinstance(m, list) else m.replace(" ", "") for m in data["model"]["merges"]
    }
    long = [t for t in vocab if len(t) > 1 and not t.startswith("[")]
    assert len(long) > 50
    assert set(long) <= made


def test_a_corpus_of_nothing_known(tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(trained("wordpiece"), encoding="utf-8")
    with pytest.raises(UsageError, match="holds no token that the tokenizer knows"):
        TokenizerFile(tokenizer).needed(["\u4e2d\u6587", ""], "corpus")


def test_what_is_no_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    for text in ("{", "[]", '{"model": {"type": "WordPiece"}}', "\x00"):
        path.write_text(text)
        with pytest.raises(UsageError, match="is no tokenizer"):
            TokenizerFile(path)
    with pytest.raises(UsageError, match="cannot read tokenizer"):
        TokenizerFile(tmp_path / "nothing.json")


def test_ids_of_what_is_kept_increase(tmp_path):
    _, kept, _, _ = trim(tmp_path, "bpe")
    assert (np.diff(kept.ids) > 0).all()
