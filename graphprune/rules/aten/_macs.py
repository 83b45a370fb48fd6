"""Multiply-accumulates of ATen ops, by the convention of `rules/onnx/_macs.py`.

A function takes the `Call` of a node and `dims`, which gives the shape of a node.
"""

from __future__ import annotations

from math import prod
from typing import Any

from graphprune.rules.shared.einsum import contraction_macs


def _of(call: Any, dims: Any, name: str) -> tuple[int, ...]:
    number = call.numbers[name]
    return tuple(dims(call.operands[number]))


def conv_macs(call: Any, dims: Any) -> int:
    """Output elements x input channels of a group x kernel."""
    if call.arguments.get("transposed"):
        return conv_transpose_macs(call, dims)
    return int(prod(dims(call.node)) * prod(_of(call, dims, "weight")[1:]))


def conv_transpose_macs(call: Any, dims: Any) -> int:
    """Input elements x output channels of a group x kernel."""
    return prod(_of(call, dims, "input")) * prod(_of(call, dims, "weight")[1:])


def matmul_macs(call: Any, dims: Any) -> int:
    """Output elements x length of the contracted axis."""
    first = {"addmm": "mat1", "baddbmm": "batch1", "addmv": "mat", "linear": "input"}
    name = first.get(call.op, "self")
    return int(prod(dims(call.node)) * _of(call, dims, name)[-1])


def attention_macs(call: Any, dims: Any) -> int:
    """Scores and weighted values of every query-key pair."""
    query, value = _of(call, dims, "query"), _of(call, dims, "value")
    keys = value[-2]
    return prod(query) * keys + prod(query[:-1]) * keys * value[-1]


def bilinear_macs(call: Any, dims: Any) -> int:
    """Output elements x both inputs."""
    return int(prod(dims(call.node)) * prod(_of(call, dims, "weight")[1:]))


def einsum_macs(call: Any, dims: Any) -> int:
    """Operands contracted pairwise from left to right."""
    shapes = [tuple(dims(node)) for node in call.operands]
    return contraction_macs(str(call.arguments["equation"]), shapes)


def recurrent_macs(call: Any, dims: Any) -> int:
    """Tokens x (W_ih + W_hh) of every layer and direction."""
    shape = tuple(dims(call.operands[0]))
    matrices = (tuple(dims(call.operands[i])) for i in call.numbers["params"])
    return int(prod(shape[:-1]) * sum(prod(m) for m in matrices if len(m) == 2))


def cell_macs(call: Any, dims: Any) -> int:
    """Tokens x (W_ih + W_hh)."""
    tokens = prod(_of(call, dims, "input")[:-1])
    return tokens * (prod(_of(call, dims, "w_ih")) + prod(_of(call, dims, "w_hh")))
