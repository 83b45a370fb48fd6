"""Small modules with layers that can leave: in a list, in stages, by names of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_nets import alive


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, place: int) -> None:
        super().__init__()
        self.place = place
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).flatten(2)
        x = x + self.drop(self.out(mixed))
        return x + self.drop(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class Vit(nn.Module):
    """Patches, four pre-norm layers in a list, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 4
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(16, 2, i) for i in range(self.depth))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.patches(x).flatten(2).transpose(1, 2))
        for i in range(self.depth):
            x = self.blocks[i](x)
        return self.head(self.norm(x).mean(1))


class Residual(nn.Module):
    """A residual block that writes in place, as those of torchvision do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Resnet(nn.Module):
    """Three residual blocks with names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.first, self.second, self.third = Residual(16), Residual(16), Residual(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = self.third(self.second(self.first(x)))
        return self.head(x.mean((2, 3)))


def image(size: int = 12) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def vit() -> nn.Module:
    torch.manual_seed(0)
    return alive(Vit())


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return alive(Resnet())
