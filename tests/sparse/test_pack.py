"""Packing gives every file back byte for byte, and finds every damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphprune.cli import run
from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.sparse import container, layout
from graphprune.sparse.container import PackedFile, write_head, write_index
from graphprune.sparse.pack import contents, pack, unpack


def sparse_array(*shape: int, density: float = 0.1, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, *shape])
    array = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < density, array, np.float32(0))


def model_of(*tensors: onnx.TensorProto) -> onnx.ModelProto:
    """y = x W, and other tensors that nothing reads."""
    weight = numpy_helper.from_array(sparse_array(32, 16), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])
    graph = helper.make_graph([node], "g", [x], [y], [weight, *tensors])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def raw(name: str, dtype: int, dims: list[int], nbytes: int, seed: int = 0) -> onnx.TensorProto:
    rng = np.random.default_rng(seed)
    data = np.where(rng.random(nbytes) < 0.2, rng.integers(1, 256, nbytes), 0).astype(np.uint8)
    return TensorProto(name=name, data_type=dtype, dims=dims, raw_data=data.tobytes())


def there_and_back(path: Path, folder: Path) -> Path:
    folder.mkdir()
    pack(path, folder / "packed.gpk")
    back = folder / "back.onnx"
    unpack(folder / "packed.gpk", back)
    assert back.read_bytes() == path.read_bytes()
    return folder / "packed.gpk"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(model_of(), path)
    return path


WIDTHS = {
    "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64,
    "BOOL": 8, "FLOAT16": 16, "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "COMPLEX64": 64,
    "COMPLEX128": 128, "BFLOAT16": 16, "FLOAT8E4M3FN": 8, "FLOAT8E4M3FNUZ": 8, "FLOAT8E5M2": 8,
    "FLOAT8E5M2FNUZ": 8, "UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4,
}  # fmt: skip


def test_every_element_type(tmp_path):
    tensors = [
        raw(n.lower(), TensorProto.DataType.Value(n), [24, 20], 24 * 20 * bits // 8)
        for n, bits in WIDTHS.items()
    ]
    known = set(TensorProto.DataType.keys()) - {"UNDEFINED", "STRING"}
    assert known >= set(WIDTHS)
    path = tmp_path / "net.onnx"
    onnx.save(model_of(*tensors), path)
    packed = there_and_back(path, tmp_path / "out")
    by_name = {t.name: t for t in contents(packed).tensors}
    for name, bits in WIDTHS.items():
        tensor = by_name[name.lower()]
        assert tensor.dense == 24 * 20 * bits // 8
        assert tensor.stored < tensor.dense
        wide = bits in (8, 16, 32, 64)
        assert tensor.elements == (480 if wide else tensor.dense // (8 if bits == 128 else 1))


def test_bits_that_compare_equal_are_kept(tmp_path):
    values = sparse_array(64, 64)
    values[:8, :8] = -0.0
    values[9, :4] = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 1], np.uint32).view(np.float32)
    path = tmp_path / "net.onnx"
    onnx.save(model_of(numpy_helper.from_array(values, "odd")), path)
    packed = there_and_back(path, tmp_path / "out")
    tensor = {t.name: t for t in contents(packed).tensors}["odd"]
    assert tensor.nonzero == np.count_nonzero(values.view(np.uint32))
    assert tensor.stored < tensor.dense / 2


def test_other_ways_to_hold_data(tmp_path):
    """float_data, double_data, int32_data, strings, constants of nodes, bodies, functions."""
    array = sparse_array(40, 10)
    flat = array.reshape(-1).tolist()
    tensors = [
        helper.make_tensor("f", TensorProto.FLOAT, [40, 10], flat),
        helper.make_tensor("d", TensorProto.DOUBLE, [40, 10], flat),
        helper.make_tensor("i", TensorProto.INT32, [400], list(range(400))),
        helper.make_tensor("s", TensorProto.STRING, [2], [b"a", b"b" * 100]),
    ]
    model = model_of(*tensors)
    constant = helper.make_node(
        "Constant", [], ["c"], value=numpy_helper.from_array(array, "inside")
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["deep"], ["o"])],
        "body",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [40, 10])],
        [numpy_helper.from_array(array * 2, "deep")],
    )
    branch = helper.make_node("If", ["b"], ["r"], then_branch=body, else_branch=body)
    model.graph.node.extend([constant, branch])
    model.functions.append(
        helper.make_function("own", "F", [], ["z"], [constant], [helper.make_opsetid("", 18)])
    )
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    names = [t.name for t in contents(there_and_back(path, tmp_path / "out")).tensors]
    assert sorted(names) == ["d", "deep", "deep", "f", "inside", "inside", "w"]


def test_bytes_of_any_writer_come_back(small, tmp_path):
    """Fields in another order, unknown ones, a tensor's data before its shape."""
    model = onnx.load(small)
    tensor = model.graph.initializer[0]
    data = TensorProto(raw_data=tensor.raw_data).SerializeToString()
    tensor.ClearField("raw_data")
    turned = data + tensor.SerializeToString()
    graph = b"\x2a" + bytes([len(turned) & 127 | 128, len(turned) >> 7]) + turned
    del model.graph.initializer[:]
    graph += model.graph.SerializeToString()
    model.ClearField("graph")
    whole = model.SerializeToString() + b"\x9a\x3f\x03abc"  # field 1011
    whole += b"\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph
    small.write_bytes(whole)
    packed = there_and_back(small, tmp_path / "out")
    (tensor,) = contents(packed).tensors
    assert (tensor.name, tensor.shape) == ("w", (32, 16))
    assert tensor.stored < tensor.dense / 3


