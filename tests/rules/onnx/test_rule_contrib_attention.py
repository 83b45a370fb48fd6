from __future__ import annotations

import pytest
from fused import attributes, found, model, reasons, shortened, weight

HEADS, SIZE = 3, 4
WIDTH = HEADS * SIZE


def packed(
    attrs: str = "", extra: str = "", inputs: str = "", outputs: str = "h", columns=3 * WIDTH
):
    """com.microsoft Attention with its own projection, and a projection back."""
    rows = columns - 2 * WIDTH
    body = f"""
        [att] {outputs} = com.microsoft.Attention <num_heads={HEADS}{attrs}> (x, w, b{extra})
        y = MatMul (h, wo)
    """
    weights = {"w": (5, columns), "b": (columns,), "wo": (rows, 2)}
    more = ", float[2, N, 3, T, 4] present" if "present" in outputs else ""
    return model(body, weights, f"float[N, S, 5] x{inputs}", f"float[N, S, 2] y{more}")


def test_heads_of_a_packed_projection():
    proto = packed()
    assert found(proto) == [("head", HEADS)]
    pruned = shortened(proto)
    assert weight(pruned, "Attention", 1).shape == (5, 3 * (WIDTH - SIZE))
    assert weight(pruned, "Attention", 2).shape == (3 * (WIDTH - SIZE),)
    assert attributes(pruned, "Attention") == {"num_heads": HEADS - 1}


def test_dims_of_a_packed_projection_make_its_sizes_explicit():
    proto = packed()
    assert found(proto, blocks=False) == [("head-dim", WIDTH)] * 2
    pruned = shortened(proto, blocks=False)
    kept = attributes(pruned, "Attention")
    assert kept["scale"] == pytest.approx(SIZE**-0.5)
    # q, k and v lost one dim of each head: thirds again, which need no sizes.
    assert "qkv_hidden_sizes" not in kept
    wide = packed(f", qkv_hidden_sizes=[{WIDTH}, {WIDTH}, {2 * WIDTH}]", columns=4 * WIDTH)
    assert sorted(found(wide, blocks=False)) == [("head-dim", WIDTH), ("head-dim", 2 * WIDTH)]
    sizes = attributes(shortened(wide, blocks=False), "Attention")["qkv_hidden_sizes"]
    assert list(sizes) == [WIDTH - HEADS, WIDTH - HEADS, 2 * WIDTH - HEADS]


def test_uneven_thirds_get_sizes():
    proto = packed()
    from workbench import Bench, removal

    bench = Bench(proto)
    graph = bench.analyse(blocks=False)
    group = graph.groups[0]
    counts = {group.name: [c.size - 1 for c in group.cells]}
    pruned = bench.pruned(bench.plan(graph, removal(graph, counts)))
    sizes = attributes(pruned, "Attention")["qkv_hidden_sizes"]
    assert sorted(sizes) != [WIDTH] * 3
    assert sizes[0] == sizes[1]


def test_a_present_that_leaves_the_model_holds_all_of_it():
    proto = packed(outputs="h, present")
    assert found(proto) == []
    assert found(proto, blocks=False) == []
    assert "it is the model's output 'present'" in reasons(proto, "present")


def test_one_buffer_for_past_and_present_is_a_boundary():
    body = """
        h0 = MatMul (x, w0)
        [att] h, present = com.microsoft.Attention <num_heads=2, past_present_share_buffer=1>
            (h0, w, b, , past)
        y = MatMul (h, wo)
    """
    weights = {"w0": (5, 6), "w": (6, 24), "b": (24,), "wo": (8, 2)}
    proto = model(body, weights, "float[N, S, 5] x, float[2, N, 2, 9, 4] past", "float[N, S, 2] y")
    assert found(proto) == []
    assert reasons(proto, "att") == {"its past and present share one buffer of fixed size"}


def multi_head(operands: str, before: str, weights: dict[str, tuple[int, ...]], attrs: str = ""):
    body = f"""
        {before}
        [att] h = com.microsoft.MultiHeadAttention <num_heads={HEADS}{attrs}> ({operands})
        y = MatMul (h, wo)
    """
    inputs = "float[N, 6, 5] x"
    return model(body, weights | {"wo": (WIDTH, 2)}, inputs, "float[N, 6, 2] y")


def literal(proto, **shapes: list[int]):
    import numpy as np
    from onnx import numpy_helper

    for name, sizes in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(sizes), name))
    return proto


