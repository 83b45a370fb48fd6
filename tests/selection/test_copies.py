"""Uses of one weight that keep different parts of it: what that stores, and when it is not done."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphprune

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(body: str, outputs: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g (float[N, 32] x) => ({outputs}) {{ {body} }}'
    )
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def prune(proto: onnx.ModelProto, **settings: Any) -> graphprune.Result:
    """Compiled, certified; the report counts what is stored."""
    settings = {"align": 1, "bench": False, "allow_slower": True, **settings}
    result = graphprune.compile(proto, **settings)
    stored = sum(v.const_value.size for v in result.model.graph.initializers.values())
    assert result.report.pruned.params == stored
    if result.report.groups:
        assert result.report.certificate["status"] == "exact"
    return result


def left_for_copies(result: graphprune.Result) -> list[int]:
    """Of each group that was left because of copies: the parameters it would have cost."""
    reasons = [u.reason.split() for u in result.report.unpruned if "shortened copies" in u.reason]
    return [int(words[words.index("take") + 1]) for words in reasons]


# `w` is the model's output in one place, and a layer before `v` in the other.
ONE_WHOLE = "k = MatMul (x, w) z = Identity (k) h = MatMul (x, w) r = Relu (h) y = MatMul (r, v)"
OUTPUTS = "float[N, 32] z, float[N, M] y"


def test_a_copy_beside_the_whole_weight_is_not_worth_it() -> None:
    proto = model(ONE_WHOLE, OUTPUTS, {"w": normal(32, 32), "v": normal(32, 4)})
    result = prune(proto, channels=0.5)
    assert not result.report.groups
    assert result.report.pruned.params == 32 * 32 + 32 * 4
    assert left_for_copies(result) == [32 * 16 - 16 * 4]


def test_a_copy_is_worth_what_it_frees_elsewhere() -> None:
    proto = model(ONE_WHOLE, OUTPUTS, {"w": normal(32, 32), "v": normal(32, 64)})
    result = prune(proto, channels=0.5)
    assert [len(g.kept) for g in result.report.groups] == [16]
    assert result.report.pruned.params == 32 * 32 + 32 * 16 + 16 * 64
    assert not left_for_copies(result)


@pytest.mark.parametrize("settings", [{"group_ratio": {"h": 0.5}}, {"macs": 0.8}])
def test_what_the_user_asks_for_is_done(settings: dict[str, Any]) -> None:
    proto = model(ONE_WHOLE, OUTPUTS, {"w": normal(32, 32), "v": normal(32, 4)})
    result = prune(proto, **settings)
    assert len(result.report.groups) == 1
    assert result.report.pruned.params > result.report.original.params
    assert not left_for_copies(result)


TWO_LAYERS = "h = MatMul (x, w) r = Relu (h) a = MatMul (r, v) k = MatMul (x, w) s = Relu (k) "
TWO_LAYERS += "b = MatMul (s, u) y = Add (a, b)"


def towers(equal: bool) -> onnx.ModelProto:
    v = normal(32, 8)
    weights = {"w": normal(32, 32), "v": v, "u": v[:, ::-1].copy() if equal else normal(32, 8)}
    return model(TWO_LAYERS, "float[N, 8] y", weights)


def test_uses_that_keep_the_same_share_one_copy() -> None:
    result = prune(towers(equal=True), channels=0.875)
    assert [len(g.kept) for g in result.report.groups] == [28, 28]
    assert result.report.pruned.params == 32 * 28 + 2 * 28 * 8


def test_uses_that_keep_different_channels_are_left_together() -> None:
    result = prune(towers(equal=False), channels=0.875)
    assert not result.report.groups
    more = 2 * 32 * 28 - 32 * 32 - 2 * 4 * 8
    assert left_for_copies(result) == [more, more]
    result = prune(towers(equal=False), channels=0.4)  # 0.8 of the weight in all
    assert len(result.report.groups) == 2
    assert result.report.pruned.params < result.report.original.params


def test_other_groups_are_pruned_all_the_same() -> None:
    body = f"{ONE_WHOLE} n = MatMul (x, p) o = Relu (n) q = MatMul (o, t)"
    weights = {"w": normal(32, 32), "v": normal(32, 4), "p": normal(32, 20), "t": normal(20, 3)}
    result = prune(model(body, f"{OUTPUTS}, float[N, 3] q", weights), channels=0.5)
    assert [len(g.kept) for g in result.report.groups] == [10]
    assert len(left_for_copies(result)) == 1
