"""The fifteen micro-graphs as torch modules, to be exported or traced.

Names and shapes are those of `micrographs.py`; parameters carry the names that the initialisers
have there (dense weights are transposed), so that one can be loaded with the weights of the other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.builders.live import enliven, live_images
from models_zoo.builders.sample import Sample


class Conv(nn.Module):
    """conv1, a rearrangement of its activated output, conv2."""

    def __init__(
        self, rearrange: Callable[[Tensor], Tensor], middle: tuple[int, int] = (32, 32)
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, middle[0], 3, padding=1)
        self.conv2 = nn.Conv2d(middle[1], 16, 3, padding=1)
        self.rearrange = rearrange

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.rearrange(self.conv1(x)))


def _shuffle(y: Tensor) -> Tensor:
    y = F.relu(y).view(-1, 4, 8, 16, 16).transpose(1, 2)
    return y.reshape(-1, 32, 16, 16)


def _add_flip(y: Tensor) -> Tensor:
    y = F.relu(y)
    return y + y.flip(1)


def _glu(y: Tensor) -> Tensor:
    value, gate = y.chunk(2, 1)
    return value * torch.sigmoid(gate)


class LstmLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class PixelShuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.pixel_shuffle(self.conv2(F.relu(self.conv1(x))), 2))


class FlattenTranspose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, 2, 1)
        self.head = nn.Linear(32, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).flatten(2).transpose(1, 2))


class InstanceNormStats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.InstanceNorm2d(32, affine=True, track_running_stats=True)
        self.conv2 = nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.norm(self.conv1(x))))


class ThreeConvs(nn.Module):
    """A grouped or depthwise convolution between two dense ones."""

    def __init__(self, first: int, groups: int, last_kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, 32, 3, padding=1, groups=groups)
        self.conv3 = nn.Conv2d(32, 16, last_kernel, padding=last_kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))


class Attention(nn.Module):
    def __init__(self, einsum: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 24)
        self.einsum = einsum

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).view(-1, 12, 4, 8) for p in (self.q, self.k, self.v))
        if self.einsum:
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
            y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)
        else:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            scores = q @ k.transpose(2, 3) / 8**0.5
            y = (scores.softmax(-1) @ v).transpose(1, 2)
        return self.out(y.reshape(-1, 12, 32))


class C2f(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.bottleneck1 = nn.Conv2d(16, 24, 3, padding=1)
        self.bottleneck2 = nn.Conv2d(24, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(48, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(F.relu(self.conv1(x)).chunk(2, 1))
        z = F.relu(self.bottleneck2(F.relu(self.bottleneck1(y[-1]))))
        y.append(y[-1] + z)
        return self.conv2(torch.cat(y, 1))


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(50, 32))
        self.fc1 = nn.Linear(32, 48)
        self.fc2 = nn.Linear(48, 32)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.table)
        return F.linear(x + self.fc2(F.relu(self.fc1(x))), self.table)


class ViewLiteral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, 2, 1)
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(F.relu(self.conv(x)), 2).view(-1, 32 * 16))


_MODULES: dict[str, Callable[[], nn.Module]] = {
    "lstm_linear": LstmLinear,
    "pixel_shuffle": PixelShuffle,
    "flatten_transpose": FlattenTranspose,
    "channel_shuffle": lambda: Conv(_shuffle),
    "flip_channels": lambda: Conv(lambda y: F.relu(y).flip(1)),
    "add_flip": lambda: Conv(_add_flip),
    "instance_norm_stats": InstanceNormStats,
    "grouped_conv": lambda: ThreeConvs(32, 4, 3),
    "depthwise_multiplier": lambda: ThreeConvs(16, 16, 1),
    "unfused_attention": lambda: Attention(einsum=False),
    "einsum_attention": lambda: Attention(einsum=True),
    "c2f": C2f,
    "glu": lambda: Conv(_glu, (64, 32)),
    "tied_embedding": TiedEmbedding,
    "view_literal": ViewLiteral,
}

#: The names `sample` understands: those of `micrographs.NAMES`.
NAMES: tuple[str, ...] = tuple(_MODULES)


def sample(name: str, *, seed: int = 0) -> Sample:
    """One micro-graph with live weights; raises KeyError for an unknown name."""
    torch.manual_seed(seed)
    module = _MODULES[name]()
    generator = torch.Generator().manual_seed(seed + 1)
    key, dims = "x", {0: "batch"}
    if name == "tied_embedding":
        key, dims = "ids", {0: "batch", 1: "time"}
        value = torch.randint(0, 50, (4, 7), generator=generator)
    elif name == "lstm_linear":
        dims = {0: "batch", 1: "time"}
        value = torch.randn((4, 7, 16), generator=generator)
    elif name.endswith("attention"):
        value = torch.randn((4, 12, 32), generator=generator)
    else:
        value = live_images((4, 3, 16, 16), seed + 1)
    enliven(module, {key: value}, seed)
    return Sample(module, {key: value}, {key: dims}, ("y",))
