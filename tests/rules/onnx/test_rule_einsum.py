from __future__ import annotations

import pytest
from fused import found, model, reasons, shortened, weight

from graphprune.rules.shared.einsum import creating


@pytest.mark.parametrize(
    ("terms", "output", "expected"),
    [
        (["bsi", "io"], "bso", [["b", "s"], ["o"], ["i"]]),
        (["bsi", "ihd"], "bshd", [["b", "s"], ["h", "d"], ["i"]]),
        (["hbi", "hij"], "hbj", [["h", "b"], ["h", "j"], ["h"], ["i"]]),
        (["bi", "ir", "ro"], "bo", [["b"], ["o"], ["i"], ["r"]]),
    ],
)
def test_letters_that_one_operand_brings_belong_together(terms, output, expected):
    assert creating(terms, output) == expected


def projection(equation: str, shape: tuple[int, ...], tail: str, weights: dict) -> object:
    body = f'h = Einsum <equation="{equation}"> (x, w)\n{tail}'
    return model(body, {"w": shape, **weights}, "float[N, 4, 5] x", "float[N, 4, 3] y")


def test_heads_of_a_weight_leave_whole_or_by_dims():
    tail = """
        s = Einsum <equation="bshd,bthd->bhst"> (h, h)
        p = Softmax <axis=-1> (s)
        o = Einsum <equation="bhst,bthd->bshd"> (p, h)
        y = Einsum <equation="bshd,hdm->bsm"> (o, v)
    """
    proto = projection("bsi,ihd->bshd", (5, 3, 4), tail, {"v": (3, 4, 3)})
    assert [size for _, size in found(proto)] == [3]
    assert [size for _, size in found(proto, blocks=False)] == [12]
    pruned = shortened(proto)
    first = next(iter(pruned.graph))
    assert first.inputs[1].const_value.numpy().shape == (5, 2, 4)


def test_a_diagonal_stays():
    body = """
        [dense] h = MatMul (x, w)
        [trace] y = Einsum <equation="bii->b"> (h)
    """
    proto = model(body, {"w": (5, 4)}, "float[N, 4, 5] x", "float[N] y")
    assert found(proto) == []
    assert reasons(proto, "trace") == {"a diagonal is taken of it"}


def test_an_equation_stays_as_it_is():
    tail = "y = MatMul (h, v)"
    proto = projection("bsi,io->bso", (5, 7), tail, {"v": (7, 3)})
    pruned = shortened(proto)
    assert weight(pruned, "Einsum", 1).shape == (5, 6)
    assert weight(pruned, "MatMul", 1).shape == (6, 3)
