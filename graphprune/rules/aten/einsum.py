"""Einsum: see `rules/shared/einsum.py`."""

from __future__ import annotations

from graphprune.rules.aten._macs import einsum_macs
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.shared.einsum import contraction
from graphprune.torch.context import AtenContext


@aten_rule("einsum", macs=einsum_macs)
def einsum(ctx: AtenContext) -> None:
    """Any number of operands, letters in any order, ellipses, diagonals."""
    contraction(ctx, str(ctx.arg("equation")))
