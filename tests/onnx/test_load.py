from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphprune.errors import GraphpruneError, UnsupportedModelError, UsageError
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session

WEIGHT = np.arange(64 * 32, dtype=np.float32).reshape(64, 32) / 100


def proto(body: str = "y = MatMul (x, w)", opset: int = 18, extra: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 10, opset_import: ["" : {opset}{extra}]> '
    text += "g (float[N, 64] x) => (float[N, M] y) { " + body + " }"
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return model


def write(path: Path, model: onnx.ModelProto | None = None) -> Path:
    path.write_bytes((model or proto()).SerializeToString())
    return path


def write_external(folder: Path, edit: Callable[[TensorProto], None] = lambda t: None) -> Path:
    """A model whose weight lies in weights.bin at offset 64."""
    model = proto()
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(b"\0" * 64 + tensor.raw_data)
    entries = {"location": "weights.bin", "offset": "64", "length": str(WEIGHT.nbytes)}
    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    edit(tensor)
    return write(folder / "model.onnx", model)


def entry(key: str, value: str) -> Callable[[TensorProto], None]:
    def edit(tensor: TensorProto) -> None:
        for item in tensor.external_data:
            if item.key == key:
                item.value = value

    return edit


def refused(
    source: object, *words: str, kind: type[GraphpruneError] = UnsupportedModelError
) -> None:
    with pytest.raises(kind) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# --- what is accepted -----------------------------------------------------------------------------


def test_file_proto_ir_and_program_give_the_same_graph(tmp_path: Path) -> None:
    class Program:
        model = ir.from_proto(proto())

    path = write(tmp_path / "model.onnx")
    for source in (path, str(path), proto(), ir.from_proto(proto()), Program()):
        loaded = load(source)
        assert [n.op_type for n in loaded.model.graph] == ["MatMul"]
        assert np.array_equal(loaded.model.graph.initializers["w"].const_value.numpy(), WEIGHT)
        assert len(loaded.sha256) == 64
        assert loaded.original_size_bytes > WEIGHT.nbytes
        assert not loaded.external_data


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path / "model.onnx")
    assert load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path).path == path
    external = write_external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    loaded = load(external)
    assert loaded.sha256 == hashlib.sha256(external.read_bytes() + data).hexdigest()
    assert loaded.original_size_bytes == external.stat().st_size + len(data)
    assert loaded.external_data


def test_the_hash_of_a_graph_in_memory_follows_nodes_and_weights() -> None:
    first = load(ir.from_proto(proto())).sha256
    assert load(ir.from_proto(proto())).sha256 == first
    other = ir.from_proto(proto())
    other.graph.initializers["w"].const_value = ir.tensor(WEIGHT + 1, name="w")
    assert load(other).sha256 != first
    renamed = ir.from_proto(proto())
    renamed.graph[0].name = "renamed"
    assert load(renamed).sha256 != first


def test_external_data_stays_in_its_file(tmp_path: Path) -> None:
    loaded = load(write_external(tmp_path))
    tensor = loaded.model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert np.array_equal(tensor.numpy(), WEIGHT)


def test_a_source_in_memory_is_not_changed() -> None:
    model = proto("y = own.Double (x, w)", extra=', "own" : 1')
    function = onnx.parser.parse_function(
        '<opset_import: ["" : 18], domain: "own"> Double (a, b) => (c)'
        " { d = MatMul (a, b) c = Add (d, d) }"
    )
    model.functions.append(function)
    before = model.SerializeToString()
    source = ir.from_proto(model)
    for given in (model, source):
        loaded = load(given)
        assert [n.op_type for n in loaded.model.graph] == ["MatMul", "Add"]
        assert not loaded.model.functions
    assert model.SerializeToString() == before
    assert [n.op_type for n in source.graph] == ["Double"]
    assert source.functions