def test_queries_keys_and_values_in_one_tensor():
    """[batch, length, heads, 3, size]: whole heads, or the same number of dims of q, k and v."""
    before = "p = MatMul (x, w)\nqkv = Reshape (p, shape)"
    proto = literal(multi_head("qkv", before, {"w": (5, 3 * WIDTH)}), shape=[0, 0, HEADS, 3, SIZE])
    assert found(proto) == [("head", HEADS)]
    # Dims of Q and K are one unit, those of V another: bound to lose equally many of each.
    assert found(proto, blocks=False) == [("head-dim", 2 * WIDTH)]
    pruned = shortened(proto)
    assert attributes(pruned, "MultiHeadAttention")["num_heads"] == HEADS - 1
    assert weight(pruned, "Reshape", 1).tolist() == [0, 0, HEADS - 1, 3, SIZE]
    dims = shortened(proto, blocks=False)
    assert attributes(dims, "MultiHeadAttention")["scale"] == pytest.approx(SIZE**-0.5)


def test_keys_and_values_in_one_tensor():
    """[batch, length, heads, 2, size]."""
    before = "q = MatMul (x, wq)\np = MatMul (x, w)\nkv = Reshape (p, shape)"
    proto = literal(
        multi_head("q, kv", before, {"wq": (5, WIDTH), "w": (5, 2 * WIDTH)}),
        shape=[0, 0, HEADS, 2, SIZE],
    )
    assert found(proto) == [("head", HEADS)]
    assert found(proto, blocks=False) == [("head-dim", 2 * WIDTH)]


def test_scores_carry_the_heads():
    body = f"""
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        [att] h, pk, pv, s = com.microsoft.MultiHeadAttention <num_heads={HEADS}> (q, k, v)
        y = MatMul (h, wo)
    """
    weights = dict.fromkeys(("wq", "wk", "wv"), (5, WIDTH)) | {"wo": (WIDTH, 2)}
    free = model(body, weights, "float[N, S, 5] x", "float[N, S, 2] y")
    assert found(free) == [("head", HEADS)]
    held = model(body, weights, "float[N, S, 5] x", "float[N, S, 2] y, float[N, 3, S, S] s")
    assert found(held) == []
    assert "it is the model's output 's'" in reasons(held, "s")


def test_a_bias_lists_q_k_and_v():
    before = "q = MatMul (x, wq)\nk = MatMul (x, wk)\nv = MatMul (x, wv)"
    weights = dict.fromkeys(("wq", "wk", "wv"), (5, WIDTH)) | {"b": (3 * WIDTH,)}
    pruned = shortened(multi_head("q, k, v, b", before, weights))
    assert weight(pruned, "MultiHeadAttention", 3).shape == (3 * (WIDTH - SIZE),)


def grouped(size: int, extra: str = "", more: dict | None = None, attrs: str = ""):
    body = f"""
        q = MatMul (x, wq)
        k = MatMul (x, wk)
        v = MatMul (x, wv)
        [att] h = com.microsoft.GroupQueryAttention <num_heads=4, kv_num_heads=2{attrs}>
            (q, k, v, , , lengths, total{extra})
        y = MatMul (h, wo)
    """
    weights = {"wq": (5, 4 * size), "wk": (5, 2 * size), "wv": (5, 2 * size), "wo": (4 * size, 2)}
    inputs = "float[N, S, 5] x, int32[N] lengths, int32 total"
    return model(body, weights | (more or {}), inputs, "float[N, S, 2] y")


def test_heads_leave_by_groups_of_queries():
    proto = grouped(16)
    assert found(proto) == [("head", 2)]
    kept = attributes(shortened(proto), "GroupQueryAttention")
    assert (kept["num_heads"], kept["kv_num_heads"]) == (2, 1)
    assert "scale" not in kept


def test_dims_leave_in_runs_that_the_kernel_takes():
    proto = grouped(24)
    # Three runs of eight in each of two heads, of Q and K, and of V: as many of both.
    assert found(proto, blocks=False) == [("head-dim", 2 * 2 * 3)]
    pruned = shortened(proto, blocks=False)
    kept = attributes(pruned, "GroupQueryAttention")
    assert kept["scale"] == pytest.approx(24**-0.5)
    matrix = next(iter(pruned.graph)).inputs[1].const_value.numpy()
    assert matrix.shape == (5, 4 * 16)


def test_a_head_size_that_is_no_multiple_stays():
    proto = grouped(12)
    assert found(proto, blocks=False) == []
    assert reasons(proto, "att", blocks=False) == {"its head size has to be a multiple of 8"}


def test_quantised_caches_are_a_boundary():
    proto = grouped(
        16,
        extra=", , , , , , ks, vs",
        more={"ks": (1,), "vs": (1,)},
        attrs=', k_quant_type="PER_TENSOR"',
    )
    assert found(proto) == []
    assert reasons(proto, "att") == {"its caches are quantised"}


def test_a_sink_is_one_score_for_each_query_head():
    proto = grouped(16, extra=", , , , , sink", more={"sink": (4,)})
    pruned = shortened(proto)
    assert weight(pruned, "GroupQueryAttention", 11).shape == (2,)
