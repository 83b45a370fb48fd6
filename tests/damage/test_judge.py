"""What counts as damage, and in front of what it is measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from damage_nets import data, mlp
from workbench import drawn, from_text

from graphprune.damage.judge import Judge, surely_less
from graphprune.errors import UnsupportedModelError
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.onnx.saturation import before_saturation


def changed(model: ir.Model, **arrays: Any) -> ir.Model:
    copy = model.clone()
    for name, array in arrays.items():
        copy.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    return copy


def weight(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.fixture
def model() -> ir.Model:
    return canonicalise(load(mlp()).model)


FEEDS = [{"x": data(8, seed=i)} for i in range(4)]


def test_the_original_is_unharmed(model: ir.Model) -> None:
    assert Judge(model, FEEDS).damage(model) == 0


def test_damage_is_squared_error_over_variance(model: ir.Model) -> None:
    plain = canonicalise(load(mlp(softmax=False)).model)
    shift = 0.1 * drawn(5, seed=9)
    found = Judge(plain, FEEDS).damage(changed(plain, c3=weight(plain, "c3") + shift))
    with Session(plain) as session:
        y = np.concatenate([session.run(f)["y"] for f in FEEDS]).astype(np.float64)
    variance = ((y - y.mean(0)) ** 2).mean()
    assert found == pytest.approx((shift.astype(float) ** 2).mean() / variance, rel=1e-3)


def test_a_shift_that_softmax_does_not_show_is_seen(model: ir.Model) -> None:
    other = changed(model, c3=weight(model, "c3") + 1)
    assert Judge(model, FEEDS).damage(other) > 0.01


def test_confident_answers_hide_nothing(model: ir.Model) -> None:
    """Behind a Softmax of large logits nothing seems to happen."""
    sure = changed(model, w3=200 * weight(model, "w3"))
    worse = changed(sure, w3=20 * weight(model, "w3"))
    with Session(sure) as one, Session(worse) as two:
        shown = [np.abs(one.run(f)["y"] - two.run(f)["y"]) for f in FEEDS]
    assert np.median(shown) < 1e-3
    assert Judge(sure, FEEDS).damage(worse) > 0.5


def test_an_offset_of_all_outputs_is_no_signal() -> None:
    """The scale is the spread of the outputs: far from zero they are not judged more gently."""
    near = canonicalise(load(mlp(softmax=False)).model)
    far = changed(near, c3=weight(near, "c3") + 100)
    found = [Judge(m, FEEDS).damage(changed(m, w3=0.9 * weight(m, "w3"))) for m in (near, far)]
    assert found[0] > 1e-3
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_what_is_no_number_is_infinite_damage(model: ir.Model) -> None:
    assert Judge(model, FEEDS).damage(changed(model, c3=np.full(5, np.nan))) == math.inf
    assert Judge(model, FEEDS).damage(changed(model, c1=np.full(24, np.inf))) == math.inf


def test_places_that_are_infinite_in_the_original_say_nothing() -> None:
    mask = np.array([0, -np.inf, 0, 0], np.float32)
    proto = from_text("h = MatMul (x, w) y = Add (h, m)", {"w": drawn(8, 4), "m": mask})
    model = canonicalise(load(proto).model)
    judge = Judge(model, FEEDS)
    assert judge.damage(model) == 0
    assert 0.1 < judge.damage(changed(model, w=0.5 * drawn(8, 4))) < 1


def test_several_outputs_count_alike_whatever_their_size() -> None:
    proto = from_text(
        "y = MatMul (x, w) z = MatMul (x, v)",
        {"w": drawn(8, 4), "v": 1000 * drawn(8, 2, seed=1)},
        outputs="float[N, 4] y, float[N, 2] z",
    )
    model = canonicalise(load(proto).model)
    judge = Judge(model, FEEDS)
    first = judge.damage(changed(model, w=0.5 * drawn(8, 4)))
    second = judge.damage(changed(model, v=500 * drawn(8, 2, seed=1)))
    assert first == pytest.approx(second, rel=0.35)
    assert 0.1 < first < 0.2  # 0.25 of one output, mean over two, and means are signal too


def test_a_constant_output_does_not_divide_by_zero() -> None:
    proto = from_text(
        "h = MatMul (x, w) s = Sub (h, h) y = Add (s, b)", {"w": drawn(8, 4), "b": drawn(4)}
    )
    model = canonicalise(load(proto).model)
    found = Judge(model, FEEDS).damage(changed(model, b=drawn(4) + 1))
    assert 0 < found < math.inf


def test_the_model_that_is_judged_is_not_changed(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    Judge(model, FEEDS).damage(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_batches_whose_last_axis_is_not_as_long() -> None:
    """Texts of several lengths; twice the weights are an error as large as the output itself."""
    proto = from_text(
        "h = MatMul (x, w) t = Transpose <perm = [0, 2, 1]> (h) y = Relu (t)",
        {"w": drawn(8, 5)},
        inputs="float[N, T, 8] x",
        outputs="float[N, 5, T] y",
    )
    original = canonicalise(load(proto).model)
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(2, n, 8)).astype(np.float32)} for n in (3, 7, 5)]
    with Session(original) as session:
        outputs = np.concatenate([session.run(f)["y"].reshape(-1) for f in feeds])
    judge = Judge(original, feeds)
    assert judge.damage(original) == 0
    doubled = judge.damage(changed(original, w=2 * weight(original, "w")))
    assert doubled == pytest.approx((outputs**2).mean() / outputs.var(), rel=1e-4)


def test_a_model_that_lost_what_is_compared_is_refused_by_name(model: ir.Model) -> None:
    judge, other = Judge(model, FEEDS), model.clone()
    name = before_saturation(model.graph.outputs[0]).name
    value = next(v for node in other.graph for v in node.outputs if v.name == name)
    value.name = "another"
    with pytest.raises(UnsupportedModelError, match=f"'{name}', which is compared"):
        judge.damage(other)


def test_damage_of_each_batch(model: ir.Model) -> None:
    harmed = changed(model, w3=1.1 * weight(model, "w3"))
    whole = Judge(model, FEEDS)
    each = whole.each(harmed)
    assert each.shape == (len(FEEDS),)
    assert each.min() > 0
    assert each.mean() == pytest.approx(whole.damage(harmed))


def test_less_is_sure_from_two_standard_errors_on() -> None:
    random = np.random.default_rng(0)
    hard = random.uniform(1, 5, 16)  # some batches are hard for every model
    assert surely_less(hard, hard + 0.2 + 0.1 * random.normal(size=16))
    assert not surely_less(hard, hard + 0.02 + 0.5 * (-1.0) ** np.arange(16))
    assert not surely_less(hard, hard)
    assert surely_less(hard, np.full(16, np.inf))
    assert not surely_less(np.full(16, np.inf), hard)
    assert surely_less(np.array([1.0]), np.array([1.1]))
