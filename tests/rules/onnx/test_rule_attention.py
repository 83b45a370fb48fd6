from __future__ import annotations

import numpy as np
import pytest
from fused import attributes, found, model, node, reasons, shortened, weight

HEADS, KV, SIZE = 4, 2, 6


def attention(attrs: str = "", extra: str = "", inputs: str = "", kv: int = KV, opset: int = 23):
    """Three projections, Attention on merged heads, a projection back."""
    body = f"""
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        [att] h = Attention <q_num_heads={HEADS}, kv_num_heads={kv}{attrs}> (q, k, v{extra})
        y = MatMul (h, wo)
    """
    weights = {
        "wq": (5, HEADS * SIZE),
        "wk": (5, kv * SIZE),
        "wv": (5, kv * SIZE),
        "wo": (HEADS * SIZE, 3),
    }
    return model(body, weights, f"float[N, S, 5] x{inputs}", opset=opset)


@pytest.mark.parametrize("opset", [23, 24])
def test_query_heads_of_a_group_leave_together(opset):
    proto = attention(opset=opset)
    assert found(proto) == [("head", KV)]
    pruned = shortened(proto)
    kept = attributes(pruned, "Attention")
    assert (kept["q_num_heads"], kept["kv_num_heads"]) == (HEADS // KV, 1)
    assert "scale" not in kept, "heads keep their size, and with it the default scale"


def test_dims_leave_equally_of_every_kv_head():
    proto = attention()
    # Dims of Q and K, dims of V: each kv head for itself.
    assert found(proto, blocks=False) == [("head-dim", KV * SIZE)] * 2
    pruned = shortened(proto, blocks=False, leave=2)
    kept = attributes(pruned, "Attention")
    assert (kept["q_num_heads"], kept["kv_num_heads"]) == (HEADS, KV)
    assert kept["scale"] == pytest.approx(SIZE**-0.5), "the default scale is made explicit"


def test_a_given_scale_stays():
    pruned = shortened(attention(", scale=0.25"), blocks=False)
    assert attributes(pruned, "Attention")["scale"] == 0.25


@pytest.mark.parametrize("operand", ["past", "mask"])
def test_what_the_caller_gives_holds_the_heads(operand):
    if operand == "past":
        given = f", float[N, {KV}, P, {SIZE}] pk, float[N, {KV}, P, {SIZE}] pv"
        proto = attention(extra=", , pk, pv", inputs=given)
    else:
        proto = attention(extra=", m", inputs=f", float[N, {HEADS}, S, S] m")
    assert found(proto) == []
    assert "it meets something of fixed size" in reasons(proto, "att")


def test_queries_of_a_causal_attention_stay():
    body = """
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        [att] h = Attention <q_num_heads=2, kv_num_heads=2, is_causal=1> (q, k, v)
        s = ReduceSum <keepdims=0> (h, axes)
        y = MatMul (s, wo)
    """
    weights = {"q": (1, 7, 8), "wk": (5, 8), "wv": (5, 8), "wo": (8, 3)}
    causal = model(body, weights, "float[1, S, 5] x", "float[1, 3] y")
    from onnx import numpy_helper

    causal.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    assert found(causal) == [("head", 2)]
    free = type(causal)()
    free.CopyFrom(causal)
    for item in free.graph.node:
        if item.op_type == "Attention":
            item.attribute.remove(next(a for a in item.attribute if a.name == "is_causal"))
    # Learned queries, summed: without a mask that counts positions each of them can leave.
    assert sorted(n for _, n in found(free)) == [2, 7]


def rotary(attrs: str = "", turned: int = SIZE, inputs: str = "", table: bool = True):
    """One projection, turned and multiplied with itself."""
    body = f"""
        q = MatMul (x, wq)
        [rot] r = RotaryEmbedding <num_heads={HEADS}{attrs}> (q, cos, sin, at)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        h = Attention <q_num_heads={HEADS}, kv_num_heads={HEADS}> (r, k, v)
        y = MatMul (h, wo)
    """
    weights = dict.fromkeys(("wq", "wk", "wv"), (5, HEADS * SIZE)) | {"wo": (HEADS * SIZE, 3)}
    given = f", float[9, {turned // 2}] cos, float[9, {turned // 2}] sin"
    if table:
        weights |= {"cos": (9, turned // 2), "sin": (9, turned // 2)}
        given = ""
    return model(body, weights, f"float[N, S, 5] x, int64[N, S] at{given}")


def test_whole_heads_leave_a_rotary_table_as_it_is():
    proto = rotary()
    assert found(proto) == [("head", HEADS)]
    pruned = shortened(proto)
    assert attributes(pruned, "RotaryEmbedding")["num_heads"] == HEADS - 1
    assert weight(pruned, "RotaryEmbedding", 1).shape == (9, SIZE // 2)


@pytest.mark.parametrize("interleaved", [0, 1])
def test_pairs_of_dims_leave_with_their_column_of_the_table(interleaved):
    proto = rotary(f", interleaved={interleaved}")
    sizes = sorted(n for _, n in found(proto, blocks=False))
    assert sizes == [SIZE // 2, HEADS * SIZE], "one set of pairs for all heads"
    pruned = shortened(proto, blocks=False)
    assert weight(pruned, "RotaryEmbedding", 1).shape == (9, SIZE // 2 - 1)
    before = next(i for i in proto.graph.initializer if i.name == "wq")
    from onnx import numpy_helper

    whole = numpy_helper.to_array(before)
    cut = node(pruned, "RotaryEmbedding").inputs[0].producer().inputs[1].const_value.numpy()
    kept = [int(np.flatnonzero((c == whole.T).all(axis=1))[0]) for c in cut.T]
    first = [i for i in kept if i < SIZE]
    assert kept == [h * SIZE + i for h in range(HEADS) for i in first]
    pairs = {(i // 2 if interleaved else i % (SIZE // 2)) for i in first}
    assert len(first) == 2 * len(pairs)


def test_a_partly_turned_head_loses_equally_of_both_parts():
    proto = rotary(", rotary_embedding_dim=4", turned=4)
    # Two pairs that all heads share, two more dims of each head; the dims of V.
    sizes = sorted(n for _, n in found(proto, blocks=False))
    assert sizes == [2 + HEADS * 2, HEADS * SIZE]
    pruned = shortened(proto, blocks=False)
    assert attributes(pruned, "RotaryEmbedding")["rotary_embedding_dim"] == 2


def test_tables_that_the_caller_gives_hold_the_dims():
    proto = rotary(table=False)
    assert found(proto) == [("head", HEADS)]
    assert [n for _, n in found(proto, blocks=False)] == [HEADS * SIZE]
    assert reasons(proto, "rot", blocks=False) == {"it meets something of fixed size"}
