"""MAC functions against values counted by hand (the arithmetic stands beside each case)."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphprune.rules.onnx._macs import MACS, einsum_macs


def macs_of(
    op: str,
    inputs: list[tuple[int, ...] | None],
    outputs: list[tuple[int, ...]],
    domain: str = "",
    **attributes: object,
) -> int:
    values = [None if s is None else ir.val(f"i{k}") for k, s in enumerate(inputs)]
    node = ir.node(op, values, attributes=attributes, domain=domain, num_outputs=len(outputs))
    for k, output in enumerate(node.outputs):
        output.name = f"o{k}"
    dims = {f"i{k}": s for k, s in enumerate(inputs) if s is not None}
    dims |= {f"o{k}": s for k, s in enumerate(outputs)}
    return MACS[domain, op](node, lambda value: dims[value.name])


MS = "com.microsoft"


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "expected"),
    [
        # 2 images x 8 channels x 6 x 6 positions, each over 4 channels x 3 x 3
        ("Conv", [(2, 4, 8, 8), (8, 4, 3, 3)], [(2, 8, 6, 6)], {}, 2 * 8 * 36 * 4 * 9),
        # the same with two groups: half of the input channels
        ("Conv", [(2, 4, 8, 8), (8, 2, 3, 3)], [(2, 8, 6, 6)], {"group": 2}, 2 * 8 * 36 * 2 * 9),
        # depthwise with multiplier 2
        ("Conv", [(1, 4, 8, 8), (8, 1, 5, 5)], [(1, 8, 4, 4)], {"group": 4}, 8 * 16 * 25),
        ("Conv", [(1, 3, 20), (7, 3, 4)], [(1, 7, 17)], {}, 7 * 17 * 3 * 4),
        ("Conv", [(1, 3, 5, 5, 5), (2, 3, 2, 2, 2)], [(1, 2, 4, 4, 4)], {}, 2 * 64 * 3 * 8),
        # a bias is no contraction
        ("Conv", [(1, 3, 4, 4), (5, 3, 1, 1), (5,)], [(1, 5, 4, 4)], {}, 5 * 16 * 3),
        # every one of 4 x 5 x 5 inputs is spread over 6 channels x 2 x 2
        ("ConvTranspose", [(1, 4, 5, 5), (4, 6, 2, 2)], [(1, 6, 10, 10)], {}, 100 * 6 * 4),
        ("ConvTranspose", [(1, 4, 5), (4, 3, 2)], [(1, 6, 10)], {"group": 2}, 20 * 3 * 2),
        ("QLinearConv", [(1, 3, 4, 4), (), (), (5, 3, 1, 1)], [(1, 5, 4, 4)], {}, 5 * 16 * 3),
        ("Gemm", [(5, 7), (7, 3)], [(5, 3)], {}, 5 * 7 * 3),
        ("Gemm", [(7, 5), (3, 7), (3,)], [(5, 3)], {"transA": 1, "transB": 1}, 5 * 7 * 3),
        ("MatMul", [(2, 3, 4, 5), (5, 6)], [(2, 3, 4, 6)], {}, 2 * 3 * 4 * 5 * 6),
        # batch axes broadcast against each other
        ("MatMul", [(2, 1, 4, 5), (3, 5, 6)], [(2, 3, 4, 6)], {}, 2 * 3 * 4 * 5 * 6),
        ("MatMul", [(9,), (9,)], [()], {}, 9),
        ("MatMul", [(4, 9), (9,)], [(4,)], {}, 36),
        ("MatMul", [(9,), (2, 9, 3)], [(2, 3)], {}, 2 * 9 * 3),
        # 7 steps x batch 2 x 4 gates x 5 units x (3 inputs + 5 units), two directions
        ("LSTM", [(7, 2, 3), (2, 20, 3), (2, 20, 5)], [(7, 2, 2, 5)], {}, 14 * 2 * 20 * 8),
        ("GRU", [(7, 2, 3), (1, 15, 3), (1, 15, 5)], [(7, 1, 2, 5)], {}, 14 * 15 * 8),
        ("RNN", [(7, 2, 3), (1, 5, 3), (1, 5, 5)], [(7, 1, 2, 5)], {}, 14 * 5 * 8),
        # 2 x 4 heads x 6 queries x 6 keys x (8 for Q.K + 8 for P.V)
        ("Attention", [(2, 4, 6, 8)] * 3, [(2, 4, 6, 8)], {}, 2 * 4 * 6 * 6 * 16),
        # the same, heads inside the last axis
        (
            "Attention",
            [(2, 6, 32)] * 3,
            [(2, 6, 32)],
            {"q_num_heads": 4, "kv_num_heads": 4},
            2 * 4 * 6 * 6 * 16,
        ),
        # 4 query heads share 2 key-value heads; values 10 wide; 3 past keys
        (
            "Attention",
            [(2, 6, 32), (2, 5, 16), (2, 5, 20), None, (2, 2, 3, 8), (2, 2, 3, 10)],
            [(2, 6, 40)],
            {"q_num_heads": 4, "kv_num_heads": 2},
            2 * 4 * 6 * (5 + 3) * (8 + 10),
        ),
    ],
)
def test_onnx_op(op, inputs, outputs, attributes, expected):
    assert macs_of(op, inputs, outputs, **attributes) == expected


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "attributes", "expected"),
    [
        ("FusedMatMul", [(2, 5, 4), (2, 5, 6)], [(2, 4, 6)], {"transA": 1}, 2 * 4 * 5 * 6),
        # transBatchA: [rows, batch, inner] stands for [batch, rows, inner]
        ("FusedMatMul", [(4, 2, 5), (2, 5, 6)], [(2, 4, 6)], {"transBatchA": 1}, 2 * 4 * 5 * 6),
        ("MatMulNBits", [(2, 3, 64), (16, 2, 16)], [(2, 3, 16)], {"N": 16, "K": 64}, 6 * 64 * 16),
        # projection 12 -> 3 x 8, then 5 queries x 5 keys x (8 + 8)
        (
            "Attention",
            [(2, 5, 12), (12, 24), (24,)],
            [(2, 5, 8)],
            {"num_heads": 2},
            2 * 5 * 12 * 24 + 2 * 5 * 5 * 16,
        ),
        # unequal sizes: q and k 4 wide, v 8; 3 past keys
        (
            "Attention",
            [(2, 5, 12), (12, 16), (16,), None, (2, 2, 2, 3, 2)],
            [(2, 5, 8)],
            {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 8]},
            2 * 5 * 12 * 16 + 2 * 5 * 8 * (4 + 8),
        ),
        (
            "MultiHeadAttention",
            [(2, 5, 8), (2, 7, 8), (2, 7, 12)],
            [(2, 5, 12)],
            {"num_heads": 2},
            2 * 5 * 7 * (8 + 12),
        ),
        (
            "MultiHeadAttention",
            [(2, 5, 8), (2, 2, 7, 4), (2, 2, 7, 4)],
            [(2, 5, 8)],
            {"num_heads": 2},
            2 * 5 * 7 * 16,
        ),
        (
            "MultiHeadAttention",
            [(2, 5, 2, 3, 4), None, None],
            [(2, 5, 8)],
            {"num_heads": 2},
            2 * 5 * 5 * 16,
        ),
        (
            "MultiHeadAttention",
            [(2, 5, 8), (2, 7, 2, 2, 4), None],
            [(2, 5, 8)],
            {"num_heads": 2},
            2 * 5 * 7 * 16,
        ),
        # 4 query heads of 8 over 2 key-value heads: the cost is the query heads'
        (
            "GroupQueryAttention",
            [(2, 5, 32), (2, 5, 16), (2, 5, 16), (2, 2, 3, 8), (2, 2, 3, 8)],
            [(2, 5, 32), (2, 2, 8, 8), (2, 2, 8, 8)],
            {"num_heads": 4, "kv_num_heads": 2},
            2 * 5 * 8 * 2 * 32,
        ),
        # the same, packed in one operand
        (
            "GroupQueryAttention",
            [(2, 5, 64), None, None, (2, 2, 3, 8), (2, 2, 3, 8)],
            [(2, 5, 32)],
            {"num_heads": 4, "kv_num_heads": 2},
            2 * 5 * 8 * 2 * 32,
        ),
    ],
)
def test_microsoft_op(op, inputs, outputs, attributes, expected):
    assert macs_of(op, inputs, outputs, domain=MS, **attributes) == expected


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], 24),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], 2 * 3 * 4 * 5 * 6),
        ("...ij,jk", [(7, 2, 3), (3, 4)], 7 * 24),
        ("...ij,...jk->...ik", [(5, 1, 2, 3), (6, 3, 4)], 5 * 6 * 24),
        # i is summed alone and before the product, which then has nothing to sum
        ("ij,k->jk", [(2, 3), (4,)], 0),
        # outer product, elementwise product, transpose, sum: no multiply-add
        ("i,j->ij", [(2,), (3,)], 0),
        ("ij,ij->ij", [(2, 3), (2, 3)], 0),
        ("ij->ji", [(2, 3)], 0),
        ("ij->i", [(2, 3)], 0),
        # left to right: (ij,jk) 2x3x4, then (ik,kl) 2x4x5
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 24 + 40),
    ],
)
def test_einsum(equation, shapes, expected):
    values = [ir.val(f"x{i}") for i in range(len(shapes))]
    node = ir.node("Einsum", values, attributes={"equation": equation})
    dims = {f"x{i}": s for i, s in enumerate(shapes)}
    assert einsum_macs(node, lambda v: dims[v.name]) == expected


def test_einsum_agrees_with_matmul_on_random_shapes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        b, m, k, n = (int(x) for x in rng.integers(1, 9, 4))
        matmul = macs_of("MatMul", [(b, m, k), (b, k, n)], [(b, m, n)])
        values = [ir.val("x"), ir.val("y")]
        node = ir.node("Einsum", values, attributes={"equation": "bmk,bkn->bmn"})
        dims = {"x": (b, m, k), "y": (b, k, n)}
        assert einsum_macs(node, lambda v, dims=dims: dims[v.name]) == matmul == b * m * k * n
