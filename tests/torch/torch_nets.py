"""Small modules of different kinds, their weights alive."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def alive(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights such that signals neither die nor grow, and running statistics that do something."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        with torch.no_grad():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif tensor.ndim > 1:
                tensor.copy_(noise * (2.0 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(0.3 * noise + (1.0 if name.endswith("weight") else 0.0))
    return module


class Cnn(nn.Module):
    """A residual network with a depthwise convolution, dropout and a flattened head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Conv2d(16, 32, 1)
        self.deep = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.back = nn.Conv2d(32, 16, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.drop = nn.Dropout(0.3)
        self.hidden = nn.Linear(64, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x + self.back(torch.relu_(self.norm(self.deep(self.wide(x)))))
        x = self.drop(self.pool(x).flatten(1))
        return self.head(torch.relu(self.hidden(x)))


class Attention(nn.Module):
    """Fused queries, keys and values, cut by attributes."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        y = scores.softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class Fused(Attention):
    """The same by torch's fused op, whose scale follows from the size of a head."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(y.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


class Transformer(nn.Module):
    """Embedding, one block with attention and an MLP, a head tied to the embedding."""

    def __init__(self, attention: type[nn.Module] = Attention) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 32)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = attention()
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.attention(self.norm1(x))
        x = x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return self.head(x)


class Literal(nn.Module):
    """Sizes written into forward: no attribute can say them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 24), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x)).view(-1, 24)
        return self.b(y.reshape(len(x), 24))


def cnn() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return alive(Cnn()), (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)


def transformer(
    attention: type[nn.Module] = Attention,
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    tokens = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(1))
    return alive(Transformer(attention)), (tokens,)


def literal() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return alive(Literal()), (torch.randn(2, 12, generator=torch.Generator().manual_seed(1)),)
