"""Lottery-ticket curve of a ResNet-20 on Fashion-MNIST: what a sparse net is trained from.

    python -m tools.lottery --folder FOLDER [--seeds 0 1 2] [--sparsities 0.5 0.75 0.9 0.95 0.98]
        [--steps 600] [--batch 64] [--rewind-to 60] [--stride 3] [--images 60000]
        [--out docs/lottery.md]

Four curves over the sparsity: `rewound` (iterative, weights of step --rewind-to), `random` (the masks
of rewound under freshly drawn weights, trained from the first step), `preserved` (iterative, weights
kept, learning rate rewound), `one-shot` (masked at once from the dense net, rewound). A round goes
to the next of --sparsities. --stride is that of the first convolution: parameters are the same with
any, multiply-adds are not. Every round is in a checkpoint and every finished run in
FOLDER/lottery.json; what is there is not run again (one FOLDER for one setting).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import graphprune.torch as gpt
from graphprune.files import write_atomically
from models_zoo.recipes.fashion import DEBIAN_FOLDER, Split, accuracy, augment, read_split, to_input
from models_zoo.recipes.resnet_fashion import ResNet
from tools._common import environment, table, write_page

WAYS = ("rewound", "random", "preserved", "one-shot")
LR = 0.1
SETTING = ("sparsities", "steps", "batch", "rewind_to", "stride", "images")
Record = dict[str, Any]


def net(seed: int, stride: int) -> nn.Module:
    """Freshly initialised; in the memory format that is fastest on a CPU."""
    torch.manual_seed(seed)
    model = ResNet((16, 32, 64), blocks=3)
    model.conv1.stride = (stride, stride)
    return model.to(memory_format=torch.channels_last)


class Runs:
    """The trainings of one seed."""

    def __init__(self, given: argparse.Namespace, seed: int) -> None:
        self.given, self.seed = given, seed
        whole = read_split(given.data, "train")
        self.images = to_input(whole.images[: given.images])
        self.labels = torch.from_numpy(whole.labels[: given.images].astype("int64"))
        test = read_split(given.data, "t10k")
        self.test = Split(test.images[: given.images], test.labels[: given.images])
        self.kept = given.folder / f"dense-{seed}.pt"

    def net(self, seed: int) -> nn.Module:
        return net(seed, self.given.stride)

    def train(self, model: nn.Module, number: int, first: int) -> float:
        """Steps from `first` on; SGD with momentum, one cosine over all steps. Gives accuracy in %."""
        generator = torch.Generator().manual_seed(1000 * self.seed + number)
        optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=1e-4)
        model.train()
        for step in range(first, self.given.steps):
            warm = min(1.0, (step + 1) / max(1, self.given.rewind_to))
            rate = LR * warm * 0.5 * (1 + math.cos(math.pi * step / self.given.steps))
            optimizer.param_groups[0]["lr"] = rate
            if number == 0 and step == self.given.rewind_to:
                self.start = gpt.snapshot(model)
            at = torch.randint(0, len(self.images), (self.given.batch,), generator=generator)
            loss = F.cross_entropy(model(augment(self.images[at], generator)), self.labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return 100 * accuracy(model, self.test)

    def rewound(self, model: nn.Module, number: int) -> Record:
        """A round of rewinding, and at the same sparsity the two that need nothing but it."""
        k = self.given.rewind_to
        if number == 0:
            found = self.train(model, 0, 0)
            saved = {"dense": gpt.snapshot(model), "start": self.start, "accuracy": found}
            torch.save(saved, self.kept)
            return {"rewound": found, "random": found, "one-shot": found}
        masks = gpt.masks_of(model)
        zeros = sum(int((~m).sum()) for m in masks.values())
        drawn = gpt.put_masks(self.net(10_000 * (self.seed + 1) + number), masks)
        saved = torch.load(self.kept, weights_only=True)
        once = gpt.rewind(self.net(self.seed), saved["dense"])
        gpt.sparsify(once, zeros / sum(m.numel() for m in masks.values()))
        return {
            "rewound": self.train(model, number, k),
            "random": self.train(drawn, number, 0),
            "one-shot": self.train(gpt.rewind(once, saved["start"]), number, k),
        }

    def preserved(self, model: nn.Module, number: int) -> Record:
        """A round from the weights as they are, the learning rate as at the step of rewinding.

        The dense net is the one that `rewound` trained.
        """
        if number == 0:
            saved = torch.load(self.kept, weights_only=True)
            gpt.rewind(model, saved["dense"])
            return {"preserved": saved["accuracy"]}
        return {"preserved": self.train(model, number, self.given.rewind_to)}

    def records(self, way: str) -> list[Record]:
        """All rounds of `rewound` (and what goes with it) or `preserved`."""
        goals = self.given.sparsities
        found = gpt.lottery(
            self.net(self.seed),
            getattr(self, way),
            goals[-1],
            steps=len(goals),
            schedule=lambda number, *_: 1 - goals[number - 1],
            initialisation=way,
            rewind_to=self.given.rewind_to,
            checkpoint=self.given.folder / f"{way}-{self.seed}.safetensors",
            progress=lambda text: print(f"seed {self.seed}, {way}: {text}", flush=True),
        )
        return [
            {"seed": self.seed, "round": r.number, "sparsity": r.sparsity, "way": w, "accuracy": a}
            for r in found.rounds
            for w, a in r.result.items()
        ]


def curves(records: Sequence[Record]) -> dict[str, list[tuple[float, list[float]]]]:
    """Way -> sparsity and the accuracies of all seeds there, in the order of rounds."""
    found: dict[str, dict[int, tuple[float, list[float]]]] = {w: {} for w in WAYS}
    for r in records:
        point = found[r["way"]].setdefault(r["round"], (r["sparsity"], []))
        point[1].append(r["accuracy"])
    return {w: [p[i] for i in sorted(p)] for w, p in found.items()}


def plot(records: Sequence[Record], path: Path) -> None:
    """Means, and from the lowest to the highest seed as a band."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "graphprune", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axis = figure.subplots()
        for way, points in curves(records).items():
            stays = [100 * (1 - s) for s, _ in points]
            (line,) = axis.plot(
                stays, [statistics.mean(v) for _, v in points], marker="o", ms=3, label=way
            )
            low, high = [min(v) for _, v in points], [max(v) for _, v in points]
            axis.fill_between(stays, low, high, alpha=0.15, color=line.get_color())
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_xlabel("weights that stay, %")
        axis.set_ylabel("accuracy, %")
        axis.grid(alpha=0.3)
        axis.legend()
        canvas = FigureCanvasSVG(figure)
        write_atomically(path, lambda file: canvas.print_svg(file, metadata={"Date": None}))


