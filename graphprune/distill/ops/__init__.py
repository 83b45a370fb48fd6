"""How ONNX ops run in torch: one file for each family. Importing this registers all of them."""

from __future__ import annotations

from graphprune.distill.ops import (
    attention,
    contrib,
    conv,
    elementwise,
    indexing,
    matmul,
    movement,
    normalization,
    pool,
    recurrent,
    reduction,
    resize,
)
from graphprune.distill.ops.registry import OPS, Call, Op, find, refusal, torch_op

__all__ = [
    "OPS",
    "Call",
    "Op",
    "attention",
    "contrib",
    "conv",
    "elementwise",
    "find",
    "indexing",
    "matmul",
    "movement",
    "normalization",
    "pool",
    "recurrent",
    "reduction",
    "refusal",
    "resize",
    "torch_op",
]