def test_unsorted_nodes_are_sorted_and_sorted_ones_keep_their_order() -> None:
    loaded = load(proto("y = Relu (b) b = Neg (a) a = MatMul (x, w)"))
    assert [n.op_type for n in loaded.model.graph] == ["MatMul", "Neg", "Relu"]
    loaded = load(proto("a = MatMul (x, w) c = Neg (x) d = Abs (x) y = Relu (a)"))
    assert [n.op_type for n in loaded.model.graph] == ["MatMul", "Neg", "Abs", "Relu"]


@pytest.mark.parametrize("indices", ["linear", "coordinates"])
def test_sparse_initializers_become_dense(indices: str) -> None:
    dense = np.where(np.random.default_rng(0).random(WEIGHT.shape) < 0.2, WEIGHT, 0)
    places = np.flatnonzero(dense)
    values = numpy_helper.from_array(dense.reshape(-1)[places], "w")
    if indices == "coordinates":
        places = np.stack(np.unravel_index(places, dense.shape), axis=1)
    model = proto()
    del model.graph.initializer[:]
    sparse = helper.make_sparse_tensor(
        values, numpy_helper.from_array(places.astype(np.int64), "w_places"), dense.shape
    )
    model.graph.sparse_initializer.append(sparse)
    loaded = load(model)
    assert np.array_equal(loaded.model.graph.initializers["w"].const_value.numpy(), dense)
    assert len(model.graph.sparse_initializer) == 1
    x = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    with Session(loaded.model) as session:
        assert np.allclose(session.run({"x": x})["y"], x @ dense, atol=1e-4)


def test_sparse_constants_become_dense() -> None:
    values = numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "v")
    places = numpy_helper.from_array(np.array([1, 5], np.int64), "p")
    model = proto("y = MatMul (x, w)")
    node = helper.make_node("Constant", [], ["k"])
    node.attribute.append(
        helper.make_attribute("sparse_value", helper.make_sparse_tensor(values, places, (2, 3)))
    )
    model.graph.node.insert(0, node)
    constant = load(model).model.graph[0]
    assert constant.attributes["value"].value.numpy().tolist() == [[0, 2, 0], [0, 0, 3]]


