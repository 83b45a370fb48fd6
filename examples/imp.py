"""Iterative magnitude pruning: single weights, by absolute value, global, in rounds, rewound.

    python examples/imp.py                       # made-up data
    python examples/imp.py --data FOLDER         # Fashion-MNIST's four .gz files

Trains a net, masks the smallest weights, puts the others back to what they were after a few steps,
trains again, and so on; then takes the masks off, lets units leave of which nothing is left, and saves.
A run that is interrupted goes on with the same --folder.
"""

from __future__ import annotations

import argparse
import gzip
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import graphprune.torch as gpt


def net() -> nn.Module:
    """Images (n, 1, s, s) to logits (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(288, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def read(folder: Path, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28), about standardised, and labels, of IDX files."""

    def body(name: str, header: int) -> np.ndarray:
        with gzip.open(folder / f"{prefix}-{name}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=header).copy()

    pixels = torch.from_numpy(body("images-idx3", 16)).reshape(-1, 1, 28, 28)
    return (pixels / 255 - 0.286) / 0.353, torch.from_numpy(body("labels-idx1", 8)).long()


def made_up(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Without files: each class is a smooth pattern, buried in noise."""
    patterns = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    patterns = nn.functional.interpolate(patterns, (12, 12), mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return patterns[labels] + torch.randn(count, 1, 12, 12, generator=generator), labels


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share that is classified correctly."""
    model.eval()
    hits = [
        (model(x).argmax(1) == y).sum()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    ]
    return float(sum(hits)) / len(labels)


def main() -> dict[str, float]:
    """Run it; gives the figures that are printed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sparsity", type=float, default=0.9, help="share of zeros in the end")
    options.add_argument("--rounds", type=int, default=5, help="maskings, with training after each")
    options.add_argument("--steps", type=int, default=150, help="optimizer steps of a training")
    options.add_argument("--rewind-to", type=int, default=20, help="the step to go back to")
    options.add_argument("--data", type=Path, help="folder with Fashion-MNIST; else made-up data")
    options.add_argument("--folder", type=Path, help="where to put the checkpoint and the result")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if given.data is None:
        (images, labels), test = made_up(6000, seed=1), made_up(2000, seed=2)
    else:
        (images, labels), test = read(given.data, "train"), read(given.data, "t10k")

    def train(model: nn.Module, number: int) -> float:
        # Round 0 is the dense training; the others go on from the step that they were rewound to.
        first = 0 if number == 0 else given.rewind_to
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
        model.train()
        for step in range(first, given.steps):
            rate = 0.05 * 0.5 * (1 + math.cos(math.pi * step / given.steps))
            optimizer.param_groups[0]["lr"] = rate
            at = torch.randint(0, len(images), (64,))
            loss = nn.functional.cross_entropy(model(images[at]), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return accuracy(model, *test)

    torch.manual_seed(0)
    found = gpt.lottery(
        net(),
        train,
        sparsity=given.sparsity,
        steps=given.rounds,
        schedule="geometric",
        initialisation="rewound",
        rewind_to=given.rewind_to,
        checkpoint=folder / "run.safetensors",
    )
    for each in found.rounds:
        print(f"round {each.number}: {each.sparsity:6.1%} zeros, accuracy {each.result:.3f}")

    # Masks off: a plain net with zeros. What is empty on one side can leave physically.
    sparse = gpt.bake(found.module).eval()
    example = images[:2]
    empty = gpt.empty_units(sparse, example)
    smaller = sparse
    if empty.plan is not None:
        smaller = gpt.prune(sparse, example, plan=empty.plan, allow_slower=True).module
    torch.testing.assert_close(smaller(example), sparse(example))
    torch.save(smaller.state_dict(), folder / "net.pt")
    size = [sum(p.numel() for p in m.parameters()) for m in (sparse, smaller)]
    print(f"parameters with empty units {size[0]}, without {size[1]}")
    last = found.rounds[-1]
    return {"dense": found.rounds[0].result, "sparse": last.result, "zeros": last.sparsity}


if __name__ == "__main__":
    main()
