"""Quality of real trained models at budgets of MACs, pruned without training, beside other pruners.

    python -m tools.accuracy --packages FOLDER --cache FOLDER --json results.json
        [--names silero-vad ...] [--macs 0.7 0.5 0.25] [--seeds 0 1 2] [--samples 512]
        [--options "criterion=energy scope=local" ...] [--set key=value ...]
        [--peers torch-pruning onnxsim] [--out docs/accuracy-real.md] [--only-page]

What FOLDER holds: `tools/accuracy_cases.py`. `--options` are options of `graphprune.compile` (JSON
values), each text one method; `--set` adds to all of them. Seeds choose the calibration inputs. Each
run is a process of its own and a record of the JSON file; what is there already is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from tools._common import Record, Results, environment, run_child, table, write_page

ORIGINAL, PLAIN = "original", "L2, without data"
NO_SEED = (ORIGINAL, PLAIN, "torch-pruning")


def options_of(text: str) -> dict[str, Any]:
    """`key=value key=value` with JSON values, or words, as keywords of `graphprune.compile`."""
    found: dict[str, Any] = {}
    for part in text.split():
        key, _, value = part.partition("=")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def run_one(job: Record) -> Record:
    """Prune and score once; what a process of its own does."""
    from tools.accuracy_cases import CASES
    from tools.accuracy_peers import NotReached, macs, onnxsim, torch_pruning

    packages, method, budget = Path(job["packages"]), job["method"], job["macs"]
    case = CASES[job["name"]](packages, Path(job["cache"]))
    feeds = [] if method in NO_SEED else case.calibrate(job["seed"], job["samples"])
    record: Record = {"metric": case.metric, "published": case.published}
    started = time.process_time()
    try:
        if method == ORIGINAL:
            model: Any = case.path
        elif method == "torch-pruning":
            if case.module is None:
                raise NotReached("not available as a torch module")
            model = torch_pruning(case.module, budget, packages)
        elif method == "onnxsim":
            model = onnxsim(case.path, feeds, budget, case.dims, packages)
        else:
            model = _ours(case, job, feeds, record)
    except NotReached as error:
        return {**record, "outcome": "no result", "reason": str(error)}
    record["seconds"] = round(time.process_time() - started, 1)
    record["macs"] = round(macs(model, case.dims) / macs(case.path, case.dims), 4)
    return {**record, "outcome": "done", "scores": _scores(case, model)}


def _ours(case: Any, job: Record, feeds: Any, record: Record) -> Any:
    import graphprune
    from graphprune.errors import GraphpruneError
    from tools.accuracy_peers import NotReached

    settings = {"macs": job["macs"], "bench": False, "dims": dict(case.dims)}
    if job["method"] != PLAIN:
        settings |= {"calib": feeds, "calib_samples": job["samples"], "seed": job["seed"]}
        settings |= options_of(job["method"]) | options_of(" ".join(job["set"]))
    try:
        result = graphprune.compile(str(case.path), **settings)
    except GraphpruneError as error:
        raise NotReached(f"{type(error).__name__}: {error}") from error
    record["stages_s"] = dict(result.report.timings_s)
    drift = result.report.drift
    if drift is not None:
        record["drift"] = [d["relative"] for d in (drift.uncompensated[0], drift.outputs[0])]
    return result.model


def _scores(case: Any, model: Any) -> dict[str, float]:
    from graphprune.onnx.load import load
    from graphprune.onnx.runtime import Session

    with Session(load(model).model if hasattr(model, "SerializeToString") else model) as session:
        scores = case.score(session.run)
    return {name: round(value, 5) for name, value in scores.items()}


# -- all of it ------------------------------------------------------------------------------------


def jobs(given: argparse.Namespace) -> Iterator[tuple[str, Record]]:
    """(key, job) of every run that is asked for, a whole round of models a seed."""
    methods = [PLAIN, *given.options, *given.peers]
    fixed = {"packages": str(given.packages.resolve()), "cache": str(given.cache.resolve())}
    fixed |= {"samples": given.samples, "set": given.set}
    for name in given.names:
        yield (
            f"{name} | {ORIGINAL}",
            {**fixed, "name": name, "method": ORIGINAL, "macs": 1, "seed": 0},
        )
    for seed in given.seeds:
        for budget in given.macs:
            for name in given.names:
                for method in methods:
                    if method in NO_SEED and seed != given.seeds[0]:
                        continue
                    key = f"{name} | {method} | {budget:g}"
                    key += "" if method in NO_SEED else f" | {seed}"
                    job = {"name": name, "method": method, "macs": budget, "seed": seed}
                    yield key, {**fixed, **job}


HEADER = ("method", "--macs", "metric", "median", "range", "against original", "MACs", "seconds")


def rows(records: dict[str, Record], name: str) -> Iterator[list[object]]:
    """One row for each method and budget of a model, budgets together."""
    parts = {k: k.split(" | ") for k in records if k.startswith(f"{name} | ")}
    base = records[f"{name} | {ORIGINAL}"]["scores"]
    found: dict[tuple[str, str], list[Record]] = {}
    for key, part in parts.items():
        if part[1] != ORIGINAL:
            found.setdefault((part[2], part[1]), []).append(records[key])
    for (budget, method), runs in sorted(found.items(), key=lambda i: (-float(i[0][0]), i[0][1])):
        done = [r for r in runs if r["outcome"] == "done"]
        if not done:
            yield [method, budget, "", runs[0]["outcome"], runs[0]["reason"], "", "", ""]
        for metric in done[0]["scores"] if done else ():
            values = sorted(r["scores"][metric] for r in done)
            middle = median(values)
            span = f"{values[0]:.4f} to {values[-1]:.4f} ({len(values)} seeds)"
            yield [
                method,
                budget,
                metric,
                f"{middle:.4f}",
                span if len(values) > 1 else "one run",
                f"{middle - base[metric]:+.4f}",
                f"{median(r['macs'] for r in done):.3f}",
                f"{median(r['seconds'] for r in done):.0f}",
            ]


def page(records: dict[str, Record], given: argparse.Namespace) -> Iterator[str]:
    """The parts of the page."""
    yield (
        "Written by `tools/accuracy.py` (how to repeat it: its first lines, and those of "
        "`tools/accuracy_cases.py`, which names the models, the data and the metrics). No training, "
        f"no labels; at most {given.samples} calibration inputs apart from the scored ones. MACs are "
        "the share that is left, counted alike for all methods. Seconds are CPU seconds of one "
        "thread for all of a compile: analysis, certificate and refit. `L2, without data` is "
        "`compile(macs=R)`; a row of options is the same with calibration inputs and these options. "
        "Where a range says `one run`, the spread is not known. The probe of the embedders (ratings of "
        "tweets, read off by ridge regression) sees little of the damage: the cosine is the measure."
    )
    yield "\n".join(environment())
    for name in given.names:
        first = records.get(f"{name} | {ORIGINAL}")
        if first is None or first["outcome"] != "done":
            continue
        said = ", ".join(f"{metric} {value:.4f}" for metric, value in first["scores"].items())
        other = first.get("published")
        said += f" (on another draw of such data {other:g})" if other else ""
        yield f"## {name}\n\nOriginal: {said}.\n\n" + table(
            HEADER, rows(records, name), (1, 3, 5, 6, 7)
        )


def main() -> int:
    """Run what is missing, write the page."""
    parser = argparse.ArgumentParser(prog="python -m tools.accuracy", description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--packages", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--names", nargs="+")
    parser.add_argument("--macs", nargs="+", type=float, default=[0.7, 0.5, 0.25])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--options", nargs="*", default=["criterion=energy scope=local"])
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--peers", nargs="*", default=["torch-pruning", "onnxsim"])
    parser.add_argument("--timeout", type=float, default=1200)
    parser.add_argument("--again", action="store_true", help="also what the JSON file has")
    parser.add_argument("--only-page", action="store_true", help="of what the JSON file has")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run_one(json.loads(given.one))))
        return 0
    if given.packages is None or given.cache is None:
        parser.error("--packages and --cache are needed")
    from tools.accuracy_cases import CASES

    given.names = given.names or list(CASES)
    given.cache.mkdir(parents=True, exist_ok=True)
    results = Results(given.json)
    for key, job in jobs(given):
        if given.only_page or (key in results.records and not given.again):
            continue
        record = run_child(
            "tools.accuracy", ["--one", json.dumps(job)], timeout=given.timeout, memory_gb=8
        )
        results.add(key, record)
        print(key, record.get("scores") or record.get("reason"), record["wall_s"], flush=True)
    if given.out:
        write_page(
            given.out, "Accuracy of real models without training", page(results.records, given)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