def page(records: Sequence[Record], given: argparse.Namespace) -> None:
    """The page and, beside it, the picture."""
    picture = given.out.with_suffix(".svg")
    plot(records, picture)
    found = curves(records)
    rows = []
    for i, (share, _) in enumerate(found["rewound"]):
        cells = [found[w][i][1] for w in WAYS]
        ahead = [a - b for a, b in zip(cells[0], cells[1], strict=True)]
        words = [f"{statistics.mean(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in cells]
        rows.append([f"{share:.1%}", *words, f"{statistics.mean(ahead):+.2f}"])
    settings = (
        f"ResNet-20 of {sum(p.numel() for p in net(0, 1).parameters()):,} parameters, its first "
        f"convolution at stride {given.stride}; {given.images:,} training images, {given.steps:,} "
        f"steps of {given.batch} a training, learning rate {LR} after a warm-up, then a cosine to "
        f"zero; rewound to step {given.rewind_to}; seeds {', '.join(map(str, given.seeds))}. "
        "Accuracy in % on the test images: mean (lowest to highest); the last column is the mean "
        "of the differences within a seed."
    )
    header = ["zeros", *WAYS, "rewound - random"]
    write_page(
        given.out,
        "Lottery tickets",
        [
            "What a masked net is trained from (`python -m tools.lottery`): see its docstring for "
            "the four ways.",
            settings,
            f"![accuracy over sparsity]({picture.name})",
            table(header, rows, right=range(6)),
            "\n".join(environment()),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> list[Record]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.75, 0.9, 0.95, 0.98])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rewind-to", type=int, default=60)
    parser.add_argument("--stride", type=int, default=3)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    setting = {n: getattr(given, n) for n in SETTING}
    known = given.folder / "setting.json"
    if known.exists() and json.loads(known.read_text()) != setting:
        parser.error(f"{given.folder} holds runs of another setting: give another --folder")
    known.write_text(json.dumps(setting))
    file = given.folder / "lottery.json"
    records: list[Record] = json.loads(file.read_text()) if file.exists() else []
    for seed in given.seeds:
        for way in ("rewound", "preserved"):
            if not any(r["seed"] == seed and r["way"] == way for r in records):
                records += Runs(given, seed).records(way)
                text = json.dumps(records, indent=1).encode()
                write_atomically(file, lambda f, text=text: f.write(text))
    if given.out:
        page([r for r in records if r["seed"] in given.seeds], given)
    return records


if __name__ == "__main__":
    main()