def external(path: Path, location: str) -> None:
    model = model_of(numpy_helper.from_array(sparse_array(100, 30, seed=1), "v"))
    at = 1000  # padding in front, between and behind
    data = bytearray(b"\x01" * at)
    for tensor in model.graph.initializer:
        entries = {"location": location, "offset": len(data), "length": len(tensor.raw_data)}
        data += tensor.raw_data + b"\0" * 3000
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    model.graph.initializer.append(model.graph.initializer[0])  # the same bytes twice
    model.graph.initializer[-1].name = "again"
    (path.parent / location).parent.mkdir(exist_ok=True)
    (path.parent / location).write_bytes(data)
    onnx.save(model, path)


@pytest.mark.parametrize("location", ["net.onnx.data", "weights/a.bin"])
def test_external_data(tmp_path, location):
    path = tmp_path / "net.onnx"
    external(path, location)
    report = pack(path, tmp_path / "p.gpk")
    assert report.files == ("", location)
    assert report.original == path.stat().st_size + (tmp_path / location).stat().st_size
    assert report.packed < report.original / 3
    assert [t.name for t in report.tensors] == ["w", "v"]
    out = tmp_path / "out"
    out.mkdir()
    unpack(tmp_path / "p.gpk", out / "other.onnx")
    assert (out / "other.onnx").read_bytes() == path.read_bytes()
    assert (out / location).read_bytes() == (tmp_path / location).read_bytes()
    onnx.load(out / "other.onnx")


def test_external_data_that_is_too_short(tmp_path):
    path = tmp_path / "net.onnx"
    external(path, "a.bin")
    (tmp_path / "a.bin").write_bytes(b"short")
    with pytest.raises(UnsupportedModelError, match="does not lie in"):
        pack(path, tmp_path / "p.gpk")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(UnsupportedModelError, match="is missing"):
        pack(path, tmp_path / "p.gpk")
    assert not (tmp_path / "p.gpk").exists()


