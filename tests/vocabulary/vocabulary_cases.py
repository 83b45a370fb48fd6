"""Small tokenizers of every kind, trained on the project's own README, and models for them."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import onnx
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from workbench import drawn, from_text

LINES = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
WORDS = sorted({w for line in LINES for w in line.split()})
KINDS = ("wordpiece", "bytes", "bpe", "unigram", "words")


@functools.cache
def trained(kind: str) -> str:
    """The text of a tokenizer.json."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=special)
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, end_of_word_suffix="</w>"
        )
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="[UNK]")
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(vocab_size=700, special_tokens=special)
    tokenizer.train_from_iterator(LINES, trainer)
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    if kind == "bytes":
        tokenizer.post_processor = processors.RobertaProcessing(ids[1], ids[0])
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
        )
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    return tokenizer.to_str()


def write(folder: Path, kind: str, seed: int = 0) -> tuple[Path, Path]:
    """A tokenizer file, and a corpus of a tenth of the words."""
    tokenizer, corpus = folder / "tokenizer.json", folder / "corpus.txt"
    tokenizer.write_text(trained(kind), encoding="utf-8")
    corpus.write_text("\n".join(random.Random(seed).sample(WORDS, len(WORDS) // 10)), "utf-8")
    return tokenizer, corpus


HEAD = "turned = Transpose<perm=[1, 0]>(table) raw = MatMul(h, turned) y = Add(raw, bias)"
BODY = """
    e = Gather(table, ids)
    t = Gather(types, kinds)
    s = Add(e, t)
    q = MatMul(s, w)
    h = Tanh(q)
    pads = Equal(ids, pad)
    counted = Cast<to=1>(pads)
"""


def encoder(rows: int, head: str = HEAD, **more: np.ndarray) -> onnx.ModelProto:
    """Embeddings of tokens and token types, one layer, perhaps a tied head."""
    weights = {
        "table": drawn(rows, 12, fan_in=1),
        "types": drawn(2, 12, fan_in=1),
        "w": drawn(12, 12),
        "pad": np.array(0, np.int64),
        **({"bias": drawn(rows, fan_in=1)} if "bias" in head else {}),
        **more,
    }
    outputs = "float[N, T, 12] h, float[N, T] counted"
    if head:
        outputs += f", float[N, T, {rows}] y"
    inputs = "int64[N, T] ids, int64[N, T] kinds"
    return from_text(BODY + head, weights, inputs=inputs, outputs=outputs)
