"""Which values a changed model has in common with its original, and that they are not made again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from damage_nets import data, mlp

from graphprune.damage import judge as judging
from graphprune.damage import prefix
from graphprune.damage.judge import Judge
from graphprune.damage.prefix import unchanged
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session

FEEDS = [{"x": data(8, seed=i)} for i in range(3)]


@pytest.fixture
def model() -> ir.Model:
    return canonicalise(load(mlp()).model)


def halved(model: ir.Model, name: str) -> ir.Model:
    copy = model.clone()
    value = copy.graph.initializers[name]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(0.5), name=name)
    return copy


def made(model: ir.Model) -> list[str]:
    return [v.name for node in model.graph for v in node.outputs]


def test_a_clone_has_all_in_common(model: ir.Model) -> None:
    assert unchanged(model, model.clone()) == set(made(model))


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_what_stands_before_a_change_is_common(model: ir.Model, layer: int) -> None:
    other = halved(model, f"w{layer}")
    reader = next(n for n in model.graph if any(v.name == f"w{layer}" for v in n.inputs if v))
    before = made(model)[: made(model).index(reader.outputs[0].name)]
    assert unchanged(model, other) == set(before)


def test_other_attributes_and_inputs_are_changes(model: ir.Model) -> None:
    renamed, turned, set_ = model.clone(), model.clone(), model.clone()
    node = next(n for n in turned.graph if n.op_type == "Relu")
    node.op_type = "Tanh"
    node = next(n for n in set_.graph if n.op_type == "Softmax")
    node.attributes["axis"] = ir.AttrInt64("axis", 0)
    next(iter(renamed.graph)).outputs[0].name = "another"
    assert not unchanged(model, renamed)
    first = next(n.outputs[0].name for n in model.graph if n.op_type == "Relu")
    assert unchanged(model, turned) == set(made(model)[: made(model).index(first)])
    last = next(n.outputs[0].name for n in model.graph if n.op_type == "Softmax")
    assert last not in unchanged(model, set_)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_damage_is_what_a_whole_run_shows(model: ir.Model, layer: int) -> None:
    other = halved(model, f"w{layer}")
    whole = halved(canonicalise(load(mlp()).model), f"w{layer}")  # shares no tensor
    assert not unchanged(model, whole)
    found = Judge(model, FEEDS).damage(other)
    assert found > 1e-3
    assert found == pytest.approx(Judge(model, FEEDS).damage(whole), rel=1e-4)


def test_only_what_changed_is_run(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Counting(Session):
        def __init__(self, piece: ir.Model, **rest: object) -> None:
            sizes.append(len(list(piece.graph)))
            super().__init__(piece, **rest)  # type: ignore[arg-type]

    judge = Judge(model, FEEDS)
    monkeypatch.setattr(judging, "Session", Counting)
    monkeypatch.setattr(prefix, "Session", Counting)
    other = halved(model, "w3")
    assert judge.damage(other) == judge.damage(halved(model, "w3"))
    assert sum(sizes) < 2 * len(list(model.graph))
    assert len(sizes) == 3  # in front of the change once, behind it for each model


def test_too_many_activations_are_not_kept(
    model: ir.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = halved(model, "w3")
    kept = Judge(model, FEEDS).damage(other)
    monkeypatch.setattr(prefix, "MEMORY", 16)
    assert Judge(model, FEEDS).damage(other) == pytest.approx(kept, rel=1e-4)
