"""Iterative pruning with fine-tuning on the real CNN, beside Torch-Pruning with the same training.

    python -m tools.torch_accuracy --weights resnet-fashion.pt --json FILE [--peer FOLDER]
        [--only GLOB ...] [--out docs/accuracy.md] [--seeds 0 1 2] [--images 20000] [--epochs 1 1 2]

The ResNet-14 on Fashion-MNIST of models_zoo/recipes (train it with that recipe, which leaves a .pt) is
pruned to a quarter of its multiply-adds in steps, each followed by epochs of the same loop on the
same images in the same order. Methods differ in how units are scored and how ratios are spread.
Torch-Pruning is imported from `--peer` (pip install --no-deps --target FOLDER torch-pruning).
Every finished run is a line of the JSON file; a run that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import graphprune.torch as gpt
from models_zoo.recipes.fashion import DEBIAN_FOLDER, Split, accuracy, augment, read_split, to_input
from models_zoo.recipes.resnet_fashion import ResNet
from tools._common import environment, table, write_page

TARGET = 0.25
PEER_ENDS_AT = 0.2327
LR, BATCH = 0.05, 128
EXAMPLE = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


class Loop:
    """The user's training: SGD with momentum, a cosine for each step's epochs."""

    def __init__(self, split: Split, epochs: Sequence[int], seed: int) -> None:
        self.images, self.epochs = to_input(split.images), epochs
        self.labels = torch.from_numpy(split.labels.astype("int64"))
        self.generator = torch.Generator().manual_seed(seed)

    def batches(self, epochs: int) -> Any:
        for _ in range(epochs):
            order = torch.randperm(len(self.images), generator=self.generator)
            for at in order[: len(order) // BATCH * BATCH].split(BATCH):
                yield augment(self.images[at], self.generator), self.labels[at]

    def train(self, model: nn.Module, step: int) -> None:
        """Epochs after pruning step `step` (from 1)."""
        epochs = self.epochs[step - 1]
        total = epochs * (len(self.images) // BATCH)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        model.train()
        for i, (images, labels) in enumerate(self.batches(epochs)):
            for group in optimizer.param_groups:
                group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * i / total))
            loss = F.cross_entropy(model(images), labels, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        model.eval()


def macs_of(model: nn.Module) -> int:
    """Multiply-adds of one image in convolutions and linear layers, for all methods alike."""
    total = 0

    def count(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(EXAMPLE[:1])
    for hook in hooks:
        hook.remove()
    return total


def ours(
    model: nn.Module,
    loop: Loop,
    steps: int,
    *,
    scope: str = "local",
    criterion: str = "l2",
    target: float = TARGET,
) -> nn.Module:
    """`graphprune.torch.iterative`; `taylor` and `fisher` score with the loss of some batches."""
    gradient = criterion in ("taylor", "taylor-abs", "fisher", "hessian")

    def scores(present: nn.Module) -> Any:
        found = gpt.GradientScores(present, gpt.analyse(present, EXAMPLE), criterion)
        present.eval()
        for _, (images, labels) in zip(range(4), loop.batches(1), strict=False):
            found.accumulate(F.cross_entropy(present(images), labels, reduction="none"))
        return found

    return gpt.iterative(
        model,
        EXAMPLE,
        steps=steps,
        train=loop.train,
        schedule="geometric",
        scores=scores if gradient else None,
        macs=target,
        scope=scope,
        align=1,
    ).module


def peer(model: nn.Module, loop: Loop, steps: int, *, everywhere: bool = False) -> nn.Module:
    """Torch-Pruning's group magnitude pruner, stepped until each step's multiply-adds are met."""
    import torch_pruning as tp

    whole = macs_of(model)
    pruner = tp.pruner.BasePruner(
        model,
        EXAMPLE,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=everywhere,
        pruning_ratio=0.99,
        max_pruning_ratio=0.9,
        iterative_steps=400,
        ignored_layers=[model.head],
    )
    for step in range(1, steps + 1):
        wanted = whole * TARGET ** (step / steps)
        while macs_of(model) > wanted:
            pruner.step()
        loop.train(model, step)
    return model


METHODS: dict[str, Callable[..., nn.Module]] = {
    "Torch-Pruning, group L2, local": lambda m, loop, n: peer(m, loop, n),
    "Torch-Pruning, group L2, global": lambda m, loop, n: peer(m, loop, n, everywhere=True),
    "graphprune, L2, local": lambda m, loop, n: ours(m, loop, n),
    # Torch-Pruning's steps are coarser than its target: what it ended at, for a fair comparison.
    "graphprune, L2, local, as few MACs": lambda m, loop, n: ours(m, loop, n, target=PEER_ENDS_AT),
    "graphprune, Taylor, global": lambda m, loop, n: ours(
        m, loop, n, scope="global", criterion="taylor-abs"
    ),
    "graphprune, Fisher, global": lambda m, loop, n: ours(
        m, loop, n, scope="global", criterion="fisher"
    ),
}


def main() -> int:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["*"], help="globs of methods")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 1, 2])
    given = parser.parse_args()
    if given.peer:
        sys.path.insert(0, str(given.peer))
    torch.set_num_threads(1)
    known = json.loads(given.json.read_text()) if given.json.exists() else {}
    whole, test = read_split(given.data, "train"), read_split(given.data, "t10k")
    split = Split(whole.images[: given.images], whole.labels[: given.images])
    for seed in given.seeds:
        for name, method in METHODS.items():
            key = f"{name} | {seed} | {given.images} | {given.epochs}"
            if not any(fnmatchcase(name, glob) for glob in given.only):
                continue
            if key in known or (name.startswith("Torch-Pruning") and not given.peer):
                continue
            model = ResNet()
            model.load_state_dict(torch.load(given.weights, weights_only=True))
            before = macs_of(model)
            torch.manual_seed(seed)
            started = time.perf_counter()
            made = method(model.eval(), Loop(split, given.epochs, seed), len(given.epochs))
            known[key] = {
                "method": name,
                "seed": seed,
                "accuracy": accuracy(made, test),
                "original": accuracy(model, test) if made is not model else None,
                "macs": macs_of(made) / before,
                "params": sum(p.numel() for p in made.parameters()),
                "seconds": time.perf_counter() - started,
            }
            print(key, known[key], flush=True)
            given.json.write_text(json.dumps(known, indent=1))
    report(known, given)
    return 0


def report(known: dict[str, Any], given: argparse.Namespace) -> None:
    """Accuracy of each method over the seeds."""
    suffix = f"| {given.images} | {given.epochs}"
    runs = [r for k, r in known.items() if k.endswith(suffix)]
    rows = []
    for name in METHODS:
        mine = [r for r in runs if r["method"] == name]
        if not mine:
            continue
        found = [100 * r["accuracy"] for r in mine]
        spread = f"{min(found):.2f} to {max(found):.2f}"
        share = statistics.mean(r["macs"] for r in mine)
        size = statistics.mean(r["params"] for r in mine)
        mean = f"{statistics.mean(found):.2f} %"
        rows.append((name, len(mine), mean, spread, f"{share:.3f}", f"{size / 1e3:.0f} k"))
    head = ("method", "seeds", "test accuracy", "range", "MACs left", "parameters")
    original = next((r["original"] for r in runs if r["original"]), None)
    page = table(head, rows)
    print(page)
    if given.out:
        said = (
            "Written by `tools/torch_accuracy.py`: ResNet-14 on Fashion-MNIST "
            f"(models_zoo/recipes), {100 * (original or 0):.2f} % before, pruned to a quarter of its "
            f"multiply-adds in {len(given.epochs)} steps with {given.epochs} epochs of the first "
            f"{given.images} training images after them; the same loop, images and order for all. "
            "Accuracy on all 10,000 test images. Torch-Pruning's steps end below the target: `as few "
            "MACs` ends where they do. What refitting does without any training: "
            "[accuracy-real.md](accuracy-real.md)."
        )
        write_page(
            given.out,
            "Accuracy after pruning and fine-tuning",
            [said, "\n".join(environment()), page],
        )


if __name__ == "__main__":
    sys.exit(main())
