"""Small modules for the tests of the user's own class, and what it takes to prune them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphprune.decide import decide
from graphprune.options import Options
from graphprune.plan import Plan
from graphprune.torch.capture import Captured, capture
from graphprune.torch.own import Kept, own_class
from graphprune.torch.rewrite import Edit, rewrite
from graphprune.torch.subject import TorchSubject
from models_zoo.builders.live import enliven
from tools.own_check import Against


class Pruned:
    """A module, its plan, and what became of its class."""

    def __init__(
        self, captured: Captured, plan: Plan, edits: tuple[Edit, ...], kept: Kept, check: Any
    ) -> None:
        self.captured, self.plan, self.edits = captured, plan, edits
        self.kept, self.check = kept, check

    @property
    def module(self) -> nn.Module:
        assert self.kept.module is not None, self.kept.why
        return self.kept.module


def pruned(
    module: nn.Module, inputs: dict[str, Tensor], *, live: bool = True, **options: Any
) -> Pruned:
    """Prune a module by `options` and keep its class, checked in float64 at two batch sizes."""
    torch.set_num_threads(1)
    if live:
        enliven(module, inputs, 0)
    captured = capture(module, (), inputs, training=False)
    subject, given = TorchSubject(captured), Options(**{"align": 1, **options})
    quiet: Callable[..., None] = lambda *_: None  # noqa: E731
    plan, graph = decide(subject, given, quiet)
    plan, _, made, edits = rewrite(
        captured, plan, graph, lambda more: decide(subject, given, quiet, more)
    )
    assert plan.initializers, [str(u) for u in plan.unpruned]
    check = Against(captured, plan)
    assert check(made) == ""
    return Pruned(captured, plan, edits, own_class(captured, plan, edits, check), check)


def image(*shape: int) -> dict[str, Tensor]:
    return {"x": torch.randn(*shape, generator=torch.Generator().manual_seed(0))}


class Grouped(nn.Module):
    """Convolutions with groups of every kind, norms over groups and channels, a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 48, 3, padding=1, groups=4)
        self.group_norm = nn.GroupNorm(8, 48)
        self.slope = nn.PReLU(48)
        self.up = nn.ConvTranspose2d(48, 24, 2, stride=2, groups=2)
        self.instance = nn.InstanceNorm2d(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(F.relu(self.norm(self.stem(x))))
        x = self.up(self.slope(self.group_norm(self.grouped(x))))
        return self.head(self.instance(x).square().mean((2, 3)))


class Encoder(nn.Module):
    """torch's own transformer layers."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class WrittenAttention(nn.Module):
    """Attention as it is often written by hand: sizes come from the shape of the input."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = q * (C // self.num_heads) ** -0.5
        scores = (q @ k.transpose(-2, -1)).softmax(-1)
        return x + self.proj((scores @ v).transpose(1, 2).reshape(B, N, C))


class Attention(nn.Module):
    """The same with its sizes in attributes, as timm has it."""

    def __init__(self, dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.attn_dim = self.num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * self.attn_dim)
        self.q_norm = nn.LayerNorm(self.head_dim)
        self.proj = nn.Linear(self.attn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(y.transpose(1, 2).reshape(B, N, self.attn_dim))


class Blocks(nn.Module):
    """Two blocks of attention and a dense layer each."""

    def __init__(self, attention: type[nn.Module], dim: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(6, dim)
        self.blocks = nn.Sequential(attention(dim), nn.LayerNorm(dim), attention(dim))
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)))


class Recurrent(nn.Module):
    """Two layers of an LSTM in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.lstm = nn.LSTM(16, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(F.relu(self.embed(x)))[0])


class Chunked(nn.Module):
    """Halves of channels that go different ways, and a size in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.left = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(64, 5)
        self.grid = (4, 4)
        self.channels = 16

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).chunk(2, dim=1)
        y = torch.cat([F.relu(self.left(a)), b], 1)
        y = y.view(-1, self.channels, *x.shape[2:])
        return self.head(F.adaptive_avg_pool2d(y, (2, 2)).flatten(1))


class Tied(nn.Module):
    """An embedding that is the output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(40, 32)
        self.dense = nn.Linear(32, 64)
        self.back = nn.Linear(64, 32)
        self.out = nn.Linear(32, 40, bias=False)
        self.out.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.back(F.relu(self.dense(self.tokens(ids)))))


@functools.cache
def bert() -> nn.Module:
    """A small BERT from a configuration."""
    from models_zoo.builders.torchvision_shim import torchvision

    torchvision()
    import transformers

    config = transformers.BertConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    return transformers.BertModel(config)
