"""Prune architectures straight from torch and say what came out, Torch-Pruning beside it.

    python -m tools.torch_sweep [--families torchvision timm ...] [--names GLOB ...]
        [--settings heads dims] [--beside FOLDER] [--json FILE] [--out docs/results/torch-coverage.md]

Every model is built with live random weights, pruned, certified against its masked original in
float64, and run forwards and backwards at another batch size, in a process of its own with limits of
time and memory. `--beside` names a folder into which Torch-Pruning was installed
(`pip install --no-deps --target FOLDER torch-pruning`); without it that column stays empty. With
`--json` an interrupted sweep goes on where it stopped; `--again OUTCOME` repeats what ended so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools._common import Record, Results, environment, run_child, share, table, totals, write_page
from tools.torch_models import beside, build, names_of, trains, where

FAMILIES = ("torchvision", "segmentation", "video", "detection", "transformers", "timm")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "heads": {"channels": 0.5, "align": 1, "residual": True},
    "dims": {"channels": 0.5, "head_dims": 0.5, "align": 1},
}
BESIDE = "torch-pruning"


# -- one model, in a process of its own ------------------------------------------------------------


def examine(model: str, settings: Mapping[str, Any]) -> Record:
    """Prune one model and train it a step. Never raises."""
    from graphprune.errors import CertificateError, GraphpruneError, NothingGainedError

    try:
        return _examined(model, settings)
    except GraphpruneError as error:
        kinds: dict[type, str] = {CertificateError: "failed", NothingGainedError: "nothing"}
        return {"outcome": kinds.get(type(error), "refused"), "reason": str(error)[:400]}
    except Exception as error:
        return {"outcome": "error", "reason": where(error)}


def _examined(model: str, settings: Mapping[str, Any]) -> Record:
    from graphprune.torch import prune
    from graphprune.torch.trace import analyse_captured

    sample = build(model)
    result = prune(sample.module, (), dict(sample.inputs), **settings)
    start = time.process_time()
    analyse_captured(result.captured)
    analysis = time.process_time() - start
    report = result.report
    certificate = report.certificate or {}
    record = {
        "outcome": "pruned",
        "reason": "",
        "kind": result.kind,
        "why": result.why,
        "status": certificate.get("status"),
        "rel_error": certificate.get("max_rel_error"),
        "gradient_error": certificate.get("gradient_error"),
        "params": [report.original.params, report.pruned.params],
        "macs": [report.original.macs, report.pruned.macs],
        "groups": len(report.groups),
        "analysis_s": round(analysis, 3),
        "timings_s": {s: round(t, 3) for s, t in report.timings_s.items()},
        "notes": list(result.captured.notes),
    }
    if not result.captured.dynamic:
        return {**record, "trains": "one batch size"}
    return {**record, "trains": trains(result.module, sample.inputs)}


# -- all models ------------------------------------------------------------------------------------


def sweep(given: argparse.Namespace) -> Results:
    """Examine what is new or to be done again."""
    results = Results(given.json)
    models = [f"{f}:{n}" for f in given.families for n in names_of(f)]
    models = [m for m in models if any(fnmatchcase(m.partition(":")[2], g) for g in given.names)]
    settings = [*given.settings, *([BESIDE] if given.beside else [])]
    for model in models:
        for setting in settings:
            key = f"{setting} :: {model}"
            known = results.records.get(key)
            if known is not None and given.again not in ("all", known["outcome"]):
                continue
            arguments = ["--one", model, "--settings", setting]
            if setting == BESIDE:
                arguments += ["--beside", str(Path(given.beside).resolve())]
            limits = {"timeout": given.timeout, "memory_gb": given.memory_gb}
            record = run_child("tools.torch_sweep", arguments, **limits)
            results.add(key, record)
            print(f"{key}: {line(record)}", flush=True)
    return results


def line(r: Record) -> str:
    if r["outcome"] != "pruned":
        return f"{r['outcome'].upper()} {r['reason']} ({r['wall_s']} s)"
    params, macs = (share(r[k][1], r[k][0]) for k in ("params", "macs"))
    kind = f"{r['kind']} ({r['why']}), " if "kind" in r else ""
    return f"{kind}params {params}, MACs {macs}, analysis {r['analysis_s']} s ({r['wall_s']} s)"


# -- the page --------------------------------------------------------------------------------------

INTRODUCTION = """
Written by `tools/torch_sweep.py`. Every model was pruned by `graphprune.torch.prune` with the options
in the heading, compared with its masked original in float64 (outputs and gradients) and run forwards
and backwards at another batch size. *kept as*: the user's own class, or a graph. *capture* is
torch.export's own time, in wall seconds; *analysis* is CPU seconds of one thread, in which the
dependency graph is made, for Torch-Pruning `build_dependency` and the enumeration of all groups;
*all* is its `MetaPruner` made and stepped once.
"""

HEADER = (
    *("model", "kept as", "certificate", "error", "parameters", "MACs", "trains"),
    *("capture s", "analysis s", "decide s"),
)


def page(records: Mapping[str, Record]) -> Iterator[str]:
    """One section for each setting."""
    split: dict[str, dict[str, Record]] = {}
    for key, record in sorted(records.items()):
        setting, _, name = key.partition(" :: ")
        split.setdefault(setting, {})[name] = record
    for setting in SETTINGS:
        if setting in split:
            yield from _section(setting, split[setting])
    if BESIDE in split:
        yield from _comparison(split.get("heads", {}), split[BESIDE])


def _section(setting: str, found: Mapping[str, Record]) -> Iterator[str]:
    options = ", ".join(f"{k}={v}" for k, v in SETTINGS[setting].items())
    good = {n: r for n, r in found.items() if r["outcome"] == "pruned"}
    bad = {n: r for n, r in found.items() if r["outcome"] != "pruned"}
    counts = ", ".join(f"{n} {k}" for k, n in totals(found.values(), "outcome").items())
    own = sum(r["kind"] == "module" for r in good.values())
    trains = sum(r["trains"] == "yes" for r in good.values())
    yield f"## `{options}`"
    yield (
        f"{len(found)} models: {counts}. The user's own class kept: {own} of {len(good)}. "
        f"Forward and backward at another batch size: {trains} of {len(good)}."
    )
    if bad:
        rows = [(n, r["outcome"], r["reason"]) for n, r in bad.items()]
        yield "Not pruned:\n\n" + table(("model", "outcome", "reason"), rows)
    graphs = [(n, r["why"]) for n, r in good.items() if r["kind"] != "module"]
    if graphs:
        yield "Kept as a graph:\n\n" + table(("model", "why"), graphs)
    yield table(HEADER, [_row(n, r) for n, r in good.items()], range(3, len(HEADER)))


def _row(name: str, r: Record) -> Sequence[object]:
    kind = {"module": "own class"}.get(r["kind"], r["kind"])
    costs = [share(r[k][1], r[k][0]) for k in ("params", "macs")]
    error = "" if r["rel_error"] is None else f"{r['rel_error']:.0e}"
    times = r["timings_s"]
    seconds = [f"{times.get('capture', 0):.1f}", f"{r['analysis_s']:.2f}", f"{times['decide']:.1f}"]
    return [name, kind, r["status"], error, *costs, r["trains"], *seconds]


def _comparison(ours: Mapping[str, Record], theirs: Mapping[str, Record]) -> Iterator[str]:
    both = {n: (ours[n], r) for n, r in theirs.items() if n in ours}
    pruned = [sum(r[i]["outcome"] == "pruned" for r in both.values()) for i in (0, 1)]
    yield "## Beside Torch-Pruning"
    yield (
        f"{len(both)} models, channels halved: graphprune prunes {pruned[0]}, Torch-Pruning "
        f"{version_of(theirs)} {pruned[1]}."
    )
    header = (
        *("model", "MACs", "Torch-Pruning: MACs", "analysis s"),
        *("Torch-Pruning: analysis s", "ratio", "all s", "its reason"),
    )
    rows = []
    for name, (one, two) in both.items():
        costs = [share(r["macs"][1], r["macs"][0]) if "macs" in r else "" for r in (one, two)]
        seconds = [r.get("analysis_s") for r in (one, two)]
        ratio = f"{seconds[1] / seconds[0]:.1f}" if all(seconds) else ""
        reason = two["reason"] if two["outcome"] != "pruned" else ""
        rows.append((name, *costs, *seconds, ratio, two.get("prune_s"), reason))
    yield table(header, rows, range(1, 7))


def version_of(records: Mapping[str, Record]) -> str:
    """Of Torch-Pruning, as the records note it."""
    return next((r["version"] for r in records.values() if "version" in r), "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.torch_sweep", description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--names", nargs="+", default=["*"], metavar="GLOB")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--beside", metavar="FOLDER", help="where Torch-Pruning is installed")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one model")
    parser.add_argument("--memory-gb", type=float, default=8, help="for one model")
    parser.add_argument("--again", default="", metavar="OUTCOME")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        (setting,) = given.settings
        if setting == BESIDE:
            print(json.dumps(beside(given.one, given.beside)))
        else:
            print(json.dumps(examine(given.one, SETTINGS[setting])))
        return 0
    results = sweep(given)
    if given.out:
        packages = "- " + ", ".join(f"{p} {version(p)}" for p in ("torch", "timm", "transformers"))
        parts = [INTRODUCTION, "\n".join([*environment(), packages]), *page(results.records)]
        write_page(given.out, "Coverage of torch models", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
