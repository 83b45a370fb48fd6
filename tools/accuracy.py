"""Quality of the shipped models at budgets of MACs, with and without calibration inputs.

    python -m tools.accuracy [--names resnet-fashion ...] [--macs 0.7 0.5 0.25]
        [--criteria l2] [--seeds 0 1 2] [--out docs/accuracy-calibration.md]

Every model is pruned without training. Calibration inputs are unlabelled and apart from the ones
that are scored. Seeds choose which calibration inputs are used and which rows of them are looked at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
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


def measure(
    names: Sequence[str], ratios: Sequence[float], seeds: Sequence[int], criteria: Sequence[str]
) -> list[list[object]]:
    rows: list[list[object]] = []
    for name in names:
        entry = zoo.get(name)
        base = entry.evaluate_file()
        for criterion in criteria:
            for ratio in ratios:
                rows.append(_row(entry, base, criterion, ratio, seeds))
                print(*rows[-1], sep=" | ", flush=True)
    return rows


def _row(
    entry: Any, base: float, criterion: str, ratio: float, seeds: Sequence[int]
) -> list[object]:
    settings: dict[str, Any] = {"macs": ratio, "bench": False}
    try:
        plain = graphprune.compile(str(entry.path), **settings)
    except GraphpruneError as error:
        return [entry.name, criterion, ratio, f"{base:.4f}", str(error), "", "", "", "", ""]
    found, seconds, drifts = [], [], []
    for seed in seeds:
        start = perf_counter()
        result = graphprune.compile(
            str(entry.path),
            **settings,
            criterion=criterion,
            seed=seed,
            calib=calibration(entry, seed),
        )
        seconds.append(result.report.timings_s["compensate"])
        assert perf_counter() > start
        found.append(quality(entry, result.model))
        drifts.append(result.report.drift)
    middle = median(found)
    drift = drifts[0]
    return [
        entry.name,
        criterion,
        ratio,
        f"{base:.4f}",
        f"{quality(entry, plain.model):.4f}",
        f"{middle:.4f}",
        f"{min(found):.4f}-{max(found):.4f}",
        f"{middle - base:+.4f}",
        f"{drift.uncompensated[0]['relative']:.3f} -> {drift.outputs[0]['relative']:.3f}",
        f"{median(seconds):.1f}",
    ]


HEADER = (
    "model",
    "--criterion",
    "--macs",
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
    parser.add_argument("--criteria", nargs="+", default=["l2", "energy"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = measure(given.names, given.macs, given.seeds, given.criteria)
    if given.out:
        parts = [
            f"Written by `python -m tools.accuracy {' '.join(sys.argv[1:])}`.",
            "Accuracy or AUC on the labelled set that ships with each model; at most 256 unlabelled "
            "calibration inputs apart from it. No training, one thread.",
            "\n".join(environment()),
            table(HEADER, rows, (2,)),
        ]
        write_page(given.out, "Accuracy with calibration inputs", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
