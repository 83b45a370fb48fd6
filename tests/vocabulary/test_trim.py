"""`graphprune trim-vocab`: equal outputs for kept tokens, smaller files, one line for mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer
from vocabulary_cases import HEAD, LINES, encoder, trained, write
from workbench import drawn, from_text

from graphprune.cli import run
from graphprune.onnx.load import load
from graphprune.vocabulary.trim import trim_vocabulary


def prepare(folder: Path, kind: str, head: str = HEAD, spare: int = 0) -> list[str]:
    tokenizer, corpus = write(folder, kind)
    rows = Tokenizer.from_file(str(tokenizer)).get_vocab_size(with_added_tokens=True)
    onnx.save(encoder(rows + spare, head), folder / "net.onnx")
    return [str(folder / "net.onnx"), "--tokenizer", str(tokenizer), "--corpus", str(corpus)]


def outputs(model: Path, tokenizer: Path, texts: list[str]) -> dict[str, np.ndarray]:
    ids = np.array([e.ids for e in Tokenizer.from_file(str(tokenizer)).encode_batch(texts)])
    session = ort.InferenceSession(str(model))
    kinds = np.arange(ids.size, dtype=np.int64).reshape(ids.shape) % 2
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {"ids": ids, "kinds": kinds}), strict=True))


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
@pytest.mark.parametrize("head", [HEAD, ""])
def test_texts_of_kept_tokens_give_equal_outputs(tmp_path, capsys, kind, head):
    arguments = prepare(tmp_path, kind, head, spare=3)
    assert run(["trim-vocab", *arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    model, words = tmp_path / "net.trimmed.onnx", tmp_path / "net.trimmed.tokenizer.json"
    onnx.checker.check_model(onnx.load(model))
    texts = (tmp_path / "corpus.txt").read_text("utf-8").splitlines()
    before = outputs(tmp_path / "net.onnx", tmp_path / "tokenizer.json", texts)
    after = outputs(model, words, texts)
    assert before["h"].std() > 0.3
    assert before["h"].tobytes() == after["h"].tobytes()
    assert before["counted"].tobytes() == after["counted"].tobytes()
    assert 0 < before["counted"].sum() < before["counted"].size
    old, new = (Tokenizer.from_file(str(f)) for f in (tmp_path / "tokenizer.json", words))
    kept = [old.token_to_id(new.id_to_token(i)) for i in range(new.get_vocab_size(True))]
    assert shown["kept"] == len(kept) < 0.8 * shown["rows"]
    if head:
        assert after["y"].shape[-1] == len(kept)
        np.testing.assert_allclose(before["y"][..., kept], after["y"], atol=1e-5)
        assert shown["logits"] == ["y"]
    per_row = 12 * 4 + (4 if head else 0)
    assert shown["removed_bytes"] == (shown["rows"] - len(kept)) * per_row
    shrunk = shown["original_bytes"] - shown["written_bytes"]
    assert abs(shrunk - shown["removed_bytes"]) < 200
    assert {"h", "counted"} <= set(shown["exact"])
    tables = load(model).model.graph.initializers
    assert (
        tables["table"].const_value.numpy()
        == load(tmp_path / "net.onnx").model.graph.initializers["table"].const_value.numpy()[kept]
    ).all()


def test_the_text_report(tmp_path, capsys):
    arguments = prepare(tmp_path, "wordpiece")
    out = ["-o", str(tmp_path / "small.onnx"), "--tokenizer-out", str(tmp_path / "small.json")]
    assert run(["trim-vocab", *arguments, *out]) == 0
    text = capsys.readouterr().out
    assert "one for each token that is kept" in text
    assert "use them together" in text
    assert (tmp_path / "small.json").exists()
    assert run(["trim-vocab", *arguments, *out]) == 2  # they exist


def test_ids_that_come_back_are_the_new_ones(tmp_path, capsys):
    arguments = prepare(tmp_path, "wordpiece")
    model = onnx.load(tmp_path / "net.onnx")
    model.graph.node.add(op_type="Identity", input=["ids"], output=["same"])
    model.graph.output.append(onnx.helper.make_tensor_value_info("same", 7, ["N", "T"]))
    onnx.save(model, tmp_path / "net.onnx")
    assert run(["trim-vocab", *arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "same" in shown["exact"]
    assert "gives the token ids back" in shown["notes"][0]


def test_a_quantised_table_with_a_scale_for_each_token(tmp_path):
    tokenizer, corpus = write(tmp_path, "wordpiece")
    rows = Tokenizer.from_file(str(tokenizer)).get_vocab_size(with_added_tokens=True)
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.integers(-127, 128, (rows, 12)).astype(np.int8),
        "scale": rng.uniform(0.01, 0.1, rows).astype(np.float32),
        "zero": rng.integers(-5, 6, rows).astype(np.int8),
    }
    body = "real = DequantizeLinear<axis=0>(table, scale, zero) h = Gather(real, ids)"
    proto = from_text(body, weights, inputs="int64[N, T] ids", outputs="float[N, T, 12] h")
    made = trim_vocabulary(proto, tokenizer, corpus)
    assert made.report.exact == ("h",)
    assert set(made.report.heads) == {"scale", "zero"}
    left = {n: v.shape.numpy()[0] for n, v in made.model.graph.initializers.items()}
    assert left == dict.fromkeys(weights, made.report.kept)


def test_onnxruntimes_fused_embedding(tmp_path):
    tokenizer, corpus = write(tmp_path, "wordpiece")
    rows = Tokenizer.from_file(str(tokenizer)).get_vocab_size(with_added_tokens=True)
    node = onnx.helper.make_node(
        "EmbedLayerNormalization",
        ["ids", "", "words", "places", "", "gamma", "beta"],
        ["h", "lengths"],
        domain="com.microsoft",
    )
    weights = {"words": drawn(rows, 12), "places": drawn(600, 12)}
    weights |= {"gamma": np.ones(12, np.float32), "beta": np.zeros(12, np.float32)}
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT32, ["N", "T"])
    h = onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["N", "T", 12])
    stored = [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()]
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    graph = onnx.helper.make_graph([node], "g", [ids], [h], stored)
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    made = trim_vocabulary(proto, tokenizer, corpus)
    assert (made.report.tables, made.report.exact) == (("words",), ("h",))


def test_all_tokens_are_needed(tmp_path, capsys):
    arguments = prepare(tmp_path, "words")
    (tmp_path / "corpus.txt").write_text("\n".join(LINES), encoding="utf-8")
    assert run(["trim-vocab", *arguments]) == 6
    assert "tokens are needed: nothing can be trimmed" in capsys.readouterr().err


def mistakes(folder: Path) -> dict[str, tuple[list[str], int, str]]:
    arguments = prepare(folder, "wordpiece")
    other = folder / "other.json"
    other.write_text(trained("unigram"), encoding="utf-8")
    strange = folder / "strange.txt"
    strange.write_text("\u4e2d\u6587\n", encoding="utf-8")
    binary = folder / "binary.txt"
    binary.write_bytes(b"\xff\xfe\xff")

    def having(option: str, file: str) -> list[str]:
        at = arguments.index(option) + 1
        return [*arguments[:at], str(folder / file), *arguments[at + 1 :]]

    return {
        "another tokenizer": (having("--tokenizer", "other.json"), 2, "tokenizer of this model?"),
        "no tokenizer": (having("--tokenizer", "corpus.txt"), 2, "is no tokenizer.json"),
        "no such tokenizer": (having("--tokenizer", "nothing"), 2, "--tokenizer: no such file"),
        "no such corpus": (having("--corpus", "nothing"), 2, "--corpus: no such file"),
        "nothing known": (
            having("--corpus", "strange.txt"),
            2,
            "no token that the tokenizer knows",
        ),
        "no text": (having("--corpus", "binary.txt"), 2, "is not UTF-8"),
        "no model": ([str(folder / "corpus.txt"), *arguments[1:]], 3, "not an ONNX model"),
        "over the tokenizer": (
            [*arguments, "--tokenizer-out", str(folder / "tokenizer.json"), "--overwrite"],
            2,
            "is the file of --tokenizer",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "another tokenizer",
        "no tokenizer",
        "no such tokenizer",
        "no such corpus",
        "nothing known",
        "no text",
        "no model",
        "over the tokenizer",
    ],
)
def test_mistakes_write_nothing(tmp_path, capsys, case):
    arguments, code, message = mistakes(tmp_path)[case]
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    assert run(["trim-vocab", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_without_the_library(tmp_path, monkeypatch, capsys):
    arguments = prepare(tmp_path, "wordpiece")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    assert run(["trim-vocab", *arguments]) == 2
    assert "pip install 'graphprune[text]'" in capsys.readouterr().err
