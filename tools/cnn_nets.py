"""The two nets of `tools/cnn_study.py`, their images, and their accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune import zoo
from graphprune.zoo.metrics import accuracy
from models_zoo.recipes import fashion

Array = np.ndarray[Any, Any]
BATCH = 250


class PlainNet(nn.Module):
    """Four convolutions and three large fully connected layers, as in AlexNet, without norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 3 * 3, 1024)
        self.fc2 = nn.Linear(1024, 512)
        self.fc3 = nn.Linear(512, 10)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        for module in (self.conv1, self.conv2, self.conv3, self.conv4, self.fc1, self.fc2):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels - fashion.MEAN) / fashion.STD
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = torch.relu(self.conv3(x))
        x = self.pool(torch.relu(self.conv4(x))).flatten(1)
        x = self.drop(torch.relu(self.fc1(x)))
        return self.fc3(self.drop(torch.relu(self.fc2(x))))


@dataclass(frozen=True, eq=False)
class Pictures:
    """Fashion-MNIST in parts that do not overlap.

    Attributes:
        fitted: What the plain net is trained on.
        held_out: Images `(n, 28, 28)` that neither net is trained on, for calibration.
        test: What is scored.
    """

    fitted: fashion.Split
    held_out: Array
    test: fashion.Split

    def calibration(self, seed: int, count: int) -> Array:
        """Inputs `(count, 1, 28, 28)` drawn by a seed."""
        order = np.random.default_rng(seed).permutation(len(self.held_out))[:count]
        return pixels(self.held_out[order])

    def metric(self, count: int) -> Callable[[Any], float]:
        """Accuracy on the first `count` test images of what an onnxruntime session computes."""
        images, labels = pixels(self.test.images[:count]), self.test.labels[:count]
        parts = [images[i : i + BATCH] for i in range(0, count, BATCH)]

        def accuracy_of(session: Any) -> float:
            outputs = [session.run(None, {"pixels": part})[0] for part in parts]
            return accuracy(np.concatenate(outputs), labels)

        return accuracy_of


def read_pictures(folder: Path, train: int, test: int) -> Pictures:
    """Of the original files in `folder`: the first `train` and `test` images, the last held out."""
    whole, scored = fashion.read_split(folder, "train"), fashion.read_split(folder, "t10k")
    stop = min(train, len(whole.labels) - fashion.HELD_OUT)
    return Pictures(
        fashion.Split(whole.images[:stop], whole.labels[:stop]),
        whole.images[-fashion.HELD_OUT :],
        fashion.Split(scored.images[:test], scored.labels[:test]),
    )


def pixels(images: Array) -> Array:
    """`(n, 28, 28)` uint8 -> `(n, 1, 28, 28)` float32 in [0, 1]."""
    return images[:, None].astype(np.float32) / 255


def plain_net(pictures: Pictures, epochs: float, folder: Path) -> Path:
    """The trained plain net as an ONNX file in `folder`; what is there is not trained again."""
    path = folder / "plain.onnx"
    if not path.exists():
        torch.manual_seed(0)
        model = PlainNet()
        schedule = fashion.Schedule(epochs, batch=128, lr=0.04, weight_decay=5e-4, warmup=50)
        optimizer = torch.optim.SGD(
            model.parameters(), schedule.lr, momentum=0.9, weight_decay=schedule.weight_decay
        )
        fashion.train(model, optimizer, pictures.fitted, schedule, folder / "plain.checkpoint")
        fashion.export_classifier(model.eval(), path)
    return path


def nets(pictures: Pictures, epochs: float, folder: Path) -> dict[str, Path]:
    """Both nets by name."""
    return {
        "resnet-fashion": zoo.get("resnet-fashion").path,
        "plain": plain_net(pictures, epochs, folder),
    }
