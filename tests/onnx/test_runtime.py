from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphprune.onnx.runtime as runtime
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session, check_runs, find_trials
from graphprune.onnx.save import save

W = np.random.default_rng(0).standard_normal((8, 600)).astype(np.float32)


def model(body: str, signature: str = "float[N, 8] x", output: str = "float y") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({signature}) => ({output}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    return ir.from_proto(proto)


def product() -> ir.Model:
    return model("h = MatMul (x, w) r = Relu (h) y = Neg (r)")


X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def test_runs_graphs_and_files(tmp_path: Path) -> None:
    save(product(), tmp_path / "m.onnx")
    for source in (product(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        with Session(source) as session:
            assert session.input_names == ("x",)
            assert session.output_names == ("y",)
            y = session.run({"x": X})["y"]
        assert np.allclose(y, -np.maximum(X @ W, 0), atol=1e-5)


def test_external_data_is_read_where_it_lies(tmp_path: Path) -> None:
    save(product(), tmp_path / "m.onnx", external=True)
    loaded = load(tmp_path / "m.onnx").model
    before = set(Path(tempfile.gettempdir()).glob("graphprune-*"))
    with Session(loaded) as session:
        assert set(Path(tempfile.gettempdir()).glob("graphprune-*")) == before
        assert np.allclose(session.run({"x": X})["y"], -np.maximum(X @ W, 0), atol=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_models_beyond_protobuf_go_through_a_temporary_file(
    monkeypatch: pytest.MonkeyPatch, lazy: bool
) -> None:
    monkeypatch.setattr(runtime, "PROTOBUF_LIMIT", 100)
    graph = product()
    if lazy:
        shape = ir.Shape(W.shape)
        graph.graph.initializers["w"].const_value = ir.LazyTensor(
            lambda: ir.tensor(W, name="w"), ir.DataType.FLOAT, shape, name="w"
        )
    before = set(Path(tempfile.gettempdir()).glob("graphprune-*"))
    session = Session(graph)
    (folder,) = set(Path(tempfile.gettempdir()).glob("graphprune-*")) - before
    assert np.allclose(session.run({"x": X})["y"], -np.maximum(X @ W, 0), atol=1e-5)
    session.close()
    assert not folder.exists()
    tensor = graph.graph.initializers["w"].const_value
    assert np.array_equal(tensor.numpy(), W)


def test_a_temporary_file_goes_when_the_session_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "PROTOBUF_LIMIT", 100)
    before = set(Path(tempfile.gettempdir()).glob("graphprune-*"))
    session = Session(product())
    del session
    gc.collect()
    assert set(Path(tempfile.gettempdir()).glob("graphprune-*")) == before


def test_extra_outputs_are_returned_and_the_model_is_not_changed() -> None:
    graph = product()
    with Session(graph, optimize=False, outputs=["h", "w", "x", "y", "h"]) as session:
        results = session.run({"x": X})
    assert set(results) == {"y", "h", "w", "x"}
    assert np.allclose(results["h"], X @ W, atol=1e-5)
    assert np.array_equal(results["w"], W)
    assert [v.name for v in graph.graph.outputs] == ["y"]
    assert not graph.graph[0].outputs[0].is_graph_output()
    with pytest.raises(ValueError, match="no value 'nothing'"):
        Session(graph, outputs=["nothing"])


def test_extra_outputs_ignore_stale_shapes() -> None:
    graph = product()
    graph.graph[0].outputs[0].shape = ir.Shape([1, 2, 3])
    with Session(graph, outputs=["h"]) as session:
        assert session.run({"x": X})["h"].shape == (3, 600)


def test_unknown_provider() -> None:
    with pytest.raises(UsageError, match=r"no provider 'NoneProvider'.*CPUExecutionProvider"):
        Session(product(), provider="NoneProvider")


def test_a_model_that_does_not_load_is_named() -> None:
    graph = model("y = other.Thing (x)")
    graph.opset_imports["other"] = 1
    with pytest.raises(UnsupportedModelError, match=r"cannot load the model: .*Thing") as caught:
        Session(graph)
    assert "\n" not in str(caught.value)


def test_a_run_that_fails_names_its_node() -> None:
    graph = model("a = Reshape (x, s) y = MatMul (a, w)", "float[N, 8] x, int64[2] s")
    graph.graph[0].name = "the_reshape"
    with Session(graph) as session, pytest.raises(UnsupportedModelError) as caught:
        session.run({"x": X, "s": np.array([5, 5])})
    assert "node 'the_reshape' (Reshape)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_runs_returns_feeds_that_work() -> None:
    feeds = check_runs(product(), {"N": 4}, seed=3)
    assert feeds["x"].shape == (4, 8)


def test_check_runs_blames_the_model_that_never_worked() -> None:
    with pytest.raises(UnsupportedModelError, match="cannot"):
        check_runs(model("a = Transpose (x) y = MatMul (a, w)"), {"N": 4}, seed=0)


def test_two_trials_at_two_sizes() -> None:
    first, second = find_trials(product())
    assert (first.binding, second.binding) == ({"N": 2}, {"N": 3})
    assert first.outputs["y"].shape == (2, 600)
    assert second.feeds["x"].shape == (3, 8)


def test_two_trials_of_a_static_model_differ_in_their_inputs() -> None:
    first, second = find_trials(model("y = MatMul (x, w)", "float[2, 8] x"))
    assert first.binding == second.binding == {}
    assert not np.array_equal(first.feeds["x"], second.feeds["x"])


def test_larger_sizes_are_tried_when_small_ones_do_not_run() -> None:
    graph = model(
        "y = Conv <strides = [64, 64]> (x, k)", "float[N, 3, H, W] x, float[4, 3, 200, 200] k"
    )
    kernel = graph.graph.inputs.pop()
    kernel.const_value = ir.tensor(np.ones((4, 3, 200, 200), np.float32), name="k")
    graph.graph.register_initializer(kernel)
    first, second = find_trials(graph)
    assert first.binding["H"] >= 200
    assert second.binding["H"] > first.binding["H"]


def test_a_model_with_one_window_length_still_gets_two_batches() -> None:
    graph = model(
        "r = Reshape (x, s) y = Relu (r)",
        "float[batch, seq] x, int64[3] s",
    )
    shape = graph.graph.inputs.pop()
    shape.const_value = ir.tensor(np.array([-1, 8, 4]), name="s")
    graph.graph.register_initializer(shape)
    # Any batch x 32 works; batch x 12 and 3 x 17 do not.
    first, second = find_trials(graph)
    assert first.binding == {"batch": 2, "seq": 32}
    assert second.binding["batch"] == 3


def test_when_no_size_runs_the_message_says_what_was_tried() -> None:
    graph = model("y = Reshape (x, s)", "float[batch, seq] x, int64[2] s")
    shape = graph.graph.inputs.pop()
    shape.const_value = ir.tensor(np.array([-1, 997]), name="s")
    graph.graph.register_initializer(shape)
    with pytest.raises(UnsupportedModelError, match=r"tried batch=2, seq=12; .*--dim NAME=SIZE"):
        find_trials(graph)
    first, second = find_trials(graph, {"seq": 997})
    assert (first.binding["batch"], second.binding["batch"]) == (2, 3)


def test_scalars_are_tried_until_the_model_runs() -> None:
    # Reshaping 8000 samples to [rate, -1] fails at the first guess, 16000.
    graph = model(
        "s = Concat <axis = 0> (sr, r) y = Reshape (x, s)",
        "float[1, 8000] x, int64[1] sr, int64[1] r",
    )
    rest = graph.graph.inputs.pop()
    rest.const_value = ir.tensor(np.array([-1]), name="r")
    graph.graph.register_initializer(rest)
    first, second = find_trials(graph)
    assert first.feeds["sr"].item() in (1, 8000)
    assert second.outputs["y"].size == 8000


def test_a_lean_session_computes_the_same_and_keeps_weights_in_their_file(tmp_path: Path) -> None:
    """Sixteen external weights of 4 MB behind Transposes: no copy of all of them in memory."""
    count, size = 16, 1024
    body = "".join(
        f"t{i} = Transpose <perm = [1, 0]> (w{i}) h{i + 1} = MatMul (h{i}, t{i}) "
        for i in range(count)
    )
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 1024] h0) => (float[N, M] y) {'
    proto = onnx.parser.parse_model(text + body + f"y = Relu (h{count}) }}")
    weights = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) / 32
    for i in range(count):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, f"w{i}"))
    save(ir.from_proto(proto), tmp_path / "m.onnx", external=True)
    graph = load(tmp_path / "m.onnx").model
    x = {"h0": np.random.default_rng(1).standard_normal((2, size)).astype(np.float32)}
    before = anonymous_bytes()
    with Session(graph, lean=True) as session:
        lean = session.run(x)["y"]
        grown = anonymous_bytes() - before
    before = anonymous_bytes()
    with Session(graph) as session:
        assert np.allclose(lean, session.run(x)["y"], rtol=1e-3, atol=1e-4)
        assert anonymous_bytes() - before > count * weights.nbytes * 0.9  # what lean avoids
    assert float(np.abs(lean).max()) > 0.1
    assert grown < count * weights.nbytes / 2


def anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
