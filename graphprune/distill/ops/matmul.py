"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.distill.ops.registry import CONTRIB, Call, together, torch_op


@torch_op("MatMul", weights=(0, 1))
def matmul(call: Call) -> Tensor:
    a, b = together(call.x(0), call.x(1))
    return torch.matmul(a, b)


@torch_op("Gemm", weights=(1, 2))
def gemm(call: Call) -> Tensor:
    a, b = together(call.x(0), call.x(1))
    a = a.transpose(0, 1) if call.attr("transA", 0) else a
    b = b.transpose(0, 1) if call.attr("transB", 0) else b
    alpha: float = call.attr("alpha", 1.0)
    beta: float = call.attr("beta", 1.0)
    c = call.at(2)
    if c is None:
        return alpha * (a @ b)
    if alpha == 1.0 and beta == 1.0 and c.ndim == 1 and c.numel() > 1:
        return torch.addmm(c.to(a.device), a, b)
    return alpha * (a @ b) + beta * c.to(a.device)


@torch_op("Einsum", weights=(0, 1, 2))
def einsum(call: Call) -> Tensor:
    operands = together(*(call.x(i) for i in range(len(call.inputs))))
    return torch.einsum(call.attr("equation").replace(" ", ""), *operands)


@torch_op("FusedMatMul", domain=CONTRIB, weights=(0, 1))
def fused_matmul(call: Call) -> Tensor:
    a, b = together(call.x(0), call.x(1))
    a = _turned(a, call.attr("transA", 0), call.attr("transBatchA", 0))
    b = _turned(b, call.attr("transB", 0), call.attr("transBatchB", 0))
    alpha: float = call.attr("alpha", 1.0)
    return torch.matmul(a, b) * alpha


def _turned(x: Tensor, last: int, batch: int) -> Tensor:
    if batch:  # the first axis goes next to last
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if last else x
