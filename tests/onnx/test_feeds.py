from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.feeds import ATTEMPTS, has_free_scalars, random_feeds
from graphprune.onnx.shapes import infer_shapes


def model(signature: str, body: str = "y = Identity (x)", output: str = "float y") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 18]> g ({signature}) => ({output}) {{ {body} }}'
    return ir.from_proto(onnx.parser.parse_model(text))


def test_floats_are_standard_normal_and_reproducible() -> None:
    graph = model("float[N, 100] x, float16[N] h, double[3] d", "y = Identity (x)")
    feeds = random_feeds(graph, {"N": 50}, seed=1)
    assert feeds["x"].shape == (50, 100)
    assert abs(float(feeds["x"].mean())) < 0.1
    assert 0.9 < float(feeds["x"].std()) < 1.1
    assert (feeds["x"].dtype, feeds["h"].dtype, feeds["d"].dtype) == (
        np.float32,
        np.float16,
        np.float64,
    )
    again = random_feeds(graph, infer_shapes(graph, {"N": 50}), seed=1)
    assert all(np.array_equal(feeds[n], again[n]) for n in feeds)
    assert not np.array_equal(random_feeds(graph, {"N": 50}, seed=2)["x"], feeds["x"])


def test_positive_floats() -> None:
    x = random_feeds(model("float[N, 100] x"), {"N": 50}, 0, kind="positive")["x"]
    assert x.min() >= 0
    assert x.max() < 1


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather (t, x)",
        "a = Cast <to = 6> (x) b = Unsqueeze <axes = [0]> (a) y = Gather (t, b)",
        "k = Constant <value_ints = [-1]> () a = Reshape (x, k) y = Gather (t, a)",
        "a = Equal (x, x) b = Gather (t, x) y = Identity (b)",
        "y = Gather (u, x) z = Gather (t, x)",
    ],
)
def test_indices_stay_inside_the_smallest_table_they_reach(body: str) -> None:
    graph = model("int64[N, 200] x, float[90, 4] u, float[37, 4] t", body)
    x = random_feeds(graph, {"N": 5}, 0)["x"]
    assert x.min() >= 0
    assert 30 < x.max() < 37


def test_offsets_on_the_way_move_the_range() -> None:
    graph = model(
        "int64[N, 200] x, float[37, 4] t",
        "two = Constant <value_int = 2> () a = Add (x, two) y = Gather (t, a)",
    )
    x = random_feeds(graph, {"N": 5}, 0)["x"]
    assert x.min() + 2 >= 0
    assert 25 < x.max() + 2 < 37
    graph = model(
        "int64[N, 200] x, float[37, 4] t",
        "two = Constant <value_int = 2> () a = Sub (x, two) y = Gather (t, a)",
    )
    x = random_feeds(graph, {"N": 5}, 0)["x"]
    assert x.min() - 2 >= 0
    assert x.max() - 2 < 37


@pytest.mark.parametrize(
    ("name", "kind", "body"),
    [
        ("attention_mask", "int64", "a = Cast <to = 1> ({}) y = Mul (a, a)"),
        ("keep", "int64", "a = Cast <to = 1> ({}) y = Sub (a, a)"),
        ("keep", "int64", "y = Equal ({}, {})"),
        ("attention_mask", "float", "y = Mul ({}, {})"),
    ],
)
def test_masks_are_ones_with_some_zeros_at_the_end(name: str, kind: str, body: str) -> None:
    graph = model(f"{kind}[N, 40] {name}", body.replace("{}", name))
    mask = random_feeds(graph, {"N": 30}, 0)[name]
    assert set(np.unique(mask)) == {0, 1}
    assert mask[:, 0].all()
    assert mask[0].all()
    assert (np.diff(mask, axis=1) <= 0).all()


def test_a_float_activation_that_is_multiplied_is_no_mask() -> None:
    x = random_feeds(model("float[N, 40] x", "y = Mul (x, x)"), {"N": 30}, 0)["x"]
    assert len(np.unique(x)) > 1000


def test_positions_count_up_inside_their_table() -> None:
    graph = model("int64[N, 9] position_ids, float[6, 4] t", "y = Gather (t, position_ids)")
    ids = random_feeds(graph, {"N": 2}, 0)["position_ids"]
    assert ids.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2]] * 2


def test_booleans_are_mostly_true() -> None:
    x = random_feeds(model("bool[N, 100] x", "y = Not (x)"), {"N": 10}, 0)["x"]
    assert 0.8 < x.mean() < 1
    assert random_feeds(model("bool x", "y = Not (x)"), {}, 0)["x"].item() is True


def test_pixels_of_bytes() -> None:
    x = random_feeds(model("uint8[N, 8, 8, 3] x", "y = Cast <to = 1> (x)"), {"N": 2}, 0)["x"]
    assert x.dtype == np.uint8
    assert x.max() > 200
    x = random_feeds(model("int32[N, 8, 8, 3] x", "y = Cast <to = 1> (x)"), {"N": 2}, 0)["x"]
    assert x.max() > 200


def test_free_scalars_have_several_values_and_rates_start_plausibly() -> None:
    graph = model("float[2] x, int64 sr", "y = Identity (sr)")
    assert has_free_scalars(graph)
    values = [random_feeds(graph, {}, 0, attempt=i)["sr"].item() for i in range(ATTEMPTS)]
    assert values[0] == 16000
    assert len(set(values)) == ATTEMPTS
    assert not has_free_scalars(model("int64 x, float[5, 4] t", "y = Gather (t, x)"))


def test_only_what_has_no_initializer_is_fed() -> None:
    graph = model("float[2] x, float[2] w", "y = Add (x, w)")
    value = graph.graph.inputs[1]
    value.const_value = ir.tensor(np.ones(2, np.float32), name="w")
    graph.graph.initializers["w"] = value
    assert set(random_feeds(graph, {}, 0)) == {"x"}


def test_refusals() -> None:
    with pytest.raises(UnsupportedModelError, match="'x' takes strings"):
        random_feeds(model("string[N] x"), {"N": 2}, 0)
    with pytest.raises(UnsupportedModelError, match="'x' is no tensor"):
        random_feeds(model("seq(float[N]) x"), {"N": 2}, 0)
    with pytest.raises(UsageError, match="'N'"):
        random_feeds(model("float[N] x"), {}, 0)
    graph = model("float[N] x")
    graph.graph.inputs[0].shape = None
    with pytest.raises(UnsupportedModelError, match="no shape"):
        random_feeds(graph, {}, 0)
