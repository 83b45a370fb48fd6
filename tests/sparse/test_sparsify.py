"""`graphprune sparsify` and `graphprune.sparsify`, through to the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune.cli import run
from graphprune.errors import NothingGainedError, UsageError
from graphprune.onnx.load import load

BODY = """
    h = Conv<pads=[1, 1, 1, 1]>(x, a, ab)
    r = Relu(h)
    g = GlobalAveragePool(r)
    f = Flatten(g)
    y = Gemm<transB=1>(f, c, cb)
"""


def proto() -> onnx.ModelProto:
    arrays = {
        "a": drawn(32, 8, 3, 3, fan_in=72),
        "ab": drawn(32) * 0.1,
        "c": drawn(8, 32, fan_in=32),
        "cb": drawn(8),
    }
    return from_text(BODY, arrays, inputs="float[N, 8, 6, 6] x", outputs="float[N, 8] y")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(proto(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def arrays_of(model) -> dict[str, np.ndarray]:
    return {n: v.const_value.numpy() for n, v in load(model).model.graph.initializers.items()}


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("criterion", ["magnitude", "l2", "random"])
def test_the_share_of_zeros_is_what_was_asked_for(path, capsys, scope, criterion):
    out = path.with_name("out.onnx")
    before = path.read_bytes()
    arguments = ["--sparsity", "0.75", "--scope", scope, "--criterion", criterion]
    assert run(["sparsify", str(path), *arguments, "-o", str(out), "--json", "--no-bench"]) == 0
    shown = json.loads(capsys.readouterr().out)
    old, new = arrays_of(path), arrays_of(out)
    assert path.read_bytes() == before
    zeros = {n: (new[n] == 0).sum() for n in ("a", "c")}
    assert sum(zeros.values()) == round(0.75 * (old["a"].size + old["c"].size))
    if scope == "local":
        assert zeros == {n: 0.75 * old[n].size for n in zeros}
    for name, array in new.items():  # what stays has its bits
        kept = array != 0
        assert (array[kept] == old[name][kept]).all()
    assert (new["ab"] == old["ab"]).all()
    assert (new["cb"] == old["cb"]).all()
    assert shown["sparsity"] == 0.75
    assert {w["name"]: w["sparsity"] for w in shown["weights"]} == {
        n: z / old[n].size for n, z in zeros.items()
    }
    assert shown["stored_bytes"] < 0.35 * shown["dense_bytes"]
    assert shown["latency"] is None


def test_a_pattern_of_two_in_four(path, capsys):
    out = path.with_name("net.sparse.onnx")
    assert run(["sparsify", str(path), "--pattern", "2:4", "--no-bench"]) == 0
    assert "50.0%" in capsys.readouterr().out
    new = arrays_of(out)
    groups = np.moveaxis(new["a"], 1, -1).reshape(-1, 4)  # along the input channels
    assert ((groups != 0).sum(axis=1) == 2).all()
    assert ((new["c"].reshape(-1, 4) != 0).sum(axis=1) == 2).all()
    assert run(["pack", str(out), "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)
    assert [t["formats"] for t in packed["tensors"][:1]] == [["2:4@1"]]


def test_wanda_looks_at_data(path, tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(32, 8, 6, 6)).astype(np.float32)
    x[:, :4] *= 20
    np.save(tmp_path / "calib.npy", x)
    base = ["sparsify", str(path), "--sparsity", "0.5", "--criterion", "wanda", "--no-bench"]
    assert run([*base, "--calib", str(tmp_path / "calib.npy"), "--scope", "local"]) == 0
    new = arrays_of(tmp_path / "net.sparse.onnx")["a"]
    assert (new.reshape(32, -1) != 0).sum(axis=1).tolist() == [36] * 32  # the same of each output
    assert (new[:, :4] != 0).mean() > 0.9
    capsys.readouterr()
    assert run([*base, "--overwrite"]) == 2
    assert "needs calibration inputs" in capsys.readouterr().err
    unread = [*base, "--criterion", "magnitude", "--calib", str(tmp_path / "calib.npy")]
    assert run([*unread, "--overwrite"]) == 2
    assert "does not look at calibration inputs" in capsys.readouterr().err


WANDA = ["--criterion", "wanda", "--scope", "local", "--no-bench"]


def kept_rows(model, name: str, axis: int) -> np.ndarray:
    """Which share of the weights that read each input is left."""
    array = np.moveaxis(arrays_of(model)[name], axis, 0)
    return (array.reshape(len(array), -1) != 0).mean(axis=1)


@pytest.mark.parametrize(("how", "kept"), [("scale=255", 0), ("scale=255,mean=0.8:0:0", 1)])
def test_wanda_looks_at_images_as_they_are_preprocessed(tmp_path, how, kept):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(8):
        array = np.empty((6, 6, 3), np.uint8)
        array[:] = 204, 40, i  # 204 / 255 is the mean
        image.fromarray(array).save(folder / f"{i}.png")
    text = "y = Conv(x, w)"
    shapes = {"inputs": "float[N, 3, 6, 6] x", "outputs": "float[N, 4, 6, 6] y"}
    onnx.save(from_text(text, {"w": drawn(4, 3, 1, 1)}, **shapes), tmp_path / "net.onnx")
    images = ["--calib", str(folder), "--calib-images", how]
    assert run(["sparsify", str(tmp_path / "net.onnx"), *WANDA, "--pattern", "1:3", *images]) == 0
    assert kept_rows(tmp_path / "net.sparse.onnx", "w", 1).argmax() == kept


@pytest.mark.parametrize(("length", "kept"), [(["--max-length", "1"], 0), ([], 4)])
def test_wanda_looks_at_texts(tmp_path, length, kept):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "first": 2, "last": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "texts.txt").write_text("first last\n" * 8)
    table = np.ones((4, 8), np.float32)
    table[2, :4] = 1e3
    table[3, 4:] = 1e6
    net = from_text(
        "e = Gather(table, ids) y = MatMul(e, w)",
        {"table": table, "w": drawn(8, 6)},
        inputs="int64[N, T] ids",
        outputs="float[N, T, 6] y",
    )
    onnx.save(net, tmp_path / "net.onnx")
    texts = [f"--calib={tmp_path}/texts.txt", f"--tokenizer={tmp_path}/tokenizer.json"]
    half = [*WANDA, "--sparsity", "0.5", "--only", "w"]
    assert run(["sparsify", str(tmp_path / "net.onnx"), *half, *texts, *length]) == 0
    assert kept_rows(tmp_path / "net.sparse.onnx", "w", 0)[kept : kept + 4].mean() == 1


def test_how_inputs_are_read_without_inputs(path):
    with pytest.raises(UsageError, match="max_length says how calibration inputs are read"):
        graphprune.sparsify(path, sparsity=0.5, max_length=8)


def test_random_inputs_are_told(path):
    wanda = {"sparsity": 0.5, "criterion": "wanda", "bench": False}
    report = graphprune.sparsify(path, calib="random", **wanda).report
    assert any("calibration inputs are random" in line for line in report.warnings)


def test_only_and_exclude(path):
    result = graphprune.sparsify(path, sparsity=0.5, exclude="c", bench=False)
    assert list(result.masks) == ["a"]
    assert result.report.elements == 32 * 8 * 9
    assert list(graphprune.sparsify(path, sparsity=0.5, only="c*", bench=False).masks) == ["c"]


def test_timing_is_measured(path):
    latency = graphprune.sparsify(proto(), sparsity=0.5).report.latency
    assert latency.blocks >= 6
    assert latency.original.median_ms > 0


def test_the_model_in_memory_is_not_changed():
    model = ir.from_proto(proto())
    before = model.graph.initializers["a"].const_value.numpy().copy()
    result = graphprune.sparsify(model, sparsity=0.5, bench=False)
    assert (model.graph.initializers["a"].const_value.numpy() == before).all()
    assert (result.model.graph.initializers["a"].const_value.numpy() != before).any()
    assert (result.masks["a"].pruned.mean()) > 0.2


def test_empty_channels_leave_with_compile(tmp_path, capsys):
    model = proto()
    for tensor in model.graph.initializer:
        if tensor.name == "c":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[:, [1, 4, 30]] *= 1e-4  # these go first
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "c"))
    path, out, plan = (tmp_path / n for n in ("net.onnx", "out.onnx", "plan.json"))
    onnx.save(model, path)
    base = ["sparsify", str(path), "--sparsity", "0.3", "-o", str(out), "--no-bench", "--overwrite"]
    assert run([*base, "--save-plan", str(plan)]) == 0
    assert "3 can leave" in capsys.readouterr().out
    sparse = arrays_of(out)
    assert sparse["a"].shape == (32, 8, 3, 3)
    assert run(["apply", str(out), str(plan), "-o", str(tmp_path / "small.onnx"), "-q"]) == 0
    assert run([*base, "--compile", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    small = arrays_of(out)
    assert small["a"].shape == (29, 8, 3, 3)
    assert (small["a"] == np.delete(sparse["a"], [1, 4, 30], axis=0)).all()
    assert shown["compiled"]["certificate"]["status"] == "exact"
    assert shown["empty_units"] == 3
    same = arrays_of(tmp_path / "small.onnx")
    assert all((small[n] == same[n]).all() for n in small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sparsity", "1"], "sparsity 1 is out of range"),
        (["--sparsity", "-0.1"], "out of range"),
        ([], "say how much to prune"),
        (["--sparsity", "0.5", "--scope", "none"], "none of global, local, sensitivity"),
        (["--sparsity", "0.5", "--criterion", "movement"], "graphprune.torch (WeightScores"),
        (["--sparsity", "0.5", "--criterion", "fisher"], "'fisher' needs calibration inputs"),
        (["--pattern", "2:4", "--scope", "sensitivity"], "leave out scope sensitivity"),
        (["--sparsity", "0.5", "--criterion", "bn-scale"], "unknown criterion 'bn-scale'"),
        (["--pattern", "4:2"], "not N:M"),
        (["--pattern", "2:4", "--sparsity", "0.9"], "gives sparsity 0.5"),
        (["--pattern-axis", "1", "--sparsity", "0.9"], "needs a pattern"),
        (["--pattern", "2:16"], "2:16 does not divide axis 1 of 'a'"),
        (["--sparsity", "0.5", "--compile", "--save-plan", "p.json"], "leave out --compile"),
        (["--sparsity", "0.5", "--only", "nothing*"], "names no weight"),
        (["--sparsity", "0.5", "--exclude", "*"], "leave no weight"),
    ],
)
def test_wrong_options_write_nothing(path, capsys, arguments, message):
    assert run(["sparsify", str(path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [f.name for f in path.parent.iterdir()] == ["net.onnx"]


def test_a_model_without_weights():
    with pytest.raises(NothingGainedError, match="no weight that is pruned"):
        graphprune.sparsify(from_text("y = Relu(x)", {}), sparsity=0.5)


def test_a_layer_of_zeros_is_told():
    model = proto()
    for tensor in model.graph.initializer:
        if tensor.name == "c":
            array = onnx.numpy_helper.to_array(tensor) * np.float32(1e-3)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "c"))
    result = graphprune.sparsify(model, sparsity=0.5, bench=False)
    assert any("all of 'c' is zero" in line for line in result.report.warnings)
    assert result.report.sparsity == 0.5
