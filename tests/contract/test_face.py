"""What the world sees of a model stays: inputs, outputs, versions, metadata, names, order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS

import graphprune
from graphprune.onnx.save import save
from models_zoo.builders import micrographs

#: What canonicalisation writes in another way, always in place of these (docs/design.md).
REPLACED = {
    "tied_embedding": set(),
    "lstm_linear": {"Shape", "Slice", "Concat", "ConstantOfShape"},  # a zero state nobody needs
    "channel_shuffle": {"Reshape", "Transpose"},  # one Gather does the same
    "shufflenet": {"Reshape", "Transpose"},
}


def dressed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With everything a real file may carry around."""
    model.producer_name, model.producer_version, model.domain = "maker", "2.1", "org.example"
    model.model_version, model.doc_string = 42, "a text\nof two lines"
    for key, value in (("author", "somebody"), ("stride", "32"), ("names", "{0: 'cat'}")):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    model.graph.doc_string = "of the graph"
    for node in model.graph.node:
        node.doc_string = f"about {node.name}"
    opset = model.opset_import.add()
    opset.domain, opset.version = "com.microsoft", 1
    return model


@pytest.fixture(params=[*NETWORKS, *micrographs.NAMES])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[str, onnx.ModelProto, onnx.ModelProto]:
    """(name, original, what was written)."""
    name = request.param
    build = NETWORKS.get(name) or (lambda: micrographs.build(name))
    original = dressed(build())
    dims = {"time": 9} if name == "encoder" else {}
    result = graphprune.compile(original, channels=0.5, align=1, bench=False, dims=dims)
    save(result.model, tmp_path / "out.onnx")
    return name, original, onnx.load(tmp_path / "out.onnx")


def test_the_face_is_the_same(pair: tuple[str, onnx.ModelProto, onnx.ModelProto]) -> None:
    name, old, new = pair
    onnx.checker.check_model(new, full_check=True)
    assert list(new.graph.input) == list(old.graph.input)
    assert list(new.graph.output) == list(old.graph.output)
    assert new.graph.name == old.graph.name
    assert new.graph.doc_string == old.graph.doc_string
    assert new.ir_version == old.ir_version
    assert list(new.opset_import) == list(old.opset_import)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(new, field) == getattr(old, field), field
    before = {p.key: p.value for p in old.metadata_props}
    after = {p.key: p.value for p in new.metadata_props}
    own = {k for k in after if k.startswith("graphprune.")}
    assert {k: v for k, v in after.items() if k not in own} == before
    assert own == {f"graphprune.{k}" for k in ("version", "plan_sha256", "source_sha256")}

    known = {n.name: n for n in old.graph.node}
    kept = [n for n in new.graph.node if n.name in known]
    assert [n.name for n in kept] == [n for n in known if n in {k.name for k in kept}]
    missing = [n for n in old.graph.node if n.name not in {k.name for k in kept}]
    allowed = REPLACED.get(name, set())
    assert {n.op_type for n in missing} <= allowed, [n.name for n in missing]
    for node in kept:
        was = known[node.name]
        assert list(node.output) == list(was.output)
        if node.op_type == "Gather" and was.op_type == "Reshape":
            assert allowed, "a shuffle"
            continue
        assert node.op_type == was.op_type
        assert node.doc_string == was.doc_string
        assert len(node.input) == len(was.input) or node.op_type == "LSTM"
    for node in new.graph.node:
        assert node.name in known or "_kept" in node.name


def test_opset_and_types_of_old_files() -> None:
    """Opset 9 and an old IR version come out as they went in; integers stay integers."""
    model = micrographs.build("view_literal", opset=13)
    model.ir_version = 4
    result = graphprune.compile(model, channels=0.5, align=1, bench=False)
    proto = ir.to_proto(result.model)
    assert proto.ir_version == 4
    assert [o.version for o in proto.opset_import] == [13]
    types = {i.name: i.data_type for i in model.graph.initializer}
    for array in proto.graph.initializer:
        assert types.get(array.name, array.data_type) == array.data_type


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_other_precisions_stay(kind: str) -> None:
    number = onnx.TensorProto.DataType.Value(kind.upper())
    body = "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)"
    text = '<ir_version: 9, opset_import: ["" : 18]> '
    text += f"g ({kind}[N, 8] x) => ({kind}[N, 4] y) {{ {body} }}"
    proto = onnx.parser.parse_model(text)
    for name, shape in (("w", (8, 6)), ("v", (6, 4))):
        array = np.random.default_rng(len(name)).normal(0, 0.4, shape)
        tensor = onnx.helper.make_tensor(name, number, shape, array.reshape(-1).tolist())
        proto.graph.initializer.append(tensor)
    try:
        result = graphprune.compile(proto, channels=0.5, align=1, bench=False)
    except graphprune.errors.UnsupportedModelError:
        pytest.skip(f"onnxruntime has no {kind} kernels here")
    out = ir.to_proto(result.model)
    assert {i.data_type for i in out.graph.initializer} == {number}
    assert out.graph.input[0].type.tensor_type.elem_type == number
    assert out.graph.output[0].type.tensor_type.elem_type == number


def test_dynamic_dimensions_keep_their_names() -> None:
    model = NETWORKS["encoder"]()
    result = graphprune.compile(model, channels=0.5, align=1, bench=False, dims={"time": 9})
    proto = ir.to_proto(result.model)
    for old, new in zip(model.graph.input, proto.graph.input, strict=True):
        names = [
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (old, new)
        ]
        assert names[0] == names[1] == ["batch", "time"]
    assert proto.graph.output[0].type.tensor_type.shape.dim[1].dim_param == "time"
