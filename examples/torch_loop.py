"""Iterative pruning in a plain torch loop: train, press units towards zero, prune, fine-tune.

    python examples/torch_loop.py            # about ten seconds on one core, nothing is downloaded
    python examples/torch_loop.py --keep 0.3 --folder runs/one

Interrupt it and start it again with the same folder: it goes on where it was. The loop is yours;
graphprune changes the sizes of the module between two calls of it and nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import graphprune.torch as gpt
from graphprune.decide import Scores
from graphprune.torch.regularise import GroupSparsity
from graphprune.torch.scores import scores_from


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.norm1 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.two, self.norm2 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (n, width, h, w) to images of the same shape."""
        y = torch.relu(self.norm1(self.one(x)))
        return torch.relu(x + self.norm2(self.two(y)))


class Net(nn.Module):
    """A small ResNet for images of 12 x 12."""

    def __init__(self, width: int = 24, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, stride=2, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (n, 1, 12, 12) to logits (n, classes)."""
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def batches(count: int, seed: int, size: int = 48) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Made-up data: each class is a smooth pattern, shifted and buried in noise."""
    patterns = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(7))
    patterns = nn.functional.interpolate(patterns, (12, 12), mode="bilinear")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        labels = torch.randint(0, 10, (size,), generator=generator)
        shift = int(torch.randint(0, 3, (1,), generator=generator))
        noise = torch.randn(size, 1, 12, 12, generator=generator)
        yield torch.roll(patterns[labels], shift, 3) + 0.8 * noise, labels


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Share of held-out images that are classified correctly."""
    model.eval()
    right = [(model(x).argmax(1) == y).float().mean() for x, y in batches(10, seed=10_000)]
    return float(torch.stack(right).mean())


def main() -> dict[str, float]:
    """Run it; gives the figures that are printed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keep", type=float, default=0.4, help="share of the MACs that stays")
    options.add_argument("--steps", type=int, default=3, help="prunings, with training after each")
    options.add_argument("--folder", type=Path, help="where to put the checkpoint and the result")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    model = Net()
    example = next(iter(batches(1, seed=0, size=2)))[0]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    loss_of = nn.CrossEntropyLoss()

    # 1. Train. The penalty drives whole coupled units to zero, so that cutting them costs little.
    sparsity = GroupSparsity(model, gpt.analyse(model, example), strength=1e-4)
    model.train()
    for x, y in batches(40, seed=1):
        optimizer.zero_grad()
        loss_of(model(x), y).backward()
        sparsity.add_gradients()
        optimizer.step()
    before = accuracy(model)

    # 2. Prune in steps: each scores the units by the loss that their removal costs, cuts, trains on.
    def scores(model: nn.Module) -> Scores:
        def losses() -> Iterator[torch.Tensor]:
            model.eval()
            for x, y in batches(4, seed=2):
                yield loss_of(model(x), y)

        return scores_from(model, losses)

    def fine_tune(model: nn.Module, step: int) -> None:
        model.train()
        for x, y in batches(20, seed=100 + step):
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
        print(f"step {step}: accuracy {accuracy(model):.3f}")

    result = gpt.iterative(
        model,
        example,
        macs=given.keep,
        align=4,  # a net this narrow has no room for the multiples of 16 that runtimes like
        steps=given.steps,
        schedule="cubic",
        scope="global",
        scores=scores,
        train=fine_tune,
        optimizer=optimizer,  # its momentum is cut with the weights
        checkpoint=folder / "run.safetensors",
    )
    after = accuracy(result.module)

    # 3. Save: weights and plan, no code. `gpt.load(path, Net())` gives the pruned net again.
    if result.plan is not None:
        pruned = gpt.prune(model, example, plan=result.plan)
        gpt.save(pruned, folder / "net.safetensors", module=result.module)
        again = gpt.load(folder / "net.safetensors", Net(), example)
        assert accuracy(again.module) == after

    size = [sum(p.numel() for p in m.parameters()) for m in (model, result.module)]
    print(f"parameters {size[0]} -> {size[1]}, accuracy {before:.3f} -> {after:.3f}")
    return {"before": before, "after": after, "share": size[1] / size[0]}


if __name__ == "__main__":
    main()
