"""What a sensitivity analysis costs beside the bare evaluations it needs, and with two processes.

    python -m tools.sensitivity_cost --packages FOLDER --cache FOLDER [--names minilm-l6]
        [--rounds 3] [--samples 128] [--out docs/results/sensitivity-cost.md]

A bare evaluation is a run of the *original* in onnxruntime on the inputs that damage is judged on, one
thread, without making a session. There is one for each group and width without compensation, and one
with it. One and two processes take turns; seconds are by the clock, so nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import graphprune
from graphprune.damage.run import judged_feeds
from graphprune.data.feeds import read_calibration
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from tools._common import environment, table, write_page
from tools.accuracy_case import Case

FRACTIONS = tuple(i / 9 for i in range(1, 9))


def bare(case: Case, feeds: Any, samples: int, rounds: int) -> float:
    """Seconds of one bare evaluation."""
    model = canonicalise(load(str(case.path)).model)
    judged = judged_feeds(read_calibration(feeds, model, samples))
    times = []
    with Session(model) as session:
        for _ in range(rounds + 1):
            started = time.perf_counter()
            for feed in judged:
                session.run(feed)
            times.append(time.perf_counter() - started)
    return median(times[1:])


def once(case: Case, feeds: Any, samples: int, jobs: int) -> tuple[float, int, str]:
    """Seconds of an analysis, how many evaluations it made, and what it found."""
    started = time.perf_counter()
    found, _ = graphprune.sensitivity(
        str(case.path),
        calib=feeds,
        calib_samples=samples,
        fractions=FRACTIONS,
        dims=dict(case.dims),
        jobs=jobs,
    )
    seconds = time.perf_counter() - started
    plain = [asdict(m) for m in found.measurements]
    return seconds, 2 * len(plain), json.dumps(plain, sort_keys=True)


def row(case: Case, samples: int, rounds: int) -> list[object]:
    feeds = case.calibrate(0, samples)
    one, two, count = [], [], 0
    for _ in range(rounds):
        seconds, count, first = once(case, feeds, samples, 1)
        one.append(seconds)
        seconds, _, second = once(case, feeds, samples, 2)
        two.append(seconds)
        assert first == second, "two processes found something else"
        print(one, two, flush=True)
    each = bare(case, feeds, samples, rounds + 2)
    return [
        case.name,
        count,
        f"{each * count:.1f}",
        _spread(one),
        f"{median(one) / (each * count):.2f}",
        _spread(two),
        f"{median(one) / median(two):.2f}",
    ]


def _spread(times: list[float]) -> str:
    return f"{median(times):.1f} ({min(times):.1f} to {max(times):.1f})"


HEADER = (
    "model",
    "evaluations",
    "bare, s",
    "one process, s",
    "one process / bare",
    "two processes, s",
    "one / two",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sensitivity_cost", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["minilm-l6"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from tools.accuracy_cases import CASES  # not in the processes that are started

    rows = []
    for name in given.names:
        rows.append(row(CASES[name](given.packages, given.cache), given.samples, given.rounds))
        print(*rows[-1], sep=" | ", flush=True)
    if given.out:
        parts = [
            "Written by `python -m tools.sensitivity_cost`: all groups of a model at eight widths each, "
            "with and without compensation. `bare` is the time that onnxruntime takes to run the "
            "original as often on the judged inputs, sessions ready. Medians by the clock (ranges in "
            f"brackets) of {given.rounds} rounds in which one and two processes take turns; what both "
            "find is compared, and equal.",
            "\n".join(environment()),
            table(HEADER, rows, (1, 2, 3, 4, 5, 6)),
        ]
        write_page(given.out, "Cost of a sensitivity analysis", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
