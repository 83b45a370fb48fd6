"""Train a small image classifier on Fashion-MNIST on one CPU thread.

The dataset is Debian's package `dataset-fashion-mnist` (MIT licence, Zalando SE); any folder with
the four original `*-ubyte.gz` files will do. The run is seeded and single-threaded, so that the
same machine and the same torch give the same weights.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.builders.export import export

#: Where Debian's package puts the files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

#: The last training images: never trained on, they choose nothing but the calibration set.
HELD_OUT = 1000

#: Pixels are normalised inside the network, so the ONNX graph takes pixel values in [0, 1].
MEAN, STD = 0.2860, 0.3530


@dataclass(frozen=True)
class Split:
    """Images `(n, 28, 28)` uint8 and labels `(n,)` uint8."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: one warm-up, then a cosine to zero over all steps."""

    epochs: float
    batch: int
    lr: float
    weight_decay: float
    warmup: int = 200
    smoothing: float = 0.05
    seed: int = 0


def read_split(folder: Path, prefix: str) -> Split:
    """Read `train` or `t10k` from the original IDX files in `folder`."""

    def body(name: str, header: int) -> np.ndarray:
        with gzip.open(folder / f"{prefix}-{name}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    return Split(body("images-idx3", 16).reshape(-1, 28, 28), body("labels-idx1", 8))


def to_input(images: np.ndarray) -> Tensor:
    """`(n, 28, 28)` uint8 to `(n, 1, 28, 28)` float32 in [0, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 255.0)[:, None]


def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and shift each by up to two pixels."""
    n = len(batch)
    flip = torch.rand(n, generator=generator) < 0.5
    batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
    padded = F.pad(batch, (2, 2, 2, 2))
    shift = torch.randint(0, 5, (2, n, 1, 1), generator=generator)
    rows = (torch.arange(28)[None, :, None] + shift[0]).expand(n, 28, 28)
    columns = (torch.arange(28)[None, None, :] + shift[1]).expand(n, 28, 28)
    return padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of `split` that `model` classifies correctly, in evaluation mode."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(images).argmax(1) == labels).sum())
            for images, labels in zip(
                to_input(split.images).split(500),
                torch.from_numpy(split.labels.astype(np.int64)).split(500),
                strict=True,
            )
        )
    model.train(was_training)
    return hits / len(split.labels)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    split: Split,
    schedule: Schedule,
    checkpoint: Path,
) -> None:
    """Minimise the smoothed cross entropy of `model` on `split`, in place.

    An interrupted run goes on from `checkpoint`, with the same result.
    """
    generator = torch.Generator().manual_seed(schedule.seed)
    images, labels = to_input(split.images), torch.from_numpy(split.labels.astype(np.int64))
    per_epoch = len(images) // schedule.batch
    total = int(schedule.epochs * per_epoch)
    model.train()
    started = time.perf_counter()
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        first, order = state["step"], state["order"]
    for step in range(first, total):
        if step % per_epoch == 0:
            order = torch.randperm(len(images), generator=generator)
        warm = min(1.0, (step + 1) / schedule.warmup)
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
        at = order[(step % per_epoch) * schedule.batch :][: schedule.batch]
        logits = model(augment(images[at], generator))
        loss = F.cross_entropy(logits, labels[at], label_smoothing=schedule.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % 100 == 99:
            spent = time.perf_counter() - started
            print(f"step {step + 1}/{total} loss {loss.item():.4f} {spent:.0f} s", flush=True)
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "generator": generator.get_state(),
                "step": step + 1,
                "order": order,
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)


def command_line(schedule: Schedule) -> argparse.ArgumentParser:
    """What every recipe can be told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="ONNX file; .pt goes beside it")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--weights", type=Path, help="do not train: take this .pt")
    parser.add_argument("--epochs", type=float, default=schedule.epochs)
    return parser


def run(
    options: argparse.Namespace,
    build: Callable[[], nn.Module],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    schedule: Schedule,
) -> None:
    """A recipe as `command_line` was told: train, state the test accuracy, save the weights, export."""
    schedule = replace(schedule, epochs=options.epochs)
    torch.set_num_threads(1)
    torch.manual_seed(schedule.seed)
    model = build()
    if options.weights is None:
        model = model.to(memory_format=torch.channels_last)
        whole = read_split(options.data, "train")
        fitted = Split(whole.images[:-HELD_OUT], whole.labels[:-HELD_OUT])
        train(
            model,
            make_optimizer(model),
            fitted,
            schedule,
            options.out.with_suffix(".checkpoint"),
        )
        model = model.to(memory_format=torch.contiguous_format)
        torch.save(model.state_dict(), options.out.with_suffix(".pt"))
    else:
        model.load_state_dict(torch.load(options.weights, weights_only=True))
    print(f"test accuracy {accuracy(model, read_split(options.data, 't10k')):.4f}")
    export_classifier(model.eval(), options.out)


def export_classifier(model: nn.Module, path: Path) -> None:
    """Write `pixels (batch, 1, 28, 28)` -> `logits (batch, 10)` at opset 18, weights inside."""
    export(model, (torch.rand(2, 1, 28, 28),), path, output_names=("logits",))
