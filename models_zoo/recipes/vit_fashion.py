"""A small vision transformer (Dosovitskiy et al., 2020) on Fashion-MNIST.

    python -m models_zoo.recipes.vit_fashion --out vit-fashion.onnx

Pre-norm, GELU, 49 tokens for patches of 4x4 pixels. The patches are embedded by two strided
convolutions (Xiao et al., 2021, "Early convolutions help transformers see better"), which suits a
short training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.recipes import fashion

SCHEDULE = fashion.Schedule(epochs=4, batch=128, lr=2e-3, weight_decay=0.05, warmup=200)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.project(y.transpose(1, 2).reshape(n, tokens, self.heads * self.size))


class Block(nn.Module):
    """Pre-norm attention and MLP, each on a skip connection."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """`(n, 1, 28, 28)` pixels in [0, 1] to `(n, 10)` logits."""

    def __init__(self, width: int = 96, depth: int = 4, heads: int = 6, ratio: int = 4) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(1, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, width, 3, 2, 1)
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, 49, width))
        self.blocks = nn.Sequential(*(Block(width, heads, ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed((pixels - fashion.MEAN) / fashion.STD)
        x = x.flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; norms, biases and positions are not decayed."""
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and n != "position"]
    free = [p for n, p in model.named_parameters() if p.ndim <= 1 or n == "position"]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": SCHEDULE.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=SCHEDULE.lr,
        betas=(0.9, 0.99),
    )


if __name__ == "__main__":
    fashion.run(fashion.command_line(SCHEDULE).parse_args(), ViT, optimizer, SCHEDULE)
