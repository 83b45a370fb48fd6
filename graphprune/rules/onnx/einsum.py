"""Einsum: see `rules/shared/einsum.py`."""

from __future__ import annotations

from graphprune.rules.context import OpContext
from graphprune.rules.onnx._macs import einsum_macs
from graphprune.rules.registry import op_rule
from graphprune.rules.shared.einsum import contraction


@op_rule("", "Einsum", macs=einsum_macs)
def einsum(ctx: OpContext) -> None:
    """Any number of operands, letters in any order, ellipses, diagonals."""
    contraction(ctx, str(ctx.attr("equation")))
