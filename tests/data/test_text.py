"""A text file and a tokenizer as calibration inputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from workbench import drawn, from_text

from graphprune.data.feeds import read_calibration
from graphprune.errors import UsageError
from graphprune.onnx.load import load

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "red", "bird"]


def tokenizer(path: Path, **padding: Any) -> Path:
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if padding:
        made.enable_padding(**padding)
    made.save(str(path / "tokenizer.json"))
    return path / "tokenizer.json"


def texts(path: Path, count: int = 16) -> Path:
    lines = [" ".join(WORDS[: 1 + i % len(WORDS)]) for i in range(count)]
    lines[1:1] = ["", "   "]
    (path / "texts.txt").write_text("\n".join(lines))
    return path / "texts.txt"


def model(rows: int = 15, length: str = "S") -> Any:
    """Embedding times mask, with token types and positions."""
    dims = f"[N, {length}]"
    inputs = ", ".join(
        f"{kind}{dims} {name}"
        for kind, name in (
            ("int64", "input_ids"),
            ("float", "attention_mask"),
            ("int32", "token_type_ids"),
            ("int64", "position_ids"),
        )
    )
    body = (
        "e = Gather (table, input_ids) t = Gather (types, token_type_ids)"
        " p = Gather (places, position_ids) a = Add (e, t) b = Add (a, p)"
        " ax = Constant <value_ints = [-1]> () m = Unsqueeze (attention_mask, ax)"
        " c = Mul (b, m) y = MatMul (c, w)"
    )
    weights = {
        "table": drawn(rows, 8),
        "types": drawn(2, 8),
        "places": drawn(64, 8),
        "w": drawn(8, 4),
    }
    return load(from_text(body, weights, inputs=inputs, outputs="float[N, S, 4] y")).model


def batches(found: Any) -> list[dict[str, np.ndarray]]:
    return [b.feeds for b in (*found.fit, *found.choose, *found.judge)]


def test_masks_are_right_and_little_is_padded(tmp_path: Path) -> None:
    found = read_calibration(texts(tmp_path, 64), model(), 64, tokenizer=tokenizer(tmp_path))
    assert found.samples == 64
    lengths = []
    for feed in batches(found):
        ids, mask = feed["input_ids"], feed["attention_mask"]
        assert {k: v.dtype.name for k, v in feed.items()} == {
            "input_ids": "int64",
            "attention_mask": "float32",
            "token_type_ids": "int32",
            "position_ids": "int64",
        }
        np.testing.assert_array_equal(mask == 1, ids != 0)
        assert mask.all(0).any()
        assert mask.any(0).all()  # no longer than the longest text
        for row, one in zip(ids, mask.astype(int), strict=True):
            n = one.sum()
            assert row[0] == 2
            assert row[n - 1] == 3
        lengths += mask.sum(1).astype(int).tolist()
    assert sorted(lengths) == sorted(3 + i % len(WORDS) for i in range(64))
    assert sum(f["input_ids"].size for f in batches(found)) < 1.1 * sum(lengths)


def test_padding_on_the_left(tmp_path: Path) -> None:
    file = tokenizer(tmp_path, direction="left", pad_id=1)
    feeds = batches(read_calibration(texts(tmp_path, 60), model(), tokenizer=file))
    assert any((f["attention_mask"] == 0).any() for f in feeds)
    for feed in feeds:
        mask = feed["attention_mask"]
        assert mask[:, -1].all()
        assert (feed["input_ids"][mask == 0] == 1).all()
        assert (feed["position_ids"].max(1) == mask.sum(1) - 1).all()


def test_lengths(tmp_path: Path) -> None:
    file, lines = tokenizer(tmp_path), texts(tmp_path)
    short = batches(read_calibration(lines, model(), tokenizer=file, max_length=5))
    assert max(f["input_ids"].shape[1] for f in short) == 5
    fixed = batches(read_calibration(lines, model(length="20"), tokenizer=file))
    assert {f["input_ids"].shape[1] for f in fixed} == {20}
    with pytest.raises(UsageError, match="max_length 30 is more than the 20 tokens"):
        read_calibration(lines, model(length="20"), tokenizer=file, max_length=30)


def test_the_default_length(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("\n".join(" ".join(WORDS * 20) for _ in range(8)))
    data = load(
        from_text(
            "e = Gather (t, x) y = MatMul (e, w)",
            {"t": drawn(15, 8), "w": drawn(8, 4)},
            inputs="int64[N, S] x",
            outputs="float[N, S, 4] y",
        )
    ).model
    found = read_calibration(tmp_path / "long.txt", data, tokenizer=tokenizer(tmp_path))
    assert batches(found)[0]["x"].shape == (1, 128)


def test_a_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    file, lines = tokenizer(tmp_path), texts(tmp_path)
    with pytest.raises(
        UsageError, match=r"token 10 of line 9 of .*beyond the model's table of 10 rows: is "
    ) as caught:
        read_calibration(lines, model(10), tokenizer=file)
    assert "\n" not in str(caught.value)


def test_slips(tmp_path: Path) -> None:
    file, lines = tokenizer(tmp_path), texts(tmp_path)
    with pytest.raises(UsageError, match="a text file needs --tokenizer"):
        read_calibration(lines, model())
    with pytest.raises(UsageError, match=r"cannot read tokenizer .*absent\.json"):
        read_calibration(lines, model(), tokenizer=tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UsageError, match=r"cannot read tokenizer .*bad\.json"):
        read_calibration(lines, model(), tokenizer=tmp_path / "bad.json")
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UsageError, match="holds no text"):
        read_calibration(tmp_path / "empty.txt", model(), tokenizer=file)
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(UsageError, match="are not UTF-8"):
        read_calibration(tmp_path / "latin.txt", model(), tokenizer=file)
    with pytest.raises(UsageError, match="for a text file, which the given source is not"):
        read_calibration({"x": np.zeros(8)}, model(), tokenizer=file)
    other = load(
        from_text(
            "e = Gather (t, input_ids) y = Add (e, bbox)",
            {"t": drawn(15, 8)},
            inputs="int64[N, S] input_ids, float[N, S, 8] bbox",
            outputs="float[N, S, 8] y",
        )
    ).model
    with pytest.raises(UsageError, match="input 'bbox' is none that a tokenizer gives"):
        read_calibration(lines, other, tokenizer=file)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, lines = tokenizer(tmp_path), texts(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"pip install 'graphprune\[text\]'"):
        read_calibration(lines, model(), tokenizer=file)
