"""Accuracy of the Fashion-MNIST ResNet after distillation without labels.

    python -m tools.distill [--macs 0.5 0.25] [--minutes 2] [--cpu-time] [--inputs 59000]
        [--seeds 0] [--out docs/accuracy-distillation.md]

The model is pruned and refitted with 512 calibration images, then trained to give what the original
gives on training images without their labels (of which the last 1,000, where calibration images
come from, are left out). Scored on all 10,000 test images.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import graphprune
from graphprune import zoo
from graphprune.data.feeds import read_calibration
from graphprune.distill import train as training
from graphprune.distill.run import distill
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from models_zoo.recipes.fashion import DEBIAN_FOLDER, HELD_OUT, read_split
from tools._common import environment, table, write_page

NAME = "resnet-fashion"


def as_pixels(images: np.ndarray) -> np.ndarray:
    return images[:, None].astype(np.float32) / 255


def accuracy(model: ir.Model, split: Any) -> float:
    with Session(model) as session:
        hits = 0
        for i in range(0, len(split.images), 500):
            scores = session.run({"pixels": as_pixels(split.images[i : i + 500])})
            found = next(iter(scores.values())).argmax(1)
            hits += int((found == split.labels[i : i + 500]).sum())
    return hits / len(split.images)


def row(given: argparse.Namespace, ratio: float, seed: int, test: Any, train: Any) -> list[object]:
    path = str(zoo.get(NAME).path)
    original = canonicalise(load(path).model)
    made = graphprune.compile(
        path,
        macs=ratio,
        criterion=given.criterion,
        calib=zoo.get(NAME).calibration(),
        calib_samples=512,
        bench=False,
        seed=seed,
    )
    order = np.random.default_rng(seed).permutation(len(train.images) - HELD_OUT)
    images = as_pixels(train.images[order[: given.inputs]])
    model, report = distill(
        original,
        made.model,
        made.plan,
        read_calibration(images, original, len(images)),
        minutes=given.minutes,
        lr=given.lr,
        seed=seed,
        threads=1,
    )
    for step, seconds, error in report.history:
        print(f"  step {step:6d} {seconds:6.1f} s held-out error {error:.4f}", flush=True)
    base, before, after = (accuracy(m, test) for m in (original, made.model, model))
    return [
        ratio,
        seed,
        f"{given.minutes:g}",
        report.samples,
        report.steps,
        f"{report.lr:g}",
        f"{base:.4f}",
        f"{before:.4f}",
        f"{after:.4f}",
        f"{after - base:+.4f}",
        f"{report.start:.4f} -> {report.best:.4f}",
    ]


HEADER = (
    "--macs",
    "seed",
    "minutes",
    "inputs",
    "steps",
    "learning rate",
    "original",
    "refitted",
    "distilled",
    "against original",
    "held-out relative error of the logits",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.distill", description=__doc__)
    parser.add_argument("--macs", nargs="+", type=float, default=[0.5, 0.25])
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--inputs", type=int, default=59000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--criterion", default="energy")
    parser.add_argument("--lr", type=float, help="learning rate; default: the package's")
    parser.add_argument(
        "--cpu-time", action="store_true", help="minutes of CPU time, not by the clock"
    )
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.cpu_time:  # on a machine that others use, the clock says little
        training.perf_counter = time.process_time
    test, train = read_split(given.data, "t10k"), read_split(given.data, "train")
    rows = []
    for ratio in given.macs:
        for seed in given.seeds:
            rows.append(row(given, ratio, seed, test, train))
            print(*rows[-1], sep=" | ", flush=True)
    if given.out:
        parts = [
            f"Written by `python -m tools.distill {' '.join(sys.argv[1:])}`.",
            "ResNet-14 on Fashion-MNIST, all 10,000 test images. Pruned without training, refitted "
            "with 512 unlabelled images, then trained on unlabelled training images to give what the "
            "original gives. One thread, teacher included; minutes are of CPU time with `--cpu-time` (the "
            "machine was shared with other work).",
            "\n".join(environment()),
            table(HEADER, rows, tuple(range(6))),
        ]
        write_page(given.out, "Accuracy after distillation without labels", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
