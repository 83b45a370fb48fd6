"""Quality of the shipped models at budgets of MACs, with and without calibration inputs.

    python -m tools.accuracy [--names resnet-fashion ...] [--macs 0.7 0.5 0.25]
        [--select energy:local energy:global] [--samples 512] [--seeds 0 1 2]
        [--out docs/accuracy-calibration.md]

Every model is pruned without training. Calibration inputs are unlabelled and apart from the ones
that are scored. Seeds choose which calibration inputs are used and which rows of them are looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import graphprune
from graphprune import zoo
from graphprune.errors import GraphpruneError
from graphprune.onnx.runtime import Session
from tools._common import environment, table, write_page

FRAMES = 25
"""Of a recording in one feed: a stateful model takes sequences, each starts from zero state."""


def calibration(entry: Any, seed: int) -> list[dict[str, np.ndarray]]:
    """The entry's calibration inputs in small feeds, in an order drawn by `seed`."""
    feeds: list[dict[str, np.ndarray]] = []
    for batch in entry.calibration():
        first = next(iter(batch.values()))
        step = FRAMES if len(batch) > 1 else 8
        for start in range(0, len(first), step):
            part = {
                n: a[start : start + step] if len(a) == len(first) else a for n, a in batch.items()
            }
            feeds.append(part)
    order = np.random.default_rng(seed).permutation(len(feeds))
    return [feeds[i] for i in order]


def quality(entry: Any, model: Any) -> float:
    with Session(model) as session:
        return float(entry.evaluate(session.run))


def measure(given: argparse.Namespace) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in given.names:
        entry = zoo.get(name)
        base = entry.evaluate_file()
        for ratio in given.macs:
            plain = _plain(entry, ratio)
            for select in given.select:
                rows.append(_row(entry, base, plain, select, ratio, given.samples, given.seeds))
                print(*rows[-1], sep=" | ", flush=True)
    return rows


def _plain(entry: Any, ratio: float) -> str:
    """The metric of what the default options make, without data."""
    try:
        model = graphprune.compile(str(entry.path), macs=ratio, bench=False).model
    except GraphpruneError as error:
        return str(error)
    return f"{quality(entry, model):.4f}"


def _row(
    entry: Any,
    base: float,
    plain: str,
    select: str,
    ratio: float,
    samples: int,
    seeds: Sequence[int],
) -> list[object]:
    found, seconds, drifts = [], [], []
    criterion, _, scope = select.partition(":")
    for seed in seeds:
        result = graphprune.compile(
            str(entry.path),
            macs=ratio,
            bench=False,
            criterion=criterion,
            scope=scope,
            seed=seed,
            calib=calibration(entry, seed),
            calib_samples=samples,
        )
        seconds.append(result.report.timings_s["compensate"])
        found.append(quality(entry, result.model))
        drifts.append(result.report.drift)
    middle = median(found)
    drift = drifts[0]
    return [
        entry.name,
        ratio,
        select,
        f"{base:.4f}",
        plain,
        f"{middle:.4f}",
        f"{min(found):.4f}-{max(found):.4f}",
        f"{middle - base:+.4f}",
        f"{drift.uncompensated[0]['relative']:.3f} -> {drift.outputs[0]['relative']:.3f}",
        f"{median(seconds):.1f}",
    ]


HEADER = (
    "model",
    "--macs",
    "--criterion:--scope",
    "original",
    "l2 without --calib",
    "with --calib (median)",
    "range",
    "against original",
    "held-out relative error",
    "seconds",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.accuracy", description=__doc__)
    parser.add_argument(
        "--names", nargs="+", default=["resnet-fashion", "text-angle", "silero-vad"]
    )
    parser.add_argument("--macs", nargs="+", type=float, default=[0.7, 0.5, 0.25])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--select", nargs="+", default=["energy:local", "energy:global"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = measure(given)
    if given.out:
        parts = [
            f"Written by `python -m tools.accuracy {' '.join(sys.argv[1:])}`.",
            "Accuracy or AUC on the labelled set that ships with each model; at most 512 unlabelled "
            "calibration inputs (or feeds) apart from it. No training, one thread.",
            "\n".join(environment()),
            table(HEADER, rows, (1,)),
        ]
        write_page(given.out, "Accuracy with calibration inputs", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
