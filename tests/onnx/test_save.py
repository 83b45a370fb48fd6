from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphprune.onnx.save as module
from graphprune.errors import UsageError
from graphprune.onnx.load import load
from graphprune.onnx.save import save

W = np.random.default_rng(0).standard_normal((8, 600)).astype(np.float32)


def model() -> ir.Model:
    text = """<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1],
        producer_name: "torch", metadata_props: ["names": "{0: 'cat'}", "stride": "32"]>
        g (float[N, 8] x) => (float[N, M] y) { h = MatMul (x, w) y = Add (h, b) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.node[0].name = "first"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(W[0], "b"))
    return ir.from_proto(proto)


def test_round_trip_keeps_everything_that_is_not_ours(tmp_path: Path) -> None:
    assert save(model(), tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto)
    assert (proto.ir_version, proto.producer_name) == (9, "torch")
    assert {o.domain: o.version for o in proto.opset_import} == {"": 17, "com.microsoft": 1}
    assert {p.key: p.value for p in proto.metadata_props} == {"names": "{0: 'cat'}", "stride": "32"}
    assert [n.name for n in proto.graph.node] == ["first", ""]
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("external", [False, True])
def test_the_same_graph_gives_the_same_bytes(tmp_path: Path, external: bool) -> None:
    contents = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        written = save(model(), tmp_path / run / "m.onnx", external=external)
        contents.append([p.read_bytes() for p in written])
        assert len(written) == 1 + external
    assert contents[0] == contents[1]


def test_external_data_lies_beside_the_model(tmp_path: Path) -> None:
    written = save(model(), tmp_path / "m.onnx", external=True)
    assert written == [tmp_path / "m.onnx", tmp_path / "m.onnx.data"]
    assert (tmp_path / "m.onnx").stat().st_size < 2000
    loaded = load(tmp_path / "m.onnx")
    assert loaded.external_data
    assert np.array_equal(loaded.model.graph.initializers["w"].const_value.numpy(), W)
    save(loaded.model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx.data").exists()
    save(loaded.model, tmp_path / "one.onnx", external=False)
    assert not (tmp_path / "one.onnx.data").exists()
    assert not load(tmp_path / "one.onnx").external_data


def test_a_model_beyond_protobuf_is_written_with_external_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 100)
    save(model(), tmp_path / "m.onnx", external=False)
    assert (tmp_path / "m.onnx.data").exists()


def test_a_model_may_be_saved_over_the_files_it_reads(tmp_path: Path) -> None:
    save(model(), tmp_path / "m.onnx", external=True)
    loaded = load(tmp_path / "m.onnx").model
    value = loaded.graph.initializers["w"]
    old = value.const_value
    value.const_value = ir.LazyTensor(
        lambda: ir.tensor(old.numpy()[:, ::2].copy(), name="w"),
        ir.DataType.FLOAT,
        ir.Shape([8, 300]),
        name="w",
    )
    value.shape = ir.Shape([8, 300])
    save(loaded, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx").model.graph.initializers["w"].const_value
    assert np.array_equal(again.numpy(), W[:, ::2])


def test_lazy_tensors_stay_lazy(tmp_path: Path) -> None:
    graph = model()
    lazy = ir.LazyTensor(
        lambda: ir.tensor(W, name="w"), ir.DataType.FLOAT, ir.Shape(W.shape), name="w"
    )
    graph.graph.initializers["w"].const_value = lazy
    save(graph, tmp_path / "m.onnx", external=True)
    assert graph.graph.initializers["w"].const_value is lazy


def test_missing_folder_and_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*m\.onnx"):
        save(model(), tmp_path / "none" / "m.onnx")
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*m\.onnx"):
        save(model(), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot write"):
        save(model(), tmp_path / "m.onnx")


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("kind", ["full", "interrupted"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool, kind: str
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"old")
    real = os.fsync

    def fail(handle: int) -> None:
        real(handle)
        if kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError if kind == "full" else KeyboardInterrupt) as caught:
        save(model(), tmp_path / "m.onnx", external=external)
    if kind == "full":
        assert "No space left" in str(caught.value)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_full_disk_while_weights_are_streamed(tmp_path: Path) -> None:
    """A tensor that cannot be written ends the save like any failed write."""

    def full() -> ir.TensorProtocol:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    graph = model()
    graph.graph.initializers["w"].const_value = ir.LazyTensor(
        full, ir.DataType.FLOAT, ir.Shape(W.shape), name="w"
    )
    with pytest.raises(UsageError, match="No space left"):
        save(graph, tmp_path / "m.onnx", external=True)
    assert os.listdir(tmp_path) == []


def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        written = save(model(), tmp_path / "m.onnx", external=True)
    finally:
        os.umask(old)
    assert {oct(p.stat().st_mode & 0o777) for p in written} == {"0o640"}
