"""What pruning buys: speed-up in onnxruntime, beside the MACs that were saved.

Efficiency is speed-up / (MACs before / MACs after): 1 is all that can be had. For every model given,
`--channels R` with the default alignment (and `--residual`), both graphs timed by
`graphprune.measure.latency`: interleaved blocks, batch 1.

    python -m tools.efficiency MODEL.onnx zoo:NAME ... --ratios 0.9 0.75 0.5
        --out docs/results/efficiency.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

import graphprune
from graphprune.errors import GraphpruneError
from tools._common import CPU_TIME, Results, environment, table, use_cpu_time, write_page

#: Efficiency to reach at `--channels 0.5` on one thread.
GOALS = {
    **{"resnet50": 0.97, "vgg16_bn": 0.97, "vit_b_16": 0.95, "bert-base": 0.95},
    **{"densenet121": 0.90, "mobilenet_v2": 0.90, "swin_t": 0.85, "efficientnet_b0": 0.85},
}

INTRODUCTION = """
`speed-up` is original / pruned latency, the median over pairs of interleaved blocks, with its interval;
`efficiency` is speed-up over the ratio of MACs. Whole heads, residual widths included, default alignment.
A model that would be slower is tried again on a coarser grid, as `graphprune compile` does.
"""


def measure(model: str, ratio: float, threads: int) -> dict[str, object]:
    """One row: what `compile` at `ratio` did."""
    try:
        result = graphprune.compile(
            model, channels=ratio, residual=True, verify=False, threads=threads
        )
    except GraphpruneError as error:
        return {"model": name_of(model), "ratio": ratio, "outcome": str(error)}
    report = result.report
    assert report.latency is not None
    macs = report.original.macs / report.pruned.macs
    low, high = report.latency.interval
    return {
        "model": name_of(model),
        "ratio": ratio,
        "macs": macs,
        "params": report.original.params / report.pruned.params,
        "before_ms": report.original.latency_ms,
        "after_ms": report.pruned.latency_ms,
        "speedup": report.latency.ratio,
        "low": low,
        "high": high,
        "efficiency": report.latency.ratio / macs,
        "outcome": report.latency.verdict,
    }


def name_of(model: str) -> str:
    """What the table calls it: a file without its folder and ending, or `zoo:NAME`."""
    return model if model.startswith("zoo:") else Path(model).stem


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="keep records here; what is there is not redone")
    parser.add_argument("--out", type=Path, help="write a page of Markdown")
    parser.add_argument("--cpu-time", action="store_true", help="on a machine that others use")
    given = parser.parse_args(argv)
    if given.cpu_time:
        if given.threads > 1:
            parser.error("--cpu-time is the time of one thread")
        use_cpu_time()
    results = Results(given.json)
    for model in given.models:
        for ratio in given.ratios:
            key = f"{name_of(model)} {ratio:g} {given.threads}"
            if key not in results.records:
                row = measure(model, ratio, given.threads) | {"cpu_time": given.cpu_time}
                results.add(key, row)
            print(results.records[key], flush=True)
    rows = []
    slower = [r for r in results.records.values() if r.get("speedup", 1.0) < 1.0]
    for row in results.records.values():
        if "speedup" not in row:
            rows.append([row["model"], row["ratio"], "", "", "", "", "", row["outcome"]])
            continue
        spread = f"{row['speedup']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        shared = " *" if row.get("cpu_time") else ""
        times = f"{row['before_ms']:.2f} to {row['after_ms']:.2f}{shared}"
        efficiency = f"{row['efficiency']:.3f}"
        macs = f"{row['macs']:.2f}x"
        goal = GOALS.get(row["model"], "") if row["ratio"] == 0.5 else ""
        figures = [macs, times, spread, efficiency, goal]
        rows.append([row["model"], row["ratio"], *figures, row["outcome"]])
    head = ["model", "keep", "MACs", "ms", "speed-up", "efficiency", "goal", "verdict"]
    if given.out:
        text = table(head, rows, range(2, 7))
        text += f"\n{len(results.records)} compiles, {len(slower)} of them below 1.0x.\n"
        if any(r.get("cpu_time") for r in results.records.values()):
            text += f"\n\\* {CPU_TIME}\n"
        write_page(
            given.out,
            "Speed-up and efficiency",
            ["\n".join(environment(given.threads)), INTRODUCTION, text],
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
