"""A compile reads what it is given and changes nothing of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from architectures import NETWORKS

import graphprune
from graphprune.errors import GraphpruneError
from graphprune.onnx.save import save
from models_zoo.builders import micrographs

SETTINGS = {"channels": 0.5, "align": 1, "bench": False, "dims": {}}


def build(name: str) -> onnx.ModelProto:
    return NETWORKS[name]() if name in NETWORKS else micrographs.build(name)


def state(model: ir.Model) -> tuple[bytes, list[tuple[str | None, ...]], list[int]]:
    """All that can be seen of a model: its bytes, names, and which tensors it holds."""
    names = [
        (node.name, *(v.name for v in node.outputs), *(v.name if v else None for v in node.inputs))
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
    ]
    tensors = [id(v.const_value) for v in model.graph.initializers.values()]
    return ir.to_proto(model).SerializeToString(deterministic=True), names, tensors


@pytest.mark.parametrize("name", [*NETWORKS, *micrographs.NAMES])
def test_models_in_memory(name: str) -> None:
    proto = build(name)
    before = proto.SerializeToString(deterministic=True)
    model = ir.from_proto(build(name))
    seen = state(model)
    settings = SETTINGS | {"dims": {"time": 9} if name == "encoder" else {}, "verify": False}
    results = [graphprune.compile(source, **settings) for source in (proto, model)]
    assert all(r.plan.tensors for r in results)
    [
        r.model.graph.initializers[n].const_value.numpy()
        for r in results
        for n in r.model.graph.initializers
    ]
    assert proto.SerializeToString(deterministic=True) == before
    assert state(model) == seen
    assert "graphprune.version" not in model.metadata_props


def test_the_result_can_be_changed_without_the_source() -> None:
    model = ir.from_proto(build("resnet"))
    seen = state(model)
    result = graphprune.compile(model, **SETTINGS)
    for node in list(result.model.graph):
        node.name = "changed"
        for value in node.outputs:
            value.shape = None
    result.model.metadata_props["mine"] = "1"
    assert state(model) == seen


@pytest.mark.parametrize("external", [False, True])
def test_files(external: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        build("resnet"), path, save_as_external_data=external, location="weights", size_threshold=0
    )

    def digests() -> dict[str, tuple[str, int]]:
        return {
            f.name: (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns)
            for f in tmp_path.iterdir()
            if f.is_file()
        }

    before = digests()
    assert len(before) == 1 + external
    result = graphprune.compile(path, **SETTINGS)
    assert digests() == before
    out = tmp_path / "out"
    out.mkdir()
    save(result.model, out / "pruned.onnx")
    again = graphprune.compile(path, **SETTINGS)
    assert again.plan.sha256 == result.plan.sha256
    assert {k: v for k, v in digests().items() if k in before} == before


@pytest.mark.parametrize("settings", [{"params": 0.0001}, {"channels": 1.0}, {"criterion": "no"}])
def test_after_an_error_too(settings: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build("resnet"), path)
    model = ir.from_proto(build("resnet"))
    seen = state(model)
    budget = {} if "criterion" not in settings else {"channels": 0.5}
    for source in (path, model):
        with pytest.raises(GraphpruneError):
            graphprune.compile(source, bench=False, **budget, **settings)
    assert state(model) == seen
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_shipped_model_is_read_only() -> None:
    from graphprune import zoo

    for name in zoo.names():
        path = Path(zoo.get(name).path)
        before = path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())
        model = ir.load(path)
        seen = state(model)
        settings = {"channels": 0.5, "bench": False, "verify": False}
        plans = [graphprune.compile(s, **settings).plan for s in (f"zoo:{name}", model)]
        assert [len(p.groups) > 0 for p in plans] == [True, True]
        assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(path.parent.iterdir())) == before
        assert state(model) == seen
