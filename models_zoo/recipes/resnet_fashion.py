"""A CIFAR-style ResNet-14 (He et al., 2015, section 4.2) on Fashion-MNIST.

    python -m models_zoo.recipes.resnet_fashion --out resnet-fashion.onnx
        [--epochs 7] [--widths 32 64 128]

Three stages of two basic blocks. They are twice as wide as for CIFAR (32, 64, 128 channels), which
leaves room for pruning, and the stem halves the resolution: 28x28 images hold little detail, and an
epoch has to be short on one CPU thread. `--widths 64 96 144` takes two and a half times as long.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models_zoo.recipes import fashion

SCHEDULE = fashion.Schedule(epochs=7, batch=128, lr=0.15, weight_decay=5e-4)

#: Channels of the three stages.
WIDTHS = (32, 64, 128)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, beside an identity or a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """`(n, 1, 28, 28)` pixels in [0, 1] to `(n, 10)` logits."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages: list[nn.Module] = []
        inputs = widths[0]
        for stage, outputs in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - fashion.MEAN) / fashion.STD
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.head(self.stages(x).mean((2, 3)))


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; norms and biases are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": SCHEDULE.weight_decay}, {"params": free}],
        lr=SCHEDULE.lr,
        momentum=0.9,
        nesterov=True,
    )


if __name__ == "__main__":
    parser = fashion.command_line(SCHEDULE)
    parser.add_argument(
        "--widths", type=int, nargs=3, default=WIDTHS, help="channels of the stages"
    )
    options = parser.parse_args()
    fashion.run(options, partial(ResNet, tuple(options.widths)), optimizer, SCHEDULE)