@pytest.mark.parametrize("limit", [256, 1 << 12])
def test_long_tensors_go_in_pieces(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(layout, "PIECE", limit)
    monkeypatch.setattr(container, "PIECE", limit)
    path = tmp_path / "net.onnx"
    wide = numpy_helper.from_array(sparse_array(3, 700), "wide")
    flat = numpy_helper.from_array(sparse_array(3001), "flat")
    onnx.save(model_of(wide, flat), path)
    packed = there_and_back(path, tmp_path / "out")
    tensors = {t.name: t for t in contents(packed).tensors}
    assert [(n, t.elements) for n, t in tensors.items()] == [
        ("w", 512), ("wide", 2100), ("flat", 3001),
    ]  # fmt: skip


def test_ninety_percent_of_zeros_take_fourteen_percent(tmp_path):
    path = tmp_path / "net.onnx"
    arrays = {"conv": (256, 128, 3, 3), "embedding": (5000, 128), "line": (200_000,)}
    tensors = [numpy_helper.from_array(sparse_array(*s), n) for n, s in arrays.items()]
    onnx.save(model_of(*tensors), path)
    report = pack(path, tmp_path / "p.gpk")
    assert report.packed <= 0.14 * path.stat().st_size
    before = (tmp_path / "p.gpk").read_bytes()
    pack(path, tmp_path / "p.gpk")
    assert (tmp_path / "p.gpk").read_bytes() == before


def test_every_changed_byte_is_found(small, tmp_path):
    packed = tmp_path / "p.gpk"
    pack(small, packed)
    whole = packed.read_bytes()
    assert 500 < len(whole) < 2500
    broken = tmp_path / "broken.gpk"
    for at in range(len(whole)):
        for change in (1 << at % 8, 255):
            data = bytearray(whole)
            data[at] ^= change
            broken.write_bytes(data)
            with pytest.raises(UnsupportedModelError):
                unpack(broken, None)
    for wrong in (*(whole[:n] for n in range(0, len(whole), 5)), whole + b"\0", b"\0" + whole):
        broken.write_bytes(wrong)
        with pytest.raises(UnsupportedModelError):
            unpack(broken, None)
    unpack(packed, None)


def test_nothing_is_written_from_a_damaged_pack(small, tmp_path, capsys):
    packed = tmp_path / "p.gpk"
    pack(small, packed)
    data = bytearray(packed.read_bytes())
    data[40] ^= 8
    packed.write_bytes(data)
    before = sorted(tmp_path.iterdir())
    assert run(["unpack", str(packed), "-o", str(tmp_path / "new.onnx")]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'w' in it is changed; get it again" in error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("location", ["../x", "/x", "a/../../x", "c:\\x"])
def test_a_pack_cannot_leave_its_folder(tmp_path, location):
    path = tmp_path / "evil.gpk"
    with path.open("wb") as file:
        write_head(file)
        write_index(file, [PackedFile("", 0, "", (), 0, 0), PackedFile(location, 0, "", (), 0, 0)])
    with pytest.raises(UnsupportedModelError, match="cannot be read"):
        unpack(path, tmp_path / "out.onnx")


def test_what_is_no_model(tmp_path):
    path = tmp_path / "net.onnx"
    for data, message in (
        (b"", "empty"),
        (b"version https://git-lfs", "not an ONNX model"),
        (bytes(range(256)), "not an ONNX model"),
        (b"\x08\x0a", "no graph"),
    ):
        path.write_bytes(data)
        with pytest.raises(UnsupportedModelError, match=message):
            pack(path, tmp_path / "p.gpk")
    onnx.save(model_of(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnsupportedModelError, match="truncated"):
        pack(path, tmp_path / "p.gpk")
    for call in (pack, unpack):
        with pytest.raises(UsageError, match="cannot read"):
            call(tmp_path / "nothing", tmp_path / "p.gpk")
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]


def test_commands(small, capsys):
    assert run(["pack", str(small), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    packed = small.with_suffix(".gpk")
    assert shown["packed_bytes"] == packed.stat().st_size
    (tensor,) = shown["tensors"]
    assert (tensor["name"], tensor["dense_bytes"]) == ("w", 2048)
    assert 0.8 < tensor["sparsity"] < 1
    assert tensor["stored_bytes"] < 0.16 * 2048
    assert run(["pack", str(small)]) == 2  # it exists
    assert run(["unpack", str(packed)]) == 2
    assert run(["unpack", str(packed), "--check"]) == 0
    assert run(["unpack", str(packed), "-o", "x.onnx", "--check"]) == 2
    assert run(["unpack", str(small), "-o", str(small.with_name("b.onnx"))]) == 3
    assert run(["unpack", "nothing.gpk"]) == 2
    assert run(["pack", str(small), "--as", "zip"]) == 2
    capsys.readouterr()
    again = small.with_name("again.onnx")
    assert run(["unpack", str(packed), "-o", str(again)]) == 0
    assert "all 1 file(s) as they were packed" in capsys.readouterr().out
    assert again.read_bytes() == small.read_bytes()
    assert run(["pack", str(small), "--overwrite"]) == 0
    assert "gap8" in capsys.readouterr().out


def test_external_data_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    external(path, "a.bin")
    assert run(["pack", str(path), "-q"]) == 0
    assert run(["unpack", str(path.with_suffix(".gpk")), "-o", str(tmp_path / "b.onnx")]) == 2
    assert "a.bin exists" in capsys.readouterr().err
