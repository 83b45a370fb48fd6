"""What latency-aware widths gain over an even ratio: damage at equal time, time at equal damage.

    python -m tools.latency_damage MODEL.onnx... --cache FOLDER [--json FILE]
        [--out docs/results/latency-damage.md]

Damage is what the allocation makes least: the sum over groups of each group's measured curve
(`graphprune sensitivity`, inputs of coarse and fine structure, or random tokens), whichever way the
widths were chosen. Curves and latency tables are kept in the cache; models are timed interleaved, one
thread, batch 1, and nothing else should run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import graphprune
from graphprune.damage.result import Sensitivity
from graphprune.damage.run import FRACTIONS
from graphprune.report.model import Report
from tools._common import Record, Results, environment, table, write_page

RATIO, SAMPLES, TRIES = 0.5, 32, 6
NEAR = 0.03
"""Damages are called equal where they differ by less than this share."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.latency_damage", description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--target", type=float, default=0.6, help="time that both are to take")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="what is equal")
    parser.add_argument("--curves-only", action="store_true", help="no timing: others may run")
    parser.add_argument("--jobs", type=int, default=1, help="processes that measure curves")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = Results(given.json)
    for path in given.models:
        file = curves_of(path, given.cache, given.jobs)
        if given.curves_only:
            continue
        settings = {
            "residual": True,
            "verify": False,
            "latency_table": str(given.cache / f"{path.stem}.latency.json"),
        }
        for kind in given.kinds:
            measure = KINDS[kind]
            key = f"{path.stem} {kind}"
            if key not in results.records:
                results.add(key, measure(path, file, settings, given.target))
            print(key, results.records[key], flush=True)
    if given.out:
        write_page(given.out, "Latency-aware widths beside an even ratio", page(results))
    return 0


def curves_of(path: Path, cache: Path, jobs: int) -> Path:
    """The model's damage curves, measured where they are not there yet."""
    file = cache / f"{path.stem}.sensitivity.json"
    if not file.exists():
        found, warnings = graphprune.sensitivity(
            str(path),
            calib=inputs(path),
            calib_samples=SAMPLES,
            fractions=FRACTIONS,
            residual=True,
            jobs=jobs,
            checkpoint=file.with_suffix(".part"),
        )
        print(path.stem, *warnings, sep="\n  ", flush=True)
        found.save(file)
    return file


def inputs(path: Path) -> dict[str, np.ndarray]:
    """Structured images or random tokens in the shapes that the model declares."""
    from models_zoo.builders.live import live_images

    feeds = {}
    for value in onnx.load(str(path), load_external_data=False).graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            sizes = [d or 224 for d in dims[1:]]
            feeds[value.name] = live_images((SAMPLES, *sizes), 0).numpy()
        elif "mask" in value.name:
            feeds[value.name] = np.ones((SAMPLES, dims[1] or 128), np.int64)
        else:
            tokens = np.random.default_rng(0).integers(0, 20000, (SAMPLES, dims[1] or 128))
            feeds[value.name] = tokens
    return feeds


def equal_time(path: Path, curves: Path, settings: Mapping[str, Any], target: float) -> Record:
    """An even ratio that takes `target` of the time, and widths of least damage that take as long."""
    even = facts(graphprune.compile(str(path), latency=target, **settings).report, curves)
    return {"even": even, "aware": as_long(path, curves, settings, even["time"])}


def time_of_half(path: Path, curves: Path, settings: Mapping[str, Any], _target: float) -> Record:
    """`--channels 0.5`, and widths of least damage that take as long."""
    even = half(path, curves, settings)
    return {"even": even, "aware": as_long(path, curves, settings, even["time"])}


def as_long(path: Path, curves: Path, settings: Mapping[str, Any], time: float) -> Record:
    report = graphprune.compile(str(path), latency=time, ratios_from=str(curves), **settings).report
    return facts(report, curves)


def half(path: Path, curves: Path, settings: Mapping[str, Any]) -> Record:
    untimed = {k: v for k, v in settings.items() if k != "latency_table"}
    report = graphprune.compile(str(path), channels=RATIO, **untimed).report
    return facts(report, curves)


def equal_damage(path: Path, curves: Path, settings: Mapping[str, Any], _target: float) -> Record:
    """`--channels 0.5`, and the fastest widths that are found to lose no more."""
    even = half(path, curves, settings)
    low, high = 0.3 * even["time"], min(1.3 * even["time"], 0.95)
    best = None
    for _ in range(TRIES):
        asked = (low * high) ** 0.5
        found = as_long(path, curves, settings, asked)
        if found["damage"] > even["damage"]:
            low = asked
            continue
        high = asked
        best = found if best is None or found["time"] < best["time"] else best
        if found["damage"] > (1 - NEAR) * even["damage"]:
            break
    return {"even": even, "aware": best}


def facts(report: Report, file: Path) -> Record:
    """Shares of time and multiply-adds that a model keeps, and its summed damage."""
    assert report.latency is not None
    curves = Sensitivity.load(file).curves()
    damage = sum(curves[g.name].at(g.after / g.before) for g in report.groups if g.name in curves)
    return {
        "time": 1 / report.latency.ratio,
        "interval": [1 / r for r in reversed(report.latency.interval)],
        "macs": report.pruned.macs / report.original.macs,
        "damage": damage,
        "without_curve": sum(g.name not in curves for g in report.groups),
    }


KINDS = {"time": equal_time, "half": time_of_half, "damage": equal_damage}

HEADER = (
    *("model", "even: time", "MACs", "efficiency", "damage"),
    *("aware: time", "MACs", "efficiency", "damage"),
)


def page(results: Results) -> list[str]:
    parts = [
        "Written by `tools/latency_damage.py`. *Time* and *MACs* are shares of the original's, "
        "*efficiency* is the share of MACs over the share of time, *damage* the sum of the groups' "
        f"measured curves. Curves from {SAMPLES} made-up inputs; weights are live random ones, since "
        "trained ones of these architectures cannot be had here. `residual=True`, default alignment. "
        "Intervals of measured times in brackets.",
        "\n".join(environment()),
    ]
    titles = {
        "time": "## At equal time\n\nEven: `--latency`; aware: `--latency` of the time that the even "
        "one took, with `--ratios-from`.",
        "half": f"## In the time of `--channels {RATIO:g}`\n\nAware: `--latency` of the time that the "
        "even one took, with `--ratios-from`.",
        "damage": f"## At equal damage\n\nEven: `--channels {RATIO:g}`; aware: the fastest "
        "`--latency` with `--ratios-from` that was found to lose no more, by bisection.",
    }
    for kind, words in titles.items():
        rows = []
        for key, record in results.records.items():
            name, _, which = key.rpartition(" ")
            if which == kind:
                rows.append([name, *_cells(record["even"]), *_cells(record["aware"])])
        parts += [words, table(HEADER, rows, range(1, len(HEADER)))]
    return parts


def _cells(found: Record | None) -> list[str]:
    if found is None:
        return ["none found", "", "", ""]
    low, high = found["interval"]
    return [
        f"{found['time']:.3f} ({low:.3f} to {high:.3f})",
        f"{found['macs']:.3f}",
        f"{found['macs'] / found['time']:.3f}",
        f"{found['damage']:.3g}",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
