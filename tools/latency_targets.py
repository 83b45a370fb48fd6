"""How close `--latency` comes to what was asked for, and in how many tries.

    python -m tools.latency_targets FILE... [--target 0.6] [--options residual=True ...]
        [--json FILE] [--out docs/results/latency-targets.md]

Each model is compiled with `--latency TARGET`; what is told is the time of the finished model against
the original's, measured anew, interleaved, after the search. The first try shows how good the table
alone is: it is the budget as the table predicts it.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools._common import Record, Results, environment, run_child, table, write_page

HEADER = (
    *("model", "asked", "measured", "interval", "off by", "table alone", "tries"),
    *("MACs kept", "efficiency", "table s", "search s"),
)


def measure(file: str, target: float, options: Mapping[str, Any]) -> Record:
    """Compile one model to a measured time."""
    import graphprune

    report = graphprune.compile(file, latency=target, verify=False, **options).report
    latency, search = report.latency, report.search
    assert latency is not None
    assert search is not None
    return {
        "outcome": "done",
        "asked": target,
        "measured": 1 / latency.ratio,
        "interval": [1 / latency.interval[1], 1 / latency.interval[0]],
        "tries": [[t["budget"], t["found"]] for t in search["tries"]],
        "macs": report.pruned.macs / report.original.macs,
        "table_s": report.timings_s["survey"],
        "search_s": report.timings_s["aim"],
    }


def _row(name: str, r: Record) -> Sequence[object]:
    if r["outcome"] != "done":
        return [name, r.get("reason", r["outcome"]), *[""] * (len(HEADER) - 2)]
    low, high = r["interval"]
    return [
        name,
        r["asked"],
        f"{r['measured']:.3f}",
        f"{low:.3f} to {high:.3f}",
        f"{100 * (r['measured'] / r['asked'] - 1):+.1f} %",
        f"{r['tries'][0][1]:.3f}",
        len(r["tries"]),
        f"{r['macs']:.3f}",
        f"{r['macs'] / r['measured']:.2f}",
        f"{r['table_s']:.0f}",
        f"{r['search_s']:.0f}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.latency_targets", description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--target", type=float, default=0.6)
    parser.add_argument("--options", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one model")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = {n: ast.literal_eval(v) for n, _, v in (o.partition("=") for o in given.options)}
    if given.one:
        print(json.dumps(measure(given.one, given.target, options)))
        return 0
    results = Results(given.json)
    for file in given.files:
        arguments = ["--one", file, "--target", str(given.target)]
        if given.options:
            arguments += ["--options", *given.options]
        record = run_child("tools.latency_targets", arguments, timeout=given.timeout, memory_gb=8)
        results.add(Path(file).stem, record)
        print(*_row(Path(file).stem, record), sep=" | ", flush=True)
    if given.out:
        rows = [_row(name, record) for name, record in results.records.items()]
        parts = [
            "Written by `tools/latency_targets.py`: what `--latency` was asked for, and the finished "
            "model's time against the original's, interleaved in onnxruntime on one thread at batch 1. "
            "*table alone* is what the first try measured: the budget as the latency table predicts it. "
            "*efficiency* is the share of MACs kept over the share of time.",
            "\n".join(environment()),
            table(HEADER, rows, range(1, len(HEADER))),
        ]
        write_page(given.out, "Latency targets", parts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
