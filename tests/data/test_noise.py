"""Random calibration inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from workbench import drawn, from_text

import graphprune
from graphprune.data.feeds import read_calibration
from graphprune.data.noise import inferred_range, is_random
from graphprune.errors import UsageError
from graphprune.onnx.load import load

WEIGHTS = {"w": drawn(8, 64), "v": drawn(64, 4)}
BODY = "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)"


def model(body: str = BODY, **more: np.ndarray) -> Any:
    return load(from_text(body, {**WEIGHTS, **more})).model


def all_of(found: Any, name: str = "x") -> np.ndarray:
    return np.concatenate([b.feeds[name] for b in (*found.fit, *found.choose, *found.judge)])


def test_they_are_the_same_for_the_same_seed() -> None:
    one, same, other = (read_calibration("random", model(), 64, seed=s) for s in (3, 3, 4))
    assert one.samples == 64
    assert one.random
    np.testing.assert_array_equal(all_of(one), all_of(same))
    assert not np.array_equal(all_of(one), all_of(other))
    assert abs(all_of(one).std() - 1) < 0.1
    (warning,) = one.warnings
    assert "random" in warning
    assert "\n" not in warning


def test_the_declared_range() -> None:
    values = all_of(read_calibration("random:-3:5", model(), 64))
    assert values.min() >= -3
    assert values.max() <= 5
    assert values.std() > 2
    assert not read_calibration(np.ones((16, 8), np.float32), model()).random


@pytest.mark.parametrize(
    ("first", "constant", "expected"),
    [
        ("Div (x, c)", 255.0, (0, 255)),
        ("Mul (x, c)", 1 / 255, (0, 255)),
        ("Sub (x, c)", 127.5, (0, 255)),
        ("Div (x, c)", 2.0, None),
        ("Div (c, x)", 255.0, None),
    ],
)
def test_the_inferred_range(first: str, constant: float, expected: Any) -> None:
    loaded = model(
        f"k = Identity (x) p = {first.replace('x', 'k')} h = MatMul (p, w) y = MatMul (h, v)",
        c=np.array(constant, np.float32),
    )
    found = inferred_range(loaded.graph.inputs[0])
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-6)


def test_token_ids_lie_in_their_table() -> None:
    loaded = load(
        from_text(
            "e = Gather (t, ids) y = MatMul (e, v)",
            {"t": drawn(11, 64), "v": WEIGHTS["v"]},
            inputs="int64[N, S] ids",
            outputs="float[N, S, 4] y",
        )
    ).model
    ids = all_of(read_calibration("random", loaded, 32), "ids")
    assert set(np.unique(ids)) == set(range(11))


@pytest.mark.parametrize("text", ["random:1:0", "random:a:b", "random:0:inf"])
def test_slips(text: str) -> None:
    with pytest.raises(UsageError, match="is not random:LOW:HIGH"):
        read_calibration(text, model())


def test_the_module_called_random_is_another_thing() -> None:
    assert is_random("random")
    assert not is_random("random:random")
    assert not is_random("randomly")


def test_nothing_is_chosen_by_them_and_the_user_is_told() -> None:
    proto = from_text(BODY, WEIGHTS)
    settings: dict[str, Any] = {"channels": 0.5, "bench": False}
    made = graphprune.compile(proto, calib="random", calib_samples=16, **settings)
    plain = graphprune.compile(proto, **settings)
    assert made.plan.dumps() == plain.plan.dumps()
    assert made.report.drift is None  # and nothing is fitted
    for name, value in plain.model.graph.initializers.items():
        same = made.model.graph.initializers[name].const_value
        np.testing.assert_array_equal(same.numpy(), value.const_value.numpy())
    assert any("random" in line for line in made.report.warnings)
    named = graphprune.compile(
        proto, calib="random", calib_samples=16, criterion="activation", **settings
    )
    assert named.plan.dumps() != plain.plan.dumps()
