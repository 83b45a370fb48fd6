"""What statistics and compensation cost on a large network, beside running it once.

    python -m tools.compensation_cost [--names resnet50 ...] [--samples 128] [--macs 0.5]
        [--cache FOLDER] [--out docs/results/compensation-cost.md]

Random live weights, random structured images, one thread; each model in a process of its own, which
reports its CPU seconds and its largest resident memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools._common import Record, environment, model_path, peak_rss_mb, run_child, table, write_page


def images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Images with coarse and fine structure, so that activations differ between places."""
    rng = np.random.default_rng(seed)
    count, channels, height, width = shape
    total = np.zeros(shape, np.float32)
    for size in (4, 16, 56):
        coarse = rng.normal(size=(count, channels, size, size)).astype(np.float32)
        rows, columns = (np.arange(n) * size // n for n in (height, width))
        total += coarse[:, :, rows][:, :, :, columns] * np.float32(3**-0.5)
    return total


def measure(name: str, cache: Path, samples: int, macs: float) -> Record:
    """Run the model on all inputs, then prune, score by data and refit it."""
    import graphprune
    from graphprune.onnx.load import load
    from graphprune.onnx.runtime import Session

    path = model_path(name, cache)
    value = load(path).model.graph.inputs[0]
    assert value.shape is not None
    shape = [d if isinstance(d, int) else 224 for d in value.shape]
    data = images((samples, *shape[1:]))
    spent: dict[str, float] = {}
    mark = [("", time.process_time())]

    def progress(stage: str, share: float = 0.0) -> None:
        now = time.process_time()
        spent[mark[0][0]] = spent.get(mark[0][0], 0.0) + now - mark[0][1]
        mark[0] = stage, now

    started = time.perf_counter()
    settings: dict[str, Any] = {"criterion": "energy", "calib": data, "calib_samples": samples}
    result = graphprune.compile(
        path, macs=macs, bench=False, verify=False, progress=progress, **settings
    )
    progress("end")
    clock, peak = time.perf_counter() - started, peak_rss_mb()
    with Session(path) as session:
        session.run({value.name: data[:8]})
        started = time.process_time()
        for at in range(0, samples, 8):
            session.run({value.name: data[at : at + 8]})
        once = time.process_time() - started
    after = ("", "load", "compensate", "measure", "report")
    drift = result.report.drift
    assert drift is not None
    return {
        "once": once,
        "statistics": sum(spent.values()) - sum(spent.get(s, 0.0) for s in after),
        "compensate": spent["compensate"],
        "refitted": drift.refitted,
        "before": drift.uncompensated[0]["relative"],
        "after": drift.outputs[0]["relative"],
        "clock": clock,
        "peak_mb": peak,
    }


HEADER = (
    "model",
    "layers refitted",
    "one run, s",
    "statistics, s",
    "compensate, s",
    "both / one run",
    "compile by the clock, s",
    "peak memory, MB",
    "held-out relative error",
)


def row(name: str, record: Record) -> list[object]:
    if "once" not in record:
        return [name, record.get("reason", "failed"), *[""] * 7]
    both = record["statistics"] + record["compensate"]
    return [
        name,
        record["refitted"],
        f"{record['once']:.1f}",
        f"{record['statistics']:.1f}",
        f"{record['compensate']:.1f}",
        f"{both / record['once']:.1f}",
        f"{record['clock']:.1f}",
        record["peak_mb"],
        f"{record['before']:.3f} -> {record['after']:.3f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.compensation_cost", description=__doc__)
    parser.add_argument("--names", nargs="+", default=["resnet50"])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--cache", type=Path, default=Path("models_zoo/cache"))
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--child")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.cache, given.samples, given.macs)))
        return 0
    rows = []
    for name in given.names:
        arguments = ["--child", name, "--cache", str(given.cache)]
        arguments += ["--samples", str(given.samples), "--macs", str(given.macs)]
        record = run_child("tools.compensation_cost", arguments, timeout=given.timeout, memory_gb=8)
        rows.append(row(name, record))
        print(*rows[-1], sep=" | ", flush=True)
    if given.out:
        parts = [
            f"Written by `python -m tools.compensation_cost` with --macs {given.macs} and "
            f"--samples {given.samples}. Seconds are CPU time, of the threads of a process together, "
            "where they are not by the clock; one run is onnxruntime "
            "on the same inputs, eight at a time; `statistics` analyses, collects statistics, "
            "scores, selects and rewrites. Memory is the largest resident set of the whole process. "
            "Random weights: the errors say that layers were fitted, nothing about accuracy.",
            "\n".join(environment()),
            table(HEADER, rows, (1, 2, 3, 4, 5, 6, 7)),
        ]
        write_page(given.out, "Cost of statistics and compensation", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