def test_a_download_cache_may_link_both_files(tmp_path: Path) -> None:
    """Both the model and its data are links into a folder of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    write_external(blobs)
    (blobs / "model.onnx").rename(blobs / "a1")
    (blobs / "weights.bin").rename(blobs / "b2")
    (snapshot / "model.onnx").symlink_to("../blobs/a1")
    (snapshot / "weights.bin").symlink_to("../blobs/b2")
    loaded = load(snapshot / "model.onnx")
    assert np.array_equal(loaded.model.graph.initializers["w"].const_value.numpy(), WEIGHT)


# --- what is refused ------------------------------------------------------------------------------


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "does not exist", kind=UsageError)


def test_not_a_model_at_all() -> None:
    refused(12, "cannot load a int", kind=UsageError)


def test_folder_and_empty_file(tmp_path: Path) -> None:
    refused(tmp_path, "folder")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "empty")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"hello, this is no model\n" * 50, "text"),
        (bytes(range(256)) * 20, "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"\x18\x00\x00\x00ORTM" + bytes(100), "onnxruntime's own format"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x80\x02}q\x00." + bytes(100), "pickle"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    refused(tmp_path / "model.onnx", word, "model.onnx")


@pytest.mark.parametrize("part", [0.001, 0.2, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "model.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path)


def test_every_truncation_of_a_small_file_is_refused_or_complete(tmp_path: Path) -> None:
    """No cut of a file may raise anything but our own error."""
    model = proto("y = Relu (x)")
    del model.graph.initializer[:]
    data = model.SerializeToString()
    path = tmp_path / "model.onnx"
    refusals: list[str] = []
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            load(path)
        except UnsupportedModelError as error:
            refusals.append(str(error))
    assert len(refusals) > len(data) // 2
    assert not any("\n" in message for message in refusals)


def test_missing_external_data(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    refused(path, "'weights.bin'", "'w'", "missing")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", ""])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(64 + WEIGHT.nbytes))
    refused(write_external(folder, entry("location", location)), "outside the model's folder")


def test_external_data_through_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = write_external(folder)
    os.replace(folder / "weights.bin", tmp_path / "secret.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    refused(path, "link that leaves the model's folder")


def test_external_data_too_short_or_misplaced(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:-1])
    refused(path, "too short", "'w'")
    for key, value in (("length", "12"), ("offset", "-4"), ("offset", "x")):
        refused(write_external(tmp_path, entry(key, value)), "wrong place or length", "'w'")


def test_shapes_that_overflow_or_are_negative() -> None:
    for dims, word in (([1 << 40, 1 << 40], "overflow"), ([-3, 4], "negative")):
        model = proto()
        tensor = model.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend(dims)
        refused(model, word, "'w'")
    model = proto()
    for dim, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1 << 40, 1 << 40), strict=True
    ):
        dim.dim_value = size
    refused(model, "overflow", "'x'")


def test_stored_bytes_that_do_not_fit_the_shape() -> None:
    model = proto()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    refused(model, "'w'", "bytes")
    model = proto()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])
    refused(model, "'w'")


def test_unknown_element_types() -> None:
    model = proto()
    model.graph.initializer[0].data_type = 999
    refused(model, "'w'", "element type 999")
    model = proto()
    model.graph.input[0].type.tensor_type.elem_type = 999
    refused(model, "'x'", "element type 999")


def test_versions_that_are_too_new_or_missing() -> None:
    refused(proto(opset=999), "opset 999", "update onnx")
    model = proto()
    model.ir_version = 999
    refused(model, "IR version 999")
    model = proto()
    del model.opset_import[:]
    refused(model, "opset")
    graph = ir.from_proto(proto())
    graph.opset_imports[""] = 999
    refused(graph, "opset 999")


@pytest.mark.parametrize("domain", ["com.microsoft.nchwc", "com.ms.internal.nhwc"])
def test_lowered_graphs(domain: str) -> None:
    model = proto(f"a = {domain}.Conv (x, w) y = Relu (a)", extra=f', "{domain}" : 1')
    refused(model, domain, "prune the model first, then optimise it")
    refused(ir.from_proto(model), domain, "prune the model first, then optimise it")


def test_an_imported_but_unused_lowered_domain_is_no_obstacle() -> None:
    load(proto(extra=', "com.microsoft.nchwc" : 1'))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("y = Add (a, x) a = Neg (y)", ["cycle"]),
        ("y = Relu (missing)", ["'missing'", "nothing makes"]),
        ("z = Relu (x)", ["'y'", "nothing makes"]),
        ("y = Relu (x) y = Neg (x)", ["invalid graph"]),
        ("y = Conv (x)", ["Conv"]),
        ("y = Transpose <perm = 1.5> (x)", ["Transpose"]),
        ("y = Relu <nonsense = 3> (x)", ["Relu"]),
        (
            "k = Cast <to = 9> (x) y = If (k) <then_branch = t () => (float a) {a = Neg (gone)},"
            " else_branch = e () => (float b) {b = Neg (x)}>",
            ["'gone'"],
        ),
    ],
)
def test_invalid_graphs(body: str, words: list[str]) -> None:
    refused(proto(body), *words)


def test_no_nodes() -> None:
    model = proto()
    del model.graph.node[:]
    refused(model, "no graph with nodes")
    refused(onnx.ModelProto(), "no graph with nodes")


def test_functions_that_call_each_other() -> None:
    model = proto("y = own.A (x)", extra=', "own" : 1')
    for name, other in (("A", "B"), ("B", "A")):
        text = f'<opset_import: ["" : 18, "own" : 1], domain: "own"> {name} (a) => (c)'
        model.functions.append(onnx.parser.parse_function(text + f" {{ c = own.{other} (a) }}"))
    refused(model, "functions cannot be inlined")
