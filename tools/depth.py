"""What it costs to leave whole layers out, beside as many parameters taken from inside of layers.

    python -m tools.depth --packages FOLDER --cache FOLDER [--names minilm-l6 minilm-l3 resnet-fashion]
        [--leave 1 2 3] [--seeds 0 1 2] [--samples 256] [--json FILE] [--out docs/results/depth.md]

`tools/accuracy_cases.py` says what the folders hold, and has the models, the data and the metrics.
Nothing is trained. `layers, by X` leaves layers out and does nothing else; `+ refit` refits what
stands behind them to calibration inputs, `+ linear` puts a linear map in their place. `neurons` and
`widths` take as many parameters from the neurons of MLPs, or from all groups evenly, at most. With
`--json` an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import graphprune
from graphprune.errors import GraphpruneError
from graphprune.onnx.canonical import canonicalise
from graphprune.onnx.layers import layers_of
from graphprune.onnx.load import load
from graphprune.onnx.runtime import Session
from graphprune.onnx.shapes import default_bindings, shape_pair
from tools._common import Record, Results, environment, table, write_page
from tools.accuracy_case import Case
from tools.accuracy_cases import CASES

LAYERS: Mapping[str, Mapping[str, Any]] = {
    "layers, by damage": {},
    "layers, by cosine": {"layer_criterion": "cosine"},
    "layers, by damage + refit": {"refit": True},
    "layers, by damage + linear + refit": {"refit": True, "linear_layers": True},
}
WIDTHS: Mapping[str, Mapping[str, Any]] = {
    "neurons, by L2": {"kind": "neuron"},
    "neurons, by energy + refit": {"kind": "neuron", "refit": True},
    "widths, by L2": {},
    "widths, by energy + refit": {"refit": True},
}


def count_layers(case: Case) -> int:
    model = canonicalise(load(case.path).model)
    return len(layers_of(model, shape_pair(model, *default_bindings(model, case.dims))))


def without_layers(case: Case, feeds: Any, leave: int, total: int, how: Mapping[str, Any]) -> Any:
    """A result whose layers were chosen by calibration inputs; refitted to them only if asked."""
    settings = {k: v for k, v in how.items() if k != "refit"}
    found = graphprune.compile(
        str(case.path), layers=(total - leave) / total, calib=feeds, calib_samples=100_000,
        bench=False, dims=dict(case.dims), **settings,
    )  # fmt: skip
    if how.get("refit"):
        return found
    return graphprune.compile(str(case.path), plan=found.plan, bench=False, dims=dict(case.dims))


def narrower(case: Case, feeds: Any, share: float, how: Mapping[str, Any]) -> Any:
    """A result with at most a share of the parameters, taken from groups of one kind or all."""
    settings: dict[str, Any] = {}
    if kind := how.get("kind"):
        groups = graphprune.analyse(str(case.path), dims=dict(case.dims)).groups
        settings["only"] = tuple(g.name for g in groups if g.kind == kind)
        if not settings["only"]:
            raise graphprune.errors.UsageError(f"no group is of the kind {kind}")
    if how.get("refit"):
        settings |= {"calib": feeds, "calib_samples": 100_000}
    return graphprune.compile(
        str(case.path), params=share, align=1, bench=False, dims=dict(case.dims), **settings
    )


def measure(case: Case, result: Any) -> Record:
    before, after = result.report.original, result.report.pruned
    with Session(result.model) as session:
        scores = case.score(session.run)
    return {
        "scores": {name: round(value, 5) for name, value in scores.items()},
        "params": after.params / before.params,
        "macs": after.macs / before.macs,
        "layers": [cut.name for cut in result.plan.layers],
    }


def run(given: argparse.Namespace) -> Results:
    results = Results(given.json)

    def once(key: str, make: Any) -> Record:
        if key not in results.records:
            try:
                results.add(key, make())
            except GraphpruneError as error:
                results.add(key, {"reason": str(error)})
            print(key, results.records[key], flush=True)
        return results.records[key]

    for name in given.names:
        case = CASES[name](given.packages, given.cache)
        with Session(case.path) as session:
            once(f"{name} | original", lambda c=case, s=session: {"scores": c.score(s.run)})
        total = count_layers(case)
        for seed in given.seeds:
            feeds = case.calibrate(seed, given.samples)
            for leave in (n for n in given.leave if n < total):
                share = 1.0
                for way, how in LAYERS.items():
                    found = once(
                        f"{name} | {leave} | {way} | {seed}",
                        lambda c=case, f=feeds, n=leave, t=total, h=how: measure(
                            c, without_layers(c, f, n, t, h)
                        ),
                    )
                    share = min(share, found.get("params", 1.0))
                for way, how in WIDTHS.items():
                    if not how.get("refit") and seed != given.seeds[0]:
                        continue  # no data, no chance
                    once(
                        f"{name} | {leave} | {way} | {seed}",
                        lambda c=case, f=feeds, s=share, h=how: measure(c, narrower(c, f, s, h)),
                    )
    return results


def rows(records: Mapping[str, Record], name: str) -> Iterator[Sequence[object]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for key, record in records.items():
        parts = key.split(" | ")
        if parts[0] == name and len(parts) == 4:
            found.setdefault((parts[1], parts[2]), []).append(record)
    for leave in dict.fromkeys(k[0] for k in found):
        for way in (*LAYERS, *WIDTHS):
            runs = found.get((leave, way), [])
            done = [r for r in runs if "scores" in r]
            if runs and not done:
                yield [leave, way, runs[0]["reason"], "", "", ""]
            if not done:
                continue
            cells = []
            for metric in done[0]["scores"]:
                values = sorted(r["scores"][metric] for r in done)
                spread = f" ({values[0]:.4f} to {values[-1]:.4f})" if len(values) > 1 else ""
                cells.append(f"{metric} {median(values):.4f}{spread}")
            costs = [f"{median(r[k] for r in done):.3f}" for k in ("params", "macs")]
            which = {", ".join(r["layers"]) for r in done}
            yield [leave, way, "; ".join(cells), *costs, " or ".join(sorted(which))]


def page(records: Mapping[str, Record], given: argparse.Namespace) -> None:
    parts = [
        "Written by `tools/depth.py`; its first lines say what the rows are and how to repeat them. "
        f"{given.samples} calibration inputs without labels, seeds {', '.join(map(str, given.seeds))}: "
        "median (lowest to highest). Parameters and MACs are the share that is left.",
        "\n".join(environment()),
    ]
    header = ("left out", "what leaves", "quality", "parameters", "MACs", "layers")
    for name in given.names:
        first = records[f"{name} | original"]["scores"]
        said = ", ".join(f"{metric} {value:.4f}" for metric, value in first.items())
        parts.append(
            f"## {name}\n\nOriginal: {said}.\n\n" + table(header, rows(records, name), (3, 4))
        )
    write_page(given.out, "Whole layers left out, measured", parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.depth", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--names", nargs="+", default=["minilm-l6", "minilm-l3", "resnet-fashion"])
    parser.add_argument("--leave", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    results = run(given)
    if given.out:
        page(results.records, given)


if __name__ == "__main__":
    main()
