"""What calibration inputs that are noise do to a model, and whether that is noticed.

    python -m tools.off_distribution --packages FOLDER --cache FOLDER [--names page-orientation ...]
        [--macs 0.5] [--seeds 0 1 2] [--json FILE] [--out docs/results/off-distribution.md]

Noise is made from the case's own inputs: floats are normal with their mean and spread, or uniform in
their range; tokens are uniform from the least to the greatest id. Masks and the like stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import numpy as np

import graphprune
from graphprune.data.spread import NOISE, PIXELS, TOKENS
from tools._common import Record, Results, environment, table, write_page
from tools.accuracy_case import Case, Feeds

KINDS = ("normal", "uniform")
SAMPLES = 256
FEW = 64
"""Whole numbers of at most so many values are masks, kinds or flags: they stay."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.off_distribution", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--names", nargs="*", default=["page-orientation", "minilm-l3"])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from tools.accuracy_cases import CASES

    results = Results(given.json)
    for name in given.names:
        case = CASES[name](given.packages, given.cache)
        for seed in given.seeds:
            for kind in ("none", "own", *KINDS):
                key = f"{name} {given.macs:g} {kind} {seed}"
                if key not in results.records:
                    results.add(key, measure(case, kind, seed, given.macs))
                    print(key, results.records[key], flush=True)
    if given.out:
        write_page(given.out, "Calibration inputs that are noise", page(results, given.macs))
    return 0


def measure(case: Case, kind: str, seed: int, macs: float) -> Record:
    """One compile: its figure, and what was said about the inputs."""
    from graphprune.onnx.runtime import Session

    settings = {"macs": macs, "bench": False, "dims": dict(case.dims), "seed": seed}
    if kind != "none":
        feeds = case.calibrate(seed, SAMPLES)
        settings["calib"] = feeds if kind == "own" else noise(feeds, kind, seed)
        settings["calib_samples"] = SAMPLES
    result = graphprune.compile(str(case.path), **settings)
    with Session(result.model) as session:
        scores = case.score(session.run)
    said = [w for w in result.report.warnings if w in (NOISE, PIXELS, TOKENS)]
    return {"case": case.name, "metric": case.metric, "kind": kind, "scores": scores, "said": said}


def noise(feeds: list[Feeds], kind: str, seed: int) -> list[Feeds]:
    """The same shapes, and nothing of what was in them."""
    random = np.random.default_rng([seed, 1])
    made: list[Feeds] = [dict(feed) for feed in feeds]
    for name in feeds[0]:
        values = np.concatenate([f[name].ravel() for f in feeds])
        low, high = values.min(), values.max()
        for feed in made:
            x = feed[name]
            if x.dtype.kind == "f":
                drawn = random.uniform(low, high, x.shape)
                if kind == "normal":
                    drawn = random.normal(values.mean(), values.std(), x.shape)
                feed[name] = drawn.astype(x.dtype)
            elif len(np.unique(values)) > FEW:
                feed[name] = random.integers(low, high + 1, x.shape, dtype=x.dtype)
    return made


def page(results: Results, macs: float) -> list[str]:
    rows = []
    cases = dict.fromkeys((r["case"], r["metric"]) for r in results.records.values())
    for name, metric in cases:
        row: list[object] = [name, metric]
        for kind in ("none", "own", *KINDS):
            runs = [r for r in results.records.values() if (r["case"], r["kind"]) == (name, kind)]
            found = [r["scores"][metric] for r in runs]
            row.append(f"{median(found):.4f} ({min(found):.4f} to {max(found):.4f})")
            if kind != "none":
                row.append(f"{sum(bool(r['said']) for r in runs)} of {len(runs)}")
        rows.append(row)
    head = ["model", "metric", "no data", "own data", "warned"]
    head += [h for kind in KINDS for h in (f"{kind} noise", "warned")]
    return [
        f"Written by `tools/off_distribution.py` at `--macs {macs:g}` from {SAMPLES} inputs: the median "
        "over seeds with its range. Noise has the shapes of the model's own inputs; floats are normal "
        "with their mean and spread or uniform in their range, tokens are uniform over the ids that "
        "occur (so both kinds are the same for text).",
        "\n".join(environment()),
        table(head, rows, range(2, len(head))),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
