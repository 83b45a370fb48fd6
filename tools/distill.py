"""Quality of pruned real models after distillation without labels.

    python -m tools.distill [--names resnet-fashion minilm-l3] [--macs 0.5 0.25] [--minutes 2]
        [--cpu-time] [--inputs 59000] [--seeds 0] [--packages FOLDER --cache FOLDER]
        [--out docs/accuracy-distillation.md]

A model is pruned and refitted with 512 calibration inputs, then trained to give what the original
gives on more inputs, without labels. `resnet-fashion` and those that are called after it learn from the
training images of Fashion-MNIST (without the last 1,000, where their calibration images come from)
and are scored on all 10,000 test images. The other names are cases of `tools/accuracy_cases.py`,
which says what `--packages` holds; they learn from their calibration inputs, and are scored on others.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir

import graphprune
from graphprune import zoo
from graphprune.data.feeds import read_calibration
from graphprune.distill import pace
from graphprune.distill import train as training
from graphprune.distill.run import distill
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from models_zoo.recipes.fashion import DEBIAN_FOLDER, HELD_OUT, read_split
from tools._common import environment, table, write_page
from tools.accuracy_case import Case, Feeds, Run, in_batches, joined
from tools.accuracy_cases import CASES

FASHION = "resnet-fashion"

FITTED = 512
"""Inputs that layers are refitted to."""


def pixels(images: np.ndarray) -> np.ndarray:
    return images[:, None].astype(np.float32) / 255


def fashion(data: Path, path: Path | None = None) -> Case:
    """The zoo's network, or that of another file, with all training images to learn from."""
    test, train = read_split(data, "t10k"), read_split(data, "train")
    entry = zoo.get(FASHION)
    path = entry.path if path is None else path

    def calibrate(seed: int, count: int) -> list[Feeds]:
        if count <= FITTED:
            return entry.calibration()
        order = np.random.default_rng(seed).permutation(len(train.images) - HELD_OUT)[:count]
        return in_batches(train.images[order], "pixels", pixels)

    def score(run: Run) -> dict[str, float]:
        feeds = in_batches(test.images, "pixels", pixels)
        return {"accuracy": float((joined(run, feeds).argmax(1) == test.labels).mean())}

    return Case(path.stem, "accuracy", None, path, calibrate, score)


def case_of(name: str, given: argparse.Namespace) -> Case:
    """The case of that name; those of Fashion-MNIST learn from more than they are refitted to."""
    if name == FASHION:
        return fashion(given.data)
    case = CASES[name](given.packages, given.cache)
    return fashion(given.data, case.path) if name.startswith(FASHION) else case


def quality(case: Case, model: ir.Model) -> dict[str, float]:
    with Session(model) as session:
        return case.score(session.run)


def row(given: argparse.Namespace, case: Case, ratio: float, seed: int) -> list[object]:
    original = canonicalise(load(str(case.path)).model)
    made = graphprune.compile(
        str(case.path),
        macs=ratio,
        criterion=given.criterion,
        calib=case.calibrate(seed, FITTED),
        calib_samples=FITTED,
        dims=case.dims,
        bench=False,
        seed=seed,
    )
    model, report = distill(
        original,
        made.model,
        made.plan,
        read_calibration(case.calibrate(seed, given.inputs), original, given.inputs),
        minutes=given.minutes,
        lr=given.lr,
        seed=seed,
        threads=1,
    )
    for step, seconds, error in report.history:
        print(f"  step {step:6d} {seconds:6.1f} s held-out error {error:.4f}", flush=True)
    base, before, after = (quality(case, m) for m in (original, made.model, model))
    return [
        case.name,
        ratio,
        seed,
        f"{given.minutes:g}",
        report.samples,
        report.steps,
        report.batch,
        f"{report.lr:g}",
        _figures(base),
        _figures(before),
        _figures(after),
        ", ".join(f"{after[n] - base[n]:+.4f}" for n in base),
        f"{report.start:.4f} -> {report.best:.4f}",
    ]


def _figures(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


HEADER = (
    "model",
    "--macs",
    "seed",
    "minutes",
    "inputs",
    "steps",
    "samples in a step",
    "learning rate",
    "original",
    "refitted",
    "distilled",
    "against original",
    "held-out relative squared error of the outputs",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.distill", description=__doc__)
    parser.add_argument("--names", nargs="+", default=[FASHION])
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="minutes of CPU, not by the clock")
    parser.add_argument("--inputs", type=int, default=59000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--criterion", default="energy")
    parser.add_argument("--lr", type=float, help="learning rate; default: the package's")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--packages", type=Path, help="see tools/accuracy_cases.py")
    parser.add_argument("--cache", type=Path, help="folder for what is made once")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.cpu_time:  # on a machine that others use, the clock says little
        training.perf_counter = pace.perf_counter = time.process_time  # type: ignore[assignment]
    rows = []
    for name in given.names:
        case = case_of(name, given)
        for ratio in given.macs:
            for seed in given.seeds:
                rows.append(row(given, case, ratio, seed))
                print(*rows[-1], sep=" | ", flush=True)
    if given.out:
        parts = [
            f"Written by `python -m tools.distill {' '.join(sys.argv[1:])}`.",
            "Pruned without training, refitted with 512 unlabelled inputs, then trained on unlabelled "
            "inputs to give what the original gives; scored on others. One thread, teacher included; "
            "minutes are of CPU time with `--cpu-time` (the machine was shared with other work).",
            "\n".join(environment()),
            table(HEADER, rows, tuple(range(1, 8))),
        ]
        write_page(given.out, "Accuracy after distillation without labels", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
