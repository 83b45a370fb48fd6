"""Linear layers and matrix products: a meet over (batch ..., M, N, K), summed over K."""

from __future__ import annotations

from graphprune.labels import Labels
from graphprune.rules.aten._macs import matmul_macs
from graphprune.rules.aten.registry import aten_rule
from graphprune.rules.shared.matmul import product
from graphprune.rules.shared.normalization import trailing_operands
from graphprune.torch.context import AtenContext


@aten_rule("linear", macs=matmul_macs)
def linear(ctx: AtenContext) -> None:
    """`x @ weight.T + bias`, weight `[out, in]`."""
    labels = product(ctx, 0, 1, b_transposed=True)
    ctx.set(trailing_operands(ctx, labels, [2]).factors)


@aten_rule("matmul", "mm", "bmm", "mv", "dot", macs=matmul_macs)
def matmul(ctx: AtenContext) -> None:
    """numpy.matmul."""
    ctx.set(product(ctx, 0, 1).factors)


@aten_rule("addmm", "baddbmm", "addmv", "addbmm", macs=matmul_macs)
def addmm(ctx: AtenContext) -> None:
    """`self + a @ b`."""
    if ctx.op == "addbmm":
        ctx.boundary("addbmm is not followed")
        return
    labels = product(ctx, 1, 2)
    ctx.set(trailing_operands(ctx, Labels(labels.shape, labels.factors), [0]).factors)
