"""Tables, heads and logits are found by the graph, not by names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from workbench import drawn, from_text

pytest.importorskip("tokenizers")

from vocabulary_cases import BODY, HEAD, encoder

from graphprune.errors import UnsupportedModelError, UsageError
from graphprune.onnx.load import load
from graphprune.vocabulary.find import find_vocabulary

ROWS = 200


def find(proto, tokens: int = ROWS):
    model = load(proto).model
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return find_vocabulary(model, tokens)


def test_a_tied_head():
    use = find(encoder(ROWS))
    assert (use.rows, use.inputs, use.tables) == (ROWS, ("ids",), ("table",))
    assert use.axes == {"table": 0, "bias": 0}
    assert use.outputs == ("y",)
    assert set(use.values) == {"raw", "y"}
    assert len(use.constants) == 1


def test_an_encoder():
    use = find(encoder(ROWS, ""))
    assert (use.axes, use.outputs, use.values) == ({"table": 0}, (), ())


def test_a_head_of_its_own():
    use = find(encoder(ROWS, "y = MatMul(h, own)", own=drawn(12, ROWS)))
    assert use.axes == {"table": 0, "own": 1}
    assert (use.outputs, use.notes) == (("y",), ())


def test_a_head_that_is_not_followed_is_noted():
    head = "f = Reshape(h, flat) g = Gemm<transB=1>(f, own, bias) y = Reshape(g, back)"
    more = {
        "own": drawn(ROWS, 12),
        "flat": np.array([-1, 12], np.int64),
        "back": np.array([2, -1, ROWS], np.int64),
    }
    use = find(encoder(ROWS, head, **more))
    assert use.axes == {"table": 0}
    assert "output 'y' still has 200 numbers a place" in use.notes[0]


def test_a_layer_as_wide_as_the_vocabulary_is_left():
    head = "a = MatMul(h, up) b = Relu(a) y = MatMul(b, down)"
    use = find(encoder(ROWS, head, up=drawn(12, ROWS), down=drawn(ROWS, ROWS)))
    assert use.axes == {"table": 0, "down": 1}


@pytest.mark.parametrize(
    ("tail", "note"),
    [
        ("z = Softmax(raw) y = Mul(z, bias)", "normalises over the tokens that are kept"),
        ("y = Add(raw, bias) best = ArgMax<axis=-1>(y)", "gives token ids of the new tokenizer"),
    ],
)
def test_what_is_not_as_before_is_noted(tail, note):
    use = find(encoder(ROWS, HEAD.replace("y = Add(raw, bias)", tail)))
    assert note in use.notes[0]


@pytest.mark.parametrize(
    "tail",
    [
        "y = LayerNormalization(raw, bias)",
        "y = CumSum(raw, last)",
        "m = ReduceSum(raw) z = Add(raw, bias) y = Add(z, m)",
        "z = MatMul(raw, table) y = MatMul(z, turned)",
    ],
)
def test_what_mixes_tokens_is_refused(tail):
    head = HEAD.replace("y = Add(raw, bias)", tail)
    more = {"last": np.array(2, np.int64)} if "last" in tail else {}
    with pytest.raises(UnsupportedModelError, match="mixes tokens"):
        find(encoder(ROWS, head, **more, bias=drawn(ROWS)))


@pytest.mark.parametrize("line", ["n = Add(ids, pad)", "n = Identity(ids) m = Neg(n)"])
def test_arithmetic_of_ids_is_refused(line):
    with pytest.raises(UnsupportedModelError, match="computes with token ids"):
        find(encoder(ROWS, f"{line} {HEAD}"))


def test_ids_that_come_back_are_noted():
    proto = encoder(ROWS, f"same = Identity(ids) {HEAD}")
    proto.graph.output.append(onnx.helper.make_tensor_value_info("same", 7, ["N", "T"]))
    use = find(proto)
    assert use.echoes == ("same",)
    assert "gives the token ids back" in use.notes[0]


def test_ids_through_views_and_their_largest():
    """CLIP takes the place of the largest id."""
    body = BODY.replace("Gather(table, ids)", "Gather(table, long)")
    body = f"short = Identity(ids) long = Cast<to=7>(short) end = ArgMax<axis=1>(ids) {body}"
    weights = {
        "table": drawn(ROWS, 12),
        "types": drawn(2, 12),
        "w": drawn(12, 12),
        "pad": np.array(0, np.int64),
    }
    inputs = "int64[N, T] ids, int64[N, T] kinds"
    use = find(from_text(body, weights, inputs=inputs, outputs="float[N, T, 12] h"))
    assert use.axes == {"table": 0}


@pytest.mark.parametrize("tokens", [100, 201, 30522])
def test_a_tokenizer_that_does_not_fit(tokens):
    with pytest.raises(UsageError, match=r"'table' 200.*is it the tokenizer of this model\?"):
        find(encoder(ROWS), tokens)


def test_a_few_spare_rows_are_fine():
    assert find(encoder(ROWS), ROWS - 8).rows == ROWS


def test_a_model_without_ids():
    with pytest.raises(UsageError, match="there is no such table"):
        find(from_text("y = Relu(x)", {}))
